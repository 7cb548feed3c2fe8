"""The discriminator S*: does reinforcing a token raise or lower the entropy?

`N` tokens. Source: "Entropy dynamics" (arXiv 2602.03392), Lemma 3.1 to Theorem 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def s_star(logprobs_N: Array, entropies_N: Array) -> Array:
    """S* of the sampled tokens.

    S*_t = p_k (H_t + log p_k), with k the sampled token (2602.03392, Theorem 3.2: dH = -eps S* + O(eps^2) when
    the logit of k grows by eps). A token of probability 0 has S* = 0.

    Args:
        logprobs_N: log p_k, nats, at most 0.
        entropies_N: H of the distribution, nats.

    Returns:
        S*, `[N]`; at least -1/e.
    """
    with np.errstate(invalid="ignore"):
        score_N = np.exp(logprobs_N) * (entropies_N + logprobs_N)
    return np.where(np.isneginf(logprobs_N), 0.0, score_N)


def expected_score(entropies_N: Array, sum_p2_N: Array, sum_p2_logp_N: Array) -> Array:
    """E[S], the mean of S over the vocabulary.

    E_{i~p}[S_i] = H sum_i p_i^2 + sum_i p_i^2 log p_i = Cov_{i~p}(p_i, log p_i) >= 0; zero exactly where p is
    uniform on its support.

    Args:
        entropies_N: H, nats.
        sum_p2_N: sum_i p_i^2.
        sum_p2_logp_N: sum_i p_i^2 log p_i, nats.

    Returns:
        E[S], `[N]`, nats.
    """
    return entropies_N * sum_p2_N + sum_p2_logp_N


def centred_score(s_star_N: Array, expected_s_N: Array) -> Array:
    """S* - E[S], the score whose sign says what an on-policy step does to the entropy (Theorem 3.3).

    Args:
        s_star_N: S*, nats.
        expected_s_N: E[S], nats.

    Returns:
        S* - E[S], `[N]`; its mean over tokens drawn from p is 0.
    """
    return s_star_N - expected_s_N


def s_star_bounds(p_N: Array, vocabulary: int | None = None) -> tuple[Array, Array | None]:
    """Between which values S* of a token of probability p lies, whatever the rest of the distribution.

    p (1-p) log(p / (1-p)) <= S* <= p (1-p) log(p / (1-p)) + p (1-p) log(V-1)

    H is least where all the rest stands on one token, -p log p - (1-p) log(1-p), and largest where it is spread over
    the other V-1, (1-p) log(V-1) more. A token of probability 0 or 1 has S* = 0.

    Args:
        p_N: the token's probability.
        vocabulary: V, at least 2; without it there is no upper bound.

    Returns:
        The lower and the upper bound, `[N]`, nats.
    """
    inside_N = (p_N > 0) & (p_N < 1)
    odds_N = np.where(inside_N, p_N, 0.5)
    low_N = np.where(inside_N, odds_N * (1 - odds_N) * (np.log(odds_N) - np.log1p(-odds_N)), 0.0)
    return low_N, None if vocabulary is None else low_N + p_N * (1 - p_N) * np.log(vocabulary - 1)
