"""Choosing tokens by rank, so that the order in which rows stand decides nothing."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.masks._compiled import Array


def lowest(values_M: Array, token_key_M: Array, count: int) -> Array:
    """True for the `count` smallest values; among equal ones the smallest keys come first.

    Args:
        values_M: what is ranked.
        token_key_M: uint64, a token's identity.
        count: how many to choose; all of them where there are not more.

    Returns:
        `[M]` bool.
    """
    if count <= 0 or count >= len(values_M):
        return np.full(len(values_M), count > 0)
    bound = np.partition(values_M, count - 1)[count - 1]
    chosen_M = values_M < bound
    ties = np.flatnonzero(values_M == bound)
    first = np.argsort(token_key_M[ties], kind="stable")[: count - int(chosen_M.sum())]
    chosen_M[ties[first]] = True
    return chosen_M


def quantile(values_M: Array, q: float) -> float:
    """The q-quantile by linear interpolation, as numpy and torch define it; `values_M` must not be empty."""
    place = q * (len(values_M) - 1)
    # A product that should be whole misses it by rounding; the quantile must then be the value itself, for `>=`.
    if abs(place - round(place)) < 1e-9 * len(values_M):
        place = round(place)
    below = math.floor(place)
    above = min(below + 1, len(values_M) - 1)
    found = np.partition(values_M, (below, above))
    return float(found[below] + (place - below) * (found[above] - found[below]))


def row_quantiles(values_M: Array, row_M: Array, q: float) -> Array:
    """The q-quantile of each token's own row, by linear interpolation.

    Args:
        values_M: finite numbers.
        row_M: the row that each belongs to.
        q: in [0, 1].

    Returns:
        `[M]`, the same for all tokens of a row.
    """
    found_M = np.empty(len(values_M))
    order = np.argsort(row_M, kind="stable")
    for at in np.split(order, np.flatnonzero(np.diff(row_M[order])) + 1):
        if len(at):
            found_M[at] = quantile(values_M[at], q)
    return found_M
