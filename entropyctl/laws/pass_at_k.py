"""Pass@k without bias, and whether the majority is right (2107.03374)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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


def majority_correct(counts: Sequence[int], correct: Sequence[bool]) -> float | None:
    """Whether the most frequent answer of a problem is correct.

    When m answers tie for it, the fraction of the m that is correct: what a fair draw among them scores on average.
    (verl lets the answer that was seen first win.)

    Args:
        counts: how often each distinct answer was given.
        correct: whether it is correct.

    Returns:
        1, 0 or a fraction; None when there are no answers.
    """
    if not counts:
        return None
    most = max(counts)
    tied = [right for count, right in zip(counts, correct, strict=True) if count == most]
    return sum(tied) / len(tied)
