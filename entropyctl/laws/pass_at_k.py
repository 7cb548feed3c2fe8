"""Pass@k without bias (2107.03374), and how far sampling alone moves it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from entropyctl.laws._binomial import binomial

Array = npt.NDArray[Any]


def pass_curve(n: Array, c: Array, longest: int) -> Array:
    """Pass@k of each problem for every k from 1 to `longest`.

    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{j=0}^{k-1} (n - c - j) / (n - j)

    Paper: Evaluating Large Language Models Trained on Code, arXiv 2107.03374, equation 1. Their listing multiplies
    over i = n-c+1 .. n instead; both products are the same number, and this one gives all k at once. It is the
    mean of "any of k is correct" over all subsets of k responses, so no bootstrap is needed; best@k of verl draws
    with replacement and is lower (n = 8, c = 1: 0.651 where pass@8 is 1).

    Args:
        n: `[P]` responses of each problem.
        c: `[P]` correct ones among them.
        longest: the largest k, at most the smallest n.

    Returns:
        `[P, longest]` pass@1, pass@2, ...

    Raises:
        ValueError: k is above some n, where pass@k is not defined.
    """
    n_P, c_P = np.asarray(n, np.int64), np.asarray(c, np.int64)
    if (c_P < 0).any() or (c_P > n_P).any():
        raise ValueError("c must lie between 0 and n")
    if len(n_P) and not 1 <= longest <= n_P.min():
        raise ValueError(f"k must lie between 1 and the smallest n, {n_P.min()}; it is {longest}")
    j_K = np.arange(longest)
    wrong_PK = np.maximum(n_P[:, None] - c_P[:, None] - j_K, 0)
    return 1.0 - np.cumprod(wrong_PK / (n_P[:, None] - j_K), axis=1)


def pass_at_k(n: Array, c: Array, k: int) -> Array:
    """Pass@k of each problem; see `pass_curve`.

    Args:
        n: `[P]` responses of each problem.
        c: `[P]` correct ones among them.
        k: responses that are drawn.

    Returns:
        `[P]` pass@k.

    Raises:
        ValueError: k is above some n.
    """
    return pass_curve(n, c, k)[:, -1]


def sampling_variance(n: Array, c: Array, longest: int) -> Array:
    """Variance of each problem's pass@k over other draws of n responses to the same problem.

    Var over c' ~ Binomial(n, p) of pass@k(n, c'), summed over all c', with p = (c + 1/2) / (n + 1) (Jeffreys), so that
    a problem that was always or never solved is not taken for one that always or never will be.

    Args:
        n: `[P]` responses of each problem.
        c: `[P]` correct ones among them.
        longest: the largest k, at most the smallest n.

    Returns:
        `[P, longest]` variances for k = 1, 2, ...
    """
    n_P, c_P = np.asarray(n, np.int64), np.asarray(c, np.int64)
    found_PK = np.zeros((len(n_P), longest))
    for size in np.unique(n_P):
        counts_C = np.arange(size + 1)
        curve_CK = pass_curve(np.full(size + 1, size), counts_C, longest)
        seen, where_P = np.unique(c_P[n_P == size], return_inverse=True)
        weight_SC = np.stack([binomial(int(size), (c + 0.5) / (size + 1)) for c in seen])
        mean_SK = weight_SC @ curve_CK
        found_PK[n_P == size] = np.maximum(weight_SC @ curve_CK**2 - mean_SK**2, 0.0)[where_P]
    return found_PK
