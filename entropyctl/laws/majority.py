"""Consensus: whether the most frequent of k answers is correct."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from entropyctl.laws._binomial import binomial

Array = npt.NDArray[Any]


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


def consensus_at_k(counts: Sequence[int], correct: Sequence[bool], unanswered: int, k: int) -> float:
    """cons@k: the mean of `majority_correct` over all subsets of k of a problem's n responses.

    Without bias for the consensus of k responses, as pass@k is for "any of k is correct"; verl and others draw k with
    replacement instead. Ties are shared, responses without an answer have no vote, and a subset without any vote
    counts as not correct.

    How it is computed, exactly and without listing subsets: draw response by response with probability p = k/n, so that
    the count of answer i is binomial, X_i ~ b_i, and all are independent; given that k are drawn in total, the subset
    is uniform. Answer j wins a vote of t with s others at t in 1/(1+s) of the cases, which is the integral of u^s, so

        cons@k = 1/P(k) [z^k] (q + p z)^unanswered sum_t sum_j int_0^1 b_j(t) z^t prod_{i != j} f_i du
        f_i    = sum_{x<t} b_i(x) z^x + u b_i(t) z^t        j over the correct answers

    The integrand is a polynomial in u (Gauss-Legendre is exact) and in z (its coefficient is read off at the roots of
    unity). All terms are probabilities, so nothing cancels.

    Args:
        counts: how often each distinct answer was given.
        correct: whether it is correct.
        unanswered: responses without an answer.
        k: responses that vote, from 1 to n = sum of counts + unanswered.

    Raises:
        ValueError: k is out of that range.
    """
    n = sum(counts) + unanswered
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n = {n}; it is {k}")
    rights = [m for m, right in zip(counts, correct, strict=True) if right]
    wrongs = Counter(m for m, right in zip(counts, correct, strict=True) if not right)
    if k == n:
        return majority_correct(counts, correct) or 0.0
    if k == 1:
        return sum(rights) / n
    p, z_M = k / n, np.exp(2j * np.pi * np.arange(n + 1) / (n + 1))
    terms = {m: binomial(m, p)[:, None] * z_M ** np.arange(m + 1)[:, None] for m in {*rights, *wrongs}}
    below = {m: np.cumsum(term_XM, axis=0) for m, term_XM in terms.items()}
    silent_M = (1 - p + p * z_M) ** unanswered
    found_M = np.zeros(n + 1, complex)
    for t in range(1, min(k, max(rights, default=0)) + 1):
        node_U, weight_U = _unit_interval(min(k // t, len(counts)))
        hit = {m: term_XM[t] if t <= m else np.zeros(n + 1) for m, term_XM in terms.items()}
        f = {m: below[m][min(t - 1, m)] + node_U[:, None] * hit[m] for m in terms}
        rest_UM = math.prod((f[m] ** times for m, times in wrongs.items()), start=np.tile(silent_M, (len(node_U), 1)))
        for j, m in enumerate(rights):
            others = (f[other] for i, other in enumerate(rights) if i != j)
            found_M += weight_U @ math.prod(others, start=hit[m] * rest_UM)
    coefficient = (found_M * z_M ** (-k)).mean().real
    return float(np.clip(coefficient / binomial(n, p)[k], 0.0, 1.0))


def _unit_interval(terms: int) -> tuple[Array, Array]:
    """Nodes and weights that integrate a polynomial of `terms` coefficients over 0 to 1 exactly."""
    node_U, weight_U = np.polynomial.legendre.leggauss((terms + 1) // 2)
    return (node_U + 1) / 2, weight_U / 2
