"""Choosing tokens by rank, so that the order in which rows stand decides nothing."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.masks._compiled import Array

# Of an array this long one value in 64 is looked at to guess where a rank lies.
LONG = 65_536
STRIDE = 64


def counted(valid_N: Array, *values_N: Array) -> list[Array]:
    """The values of the counted tokens, in the order that they are given; copies only where a token is not counted."""
    if np.all(valid_N):
        return [np.asarray(part_N) for part_N in values_N]
    at = np.flatnonzero(valid_N)
    return [np.asarray(part_N)[at] for part_N in values_N]


def spread(values_M: Array, valid_N: Array, elsewhere: float) -> Array:
    """`[N]` the counted tokens' values in their places and `elsewhere` in the others: `counted`, undone."""
    if np.all(valid_N):
        return values_M
    found_N = np.full(len(valid_N), elsewhere, values_M.dtype)
    found_N[valid_N] = values_M
    return found_N


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
    bound = ranked(values_M, count - 1)
    chosen_M = values_M < bound
    ties = np.flatnonzero(values_M == bound)
    missing = count - int(np.count_nonzero(chosen_M))
    chosen_M[ties[np.argpartition(token_key_M[ties], missing - 1)[:missing]]] = True
    return chosen_M


def ranked(values_M: Array, rank: int) -> float:
    """The value that stands at `rank`, from 0, among the sorted ones.

    In a long array a sample says between which two values it will lie (Floyd and Rivest, 1975), and only those
    between are ranked; where the sample misled, all are.
    """
    if len(values_M) >= LONG:
        sample = np.sort(values_M[::STRIDE])
        place = rank / STRIDE
        slack = 4 * math.sqrt(place) + 4
        low = sample[max(int(place - slack), 0)] if place > slack else -math.inf
        high = sample[int(place + slack)] if place + slack < len(sample) else math.inf
        below = int(np.count_nonzero(values_M < low))
        between = values_M[(values_M >= low) & (values_M <= high)]
        if below <= rank < below + len(between):
            values_M, rank = between, rank - below
    return float(np.partition(values_M, rank)[rank])


def quantile(values_M: Array, q: float) -> float:
    """The q-quantile by linear interpolation, as numpy and torch define it; `values_M` must not be empty."""
    below, above, share = (part.item() for part in _places(np.array(len(values_M)), q))
    low = ranked(values_M, below)
    return low if above == below else low + share * (ranked(values_M, above) - low)


def row_quantiles(values_M: Array, row_M: Array, q: float) -> Array:
    """The q-quantile of each token's own row, by linear interpolation.

    Args:
        values_M: finite numbers.
        row_M: the row that each belongs to.
        q: in [0, 1].

    Returns:
        `[M]` float64, the same for all tokens of a row.
    """
    if (row_M[1:] < row_M[:-1]).any():
        order = np.argsort(row_M, kind="stable")
        found_M = np.empty(len(values_M))
        found_M[order] = row_quantiles(values_M[order], row_M[order], q)
        return found_M
    first_B = np.append(np.zeros(min(len(row_M), 1), np.int64), np.flatnonzero(row_M[1:] != row_M[:-1]) + 1)
    length_B = np.diff(first_B, append=len(row_M))
    sorted_M = values_M.copy()
    for row in np.split(sorted_M, first_B[1:]):
        row.sort()
    below_B, above_B, share_B = _places(length_B, q)
    low_B, high_B = (sorted_M[first_B + place_B].astype(np.float64) for place_B in (below_B, above_B))
    return np.repeat(low_B + share_B * (high_B - low_B), length_B)


def _places(length: Array, q: float) -> tuple[Array, Array, Array]:
    """The two ranks between which the q-quantile of `length` values lies, and how far it lies beyond the first."""
    place = q * (length - 1)
    # A product that should be whole misses it by rounding; the quantile must then be the value itself, for `>=`.
    whole = np.round(place)
    place = np.where(np.abs(place - whole) < 1e-9 * length, whole, place)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, length - 1), place - below
