"""Choosing tokens by rank, so that the order in which rows stand decides nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from entropyctl.dynamics.blocks import blocks
from entropyctl.masks._compiled import Array
from entropyctl.masks._runs import runs

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


def lowest(values_M: Array, token_key_M: Array, count: int, among_M: Array | None = None) -> Array:
    """True for the `count` smallest values; among equal ones the smallest keys come first.

    Args:
        values_M: what is ranked.
        token_key_M: uint64, a token's identity.
        count: how many to choose; all of them where there are not more.
        among_M: bool, those to choose from; all without it.

    Returns:
        `[M]` bool.
    """
    return _first(values_M, token_key_M, count, among_M, largest=False)


def highest(values_M: Array, token_key_M: Array, count: int, among_M: Array | None = None) -> Array:
    """True for the `count` largest values; among equal ones the smallest keys come first. As `lowest`."""
    return _first(values_M, token_key_M, count, among_M, largest=True)


def _first(values_M: Array, token_key_M: Array, count: int, among_M: Array | None, *, largest: bool) -> Array:
    candidates = len(values_M) if among_M is None else int(np.count_nonzero(among_M))
    if count <= 0 or count >= candidates:
        return np.full(len(values_M), count > 0) if among_M is None else among_M & (count > 0)
    chosen_M, near = _around(values_M, count - 1, among_M, largest=largest)
    missing = count - int(np.count_nonzero(chosen_M))
    value = -values_M[near] if largest else values_M[near]
    bound = np.partition(value, missing - 1)[missing - 1]
    before, ties = near[value < bound], near[value == bound]
    chosen_M[before] = True
    missing -= len(before)
    chosen_M[ties[np.argpartition(token_key_M[ties], missing - 1)[:missing]]] = True
    return chosen_M


def ranked(values_M: Array, rank: int) -> float:
    """The value that stands at `rank`, from 0, among the sorted ones."""
    below_M, near = _around(values_M, rank)
    rank -= int(np.count_nonzero(below_M))
    return float(np.partition(values_M[near], rank)[rank])


def _around(values_M: Array, rank: int, among_M: Array | None = None, *, largest: bool = False) -> tuple[Array, Array]:
    """The values that certainly come before the one at a rank, `[M]` bool, and the places of those that may be it.

    In a long array a sample says between which two values it will lie (Floyd and Rivest, 1975), and only those
    between need be ranked; where the sample misled, all of them. The smallest values come first, or the largest.
    """
    before_M = np.zeros(len(values_M), bool)
    if len(values_M) >= LONG:
        sample = values_M[::STRIDE] if among_M is None else values_M[::STRIDE][among_M[::STRIDE]]
        first, last = _bracket(sample, rank, largest=largest)
        comes_before, comes_up_to = (np.greater, np.greater_equal) if largest else (np.less, np.less_equal)
        near = []
        for at in blocks(len(values_M)):
            before, up_to = comes_before(values_M[at], first), comes_up_to(values_M[at], last)
            if among_M is not None:
                before &= among_M[at]
                up_to &= among_M[at]
            before_M[at] = before
            near.append(np.flatnonzero(before ^ up_to) + at.start)
        places, surely = np.concatenate(near), int(np.count_nonzero(before_M))
        if surely <= rank < surely + len(places):
            return before_M, places
        before_M[:] = False
    return before_M, np.arange(len(values_M)) if among_M is None else np.flatnonzero(among_M)


def _bracket(sample: Array, rank: int, *, largest: bool) -> tuple[Any, Any]:
    """Two values between which most probably lies the one at `rank` of what every STRIDE-th was taken from."""
    sample, beyond = np.sort(sample), math.inf
    if largest:
        sample, beyond = sample[::-1], -math.inf
    place = rank / STRIDE
    slack = 4 * math.sqrt(place) + 4
    first = sample[max(int(place - slack), 0)] if place > slack else -beyond
    last = sample[int(place + slack)] if place + slack < len(sample) else beyond
    return first, last


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
    of = runs(row_M)
    if (of.row[1:] <= of.row[:-1]).any():
        order = np.argsort(row_M, kind="stable")
        found_M = np.empty(len(values_M))
        found_M[order] = row_quantiles(values_M[order], row_M[order], q)
        return found_M
    sorted_M = values_M.copy()
    for first, length in zip(of.first.tolist(), of.length.tolist(), strict=True):
        sorted_M[first : first + length].sort()
    below_R, above_R, share_R = _places(of.length, q)
    low_R, high_R = (sorted_M[of.first + place_R].astype(np.float64) for place_R in (below_R, above_R))
    return np.repeat(low_R + share_R * (high_R - low_R), of.length)


def _places(length: Array, q: float) -> tuple[Array, Array, Array]:
    """The two ranks between which the q-quantile of `length` values lies, and how far it lies beyond the first."""
    place = q * (length - 1)
    # A product that should be whole misses it by rounding; the quantile must then be the value itself, for `>=`.
    whole = np.round(place)
    place = np.where(np.abs(place - whole) < 1e-9 * length, whole, place)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, length - 1), place - below
