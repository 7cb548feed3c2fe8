"""How the pass rates of problems are distributed, and how they moved between two evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 10
KINDS = ("all_wrong", "mixed", "all_right")


def distribution(n: Array, c: Array) -> dict[str, Any]:
    """How many problems are never, sometimes and always solved, and a histogram of the pass rates c/n.

    arXiv 2602.03392 looks at a policy by these: training drives problems to both ends, and only those in between teach.

    Args:
        n: `[P]` responses of each problem.
        c: `[P]` correct ones among them.

    Returns:
        `all_wrong` (c = 0), `all_right` (c = n) and `mixed` in numbers of problems, and `histogram`: the mixed ones in
        ten bins of equal width, each without its upper end.
    """
    kind_P = _kind(n, c)
    counts = np.bincount(kind_P, minlength=len(KINDS)).tolist()
    rates = (np.asarray(c) * BINS // np.asarray(n))[kind_P == 1]  # whole numbers: 3/10 falls into the bin from 0.3
    return dict(zip(KINDS, counts, strict=True)) | {"histogram": np.bincount(rates, minlength=BINS).tolist()}


def movement(n_before: Array, c_before: Array, n_after: Array, c_after: Array, level: float = 0.05) -> dict[str, Any]:
    """How the pass rates of the same problems moved from one evaluation to another.

    A rate moves by sampling alone. `rose_beyond_noise` and `fell_beyond_noise` count the problems for which Fisher's
    exact test says that it did not, at a false discovery rate of `level` over all problems (Benjamini and Hochberg).

    Args:
        n_before: `[P]` responses of each problem before.
        c_before: `[P]` correct ones among them.
        n_after: `[P]` responses after.
        c_after: `[P]` correct ones among them.
        level: share of false ones that is accepted among those called beyond noise.

    Returns:
        `from_to`: numbers of problems by kind before and after (all_wrong, mixed, all_right); `rose`, `fell`, `same`;
        `rose_beyond_noise`, `fell_beyond_noise`; `beyond_noise`: the places of those problems.
    """
    before_P, after_P = _kind(n_before, c_before), _kind(n_after, c_after)
    table = np.bincount(before_P * len(KINDS) + after_P, minlength=len(KINDS) ** 2).reshape(len(KINDS), -1)
    # Compared as whole numbers, so that 1/3 and 2/6 are the same.
    step_P = np.sign(np.asarray(c_after) * np.asarray(n_before) - np.asarray(c_before) * np.asarray(n_after))
    beyond_P = discoveries(fisher_exact(n_before, c_before, n_after, c_after), level)
    return {
        "from_to": {
            before: dict(zip(KINDS, row, strict=True)) for before, row in zip(KINDS, table.tolist(), strict=True)
        },
        "rose": int(np.count_nonzero(step_P > 0)),
        "fell": int(np.count_nonzero(step_P < 0)),
        "same": int(np.count_nonzero(step_P == 0)),
        "rose_beyond_noise": int(np.count_nonzero(beyond_P & (step_P > 0))),
        "fell_beyond_noise": int(np.count_nonzero(beyond_P & (step_P < 0))),
        "beyond_noise": np.flatnonzero(beyond_P).tolist(),
    }


def _kind(n: Array, c: Array) -> Array:
    """`[P]` 0 where nothing is correct, 2 where everything is, else 1."""
    return np.where(np.asarray(c) == 0, 0, np.where(np.asarray(c) == np.asarray(n), 2, 1))


def fisher_exact(n_a: Array, c_a: Array, n_b: Array, c_b: Array) -> Array:
    """`[P]` two-sided p that c_a of n_a and c_b of n_b responses are draws of one rate (Fisher's exact test).

    Given the sum of correct ones, how many of them fall to a is hypergeometric; p is the probability of all splits that
    are no likelier than the one seen.
    """
    from scipy.special import gammaln

    n_a, c_a, n_b, c_b = (np.asarray(values, np.int64)[:, None] for values in (n_a, c_a, n_b, c_b))
    total, split_X = c_a + c_b, np.arange(int(n_a.max(initial=0)) + 1)
    possible = (split_X <= n_a) & (split_X <= total) & (total - split_X <= n_b)

    def log_choose(n: Array, k: Array) -> Array:
        k = np.clip(k, 0, n)
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    log_p = log_choose(n_a, split_X) + log_choose(n_b, total - split_X) - log_choose(n_a + n_b, total)
    seen = np.take_along_axis(log_p, c_a, axis=1)
    as_rare = possible & (log_p <= seen + 1e-9)  # splits that are exactly as likely differ in the last bits
    return np.minimum(np.where(as_rare, np.exp(log_p), 0.0).sum(axis=1), 1.0)


def discoveries(p_P: Array, level: float) -> Array:
    """`[P]` which hypotheses to reject so that at most the share `level` of those is expected to be true.

    Paper: Benjamini and Hochberg, Controlling the false discovery rate, 1995: the i smallest p for the largest i with
    p_(i) <= level i / P.
    """
    order = np.argsort(p_P, kind="stable")
    passing = np.flatnonzero(p_P[order] <= level * np.arange(1, len(p_P) + 1) / max(len(p_P), 1))
    found_P = np.zeros(len(p_P), bool)
    found_P[order[: passing[-1] + 1 if len(passing) else 0]] = True
    return found_P
