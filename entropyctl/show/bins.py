"""Counts of numbers in bins: of any numbers, in one pass, in memory that does not grow with them.

A number is counted by the sign, the exponent and the first 12 bits of its float32, so that nothing need be known of
the range beforehand; the bins that people see are made of these afterwards.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int_]

_BITS = 12  # of the 24 of a float32's fraction are dropped
_LARGEST = int(np.float32(np.inf).view(np.int32)) >> _BITS
_FLOAT32 = float(np.finfo(np.float32).max)
# A tail of this share of the numbers has no bins of its own where it would take more than half of the width.
_TAIL = 0.001
_MOST_BINS = 24


class Counts:
    """Running counts of numbers. Those of several parts go together by `add`."""

    def __init__(self) -> None:
        self.count = self.null = 0
        self.low, self.high = math.inf, -math.inf
        self._counts: Ints = np.zeros(2 * _LARGEST + 1, np.int64)

    def put(self, values_N: npt.NDArray[np.generic], null_N: npt.NDArray[np.bool_] | None = None) -> None:
        """Count numbers.

        Args:
            values_N: `[N]`; no NaN but where they are null.
            null_N: `[N]`, which of them are null: counted apart.
        """
        if null_N is not None and null_N.any():
            self.null += int(null_N.sum())
            values_N = values_N[~null_N]
        if not len(values_N):
            return
        self.count += len(values_N)
        self.low, self.high = min(self.low, float(values_N.min())), max(self.high, float(values_N.max()))
        places_N = _places(values_N)
        first = int(places_N.min())
        found = np.bincount(places_N - first)
        self._counts[first + _LARGEST : first + _LARGEST + len(found)] += found

    def add(self, other: Counts) -> None:
        """Add those of another part."""
        self.count, self.null = self.count + other.count, self.null + other.null
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._counts += other._counts

    def below(self, edges: list[float]) -> list[int]:
        """How many numbers are below each of some edges, or lie in a lower finest bin than it."""
        totals = np.concatenate([[0], np.cumsum(self._counts)])
        return [int(totals[int(_places(np.array([edge]))[0]) + _LARGEST]) for edge in edges]

    def quantile(self, share: float) -> float:
        """The number nearest to 0 of the finest bin that this share of the numbers reaches."""
        at = int(np.searchsorted(np.cumsum(self._counts), max(share * self.count, 1)))
        return _edge(at - _LARGEST)


def _places(values_N: npt.NDArray[np.generic]) -> Ints:
    """The finest bin of each number: its float32's first bits, as a whole number of the same sign."""
    with np.errstate(over="ignore"):
        bits_N = np.asarray(values_N, np.float32).view(np.int32)
    size_N = (bits_N & np.int32(0x7FFFFFFF)) >> _BITS
    return np.where(bits_N < 0, -size_N, size_N)


def _edge(place: int) -> float:
    """The number nearest to 0 that lies in a finest bin."""
    size = float(np.int32(abs(place) << _BITS).view(np.float32))
    return math.copysign(size, place) if place else 0.0


class Bins(NamedTuple):
    """Bins of one width, and what lies outside of them."""

    edges: list[float]  # K + 1; a number up to 0.05 % below an edge may be counted above it
    counts: list[int]  # K, from an edge up to the next
    below: int
    above: int


def edges_for(low: float, high: float) -> list[float]:
    """Edges of at most 24 bins of a round width that hold all numbers from `low` to `high`."""
    # Narrower bins would lie between the finest ones.
    least = max((high - low) / (_MOST_BINS - 1), max(abs(low), abs(high)) / 1000, 1e-37)
    width = _round_width(least if high > low else max(least, 1.0))
    first, last = _floor(low / width), _floor(high / width) + 1
    return [float(f"{place * width:.12g}") for place in range(first, last + 1)]


def shown_range(counts: Counts) -> tuple[float, float]:
    """What the bins cover: all numbers, but for a tail of 0.1 % that would take more than half of the width."""
    low, high = (min(max(value, -_FLOAT32), _FLOAT32) for value in (counts.low, counts.high))
    inner_low, inner_high = counts.quantile(_TAIL), counts.quantile(1 - _TAIL)
    width = inner_high - inner_low
    if width > 0 and high - inner_high > width:
        high = inner_high
    if width > 0 and inner_low - low > width:
        low = inner_low
    return low, high


def binned(counts: Counts, edges: list[float]) -> Bins:
    """The counts of numbers in bins."""
    below = counts.below(edges)
    return Bins(edges, np.diff(below).tolist(), below[0], counts.count - below[-1])


def _floor(value: float) -> int:
    """The whole number at or below a value, which may be a rounding error away from a whole one: 0.6 / 0.1 is 6."""
    nearest = round(value)
    return nearest if abs(value - nearest) <= 1e-9 * abs(nearest) else math.floor(value)


def _round_width(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
