"""Which tokens a predicted change of entropy comes from: by sign, by quadrant, by difficulty, by the largest.

`N` counted tokens of a step, `B` rows, `D` the five difficulties. What a function returns are sums over tokens, so
that steps add up; divided by the number of tokens they are means. Sources: arXiv 2602.03392 (S*), 2505.22617 (A with
log p, difficulty).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Of a group of n responses with c right: 0 = c, 0 < c/n <= 1/3, 1/3 < c/n < 2/3, 2/3 <= c/n < 1, c = n.
DIFFICULTIES = ("all_wrong", "hard", "medium", "easy", "all_right")
# sign(A) and sign(S* - E[S]); the first and the last lower the entropy.
QUADRANTS = ("positive_above", "positive_below", "negative_above", "negative_below")
# The share of the tokens that is looked at as the largest.
LARGEST = 0.001


class Parts(NamedTuple):
    """A predicted change, summed over the tokens of a step; nats."""

    total: float
    by_sign: Array  # [2] A > 0, A < 0
    by_quadrant: Array  # [4], in the order of QUADRANTS
    by_difficulty: Array  # [D]
    absolute: float  # sum of |dH|
    largest_tokens: int
    largest: float  # the change of these tokens
    largest_absolute: float


class Comoments(NamedTuple):
    """Sums of (A - mean A)(x - mean x), for x = S* - E[S] and x = log p."""

    centred_s: float
    logp: float


def parts(change_N: Array, advantages_N: Array, centred_N: Array, difficulty_N: Array) -> Parts:
    """A predicted change by what it comes from.

    sum_t dH_t = sum_{A > 0} dH_t + sum_{A < 0} dH_t, and so over the four quadrants and over the difficulties

    A token with A = 0 or S* = E[S] changes nothing to first order and is in no quadrant.

    Args:
        change_N: dH of the counted tokens, nats.
        advantages_N: A.
        centred_N: S* - E[S], nats.
        difficulty_N: index into DIFFICULTIES; below 0 where it is not known.
    """
    known_N = difficulty_N >= 0
    size_N = np.abs(change_N)
    largest = largest_tokens(size_N)
    return Parts(
        total=float(change_N.sum()),
        by_sign=np.array([change_N[chosen_N].sum() for chosen_N in (advantages_N > 0, advantages_N < 0)]),
        by_quadrant=np.array([change_N[chosen_N].sum() for chosen_N in quadrants(advantages_N, centred_N)]),
        by_difficulty=np.bincount(difficulty_N[known_N], change_N[known_N], len(DIFFICULTIES)),
        absolute=float(size_N.sum()),
        largest_tokens=len(largest),
        largest=float(change_N[largest].sum()),
        largest_absolute=float(size_N[largest].sum()),
    )


def quadrants(advantages_N: Array, centred_N: Array) -> list[Array]:
    """Which tokens lie in each of QUADRANTS, `[N]` bool each.

    Args:
        advantages_N: A.
        centred_N: S* - E[S], nats.
    """
    above_N, below_N = centred_N > 0, centred_N < 0
    return [side_N & part_N for side_N in (advantages_N > 0, advantages_N < 0) for part_N in (above_N, below_N)]


def largest_tokens(size_N: Array, fraction: float = LARGEST) -> Array:
    """Where the largest ceil(fraction N) values stand; at least one, where there is any.

    Args:
        size_N: what is compared.
        fraction: share of the values, in (0, 1].
    """
    count = int(np.ceil(round(fraction * len(size_N), 9)))  # 0.001 * 7000 is a little above 7 in floating point
    if count >= len(size_N):
        return np.arange(len(size_N))
    return np.argpartition(-size_N, count)[:count]


def comoments(advantages_N: Array, centred_N: Array, logprobs_N: Array) -> Comoments:
    """What the covariances of both papers are made of, over the tokens given.

    cov(A, x) = (1/N) sum_t (A_t - mean A)(x_t - mean x)

    On policy E[S* - E[S]] = 0, so -eta cov(A, S* - E[S]) is the change expected of a step (2602.03392, C.2);
    cov(A, log p) is the statistic of 2505.22617. Either above 0 says that the entropy falls.

    Args:
        advantages_N: A.
        centred_N: S* - E[S], nats.
        logprobs_N: log p of the sampled tokens, nats.
    """
    if not len(advantages_N):
        return Comoments(0.0, 0.0)
    A = advantages_N - advantages_N.mean()
    # Sums, not products of vectors: a BLAS adds in an order that depends on how many threads it has.
    return Comoments(*(float((A * (x_N - x_N.mean())).sum()) for x_N in (centred_N, logprobs_N)))


def difficulty(correct_B: Array, group_B: Array) -> Array:
    """How hard the row's problem is, by the pass rate c/n of its group of n responses.

    all_wrong c = 0; hard c/n <= 1/3; medium 1/3 < c/n < 2/3; easy c/n >= 2/3; all_right c = n

    Args:
        correct_B: True where the response is right.
        group_B: number of the row's group.

    Returns:
        `[B]` index into DIFFICULTIES.
    """
    _, index_B = np.unique(group_B, return_inverse=True)
    n_G = np.bincount(index_B)
    c_G = np.bincount(index_B, correct_B).astype(np.int64)
    level_G = np.where(3 * c_G <= n_G, 1, np.where(3 * c_G < 2 * n_G, 2, 3))
    level_G = np.where(c_G == 0, 0, np.where(c_G == n_G, 4, level_G))
    return level_G[index_B]
