"""A few out of a stream of any length, drawn the same way whenever the same stream comes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Strata:
    """At most `most` entries of each stratum, uniform among all that came."""

    def __init__(self, strata: int, most: int, width: int) -> None:
        """Begin with none.

        Args:
            strata: how many there are.
            most: entries of each that are kept.
            width: numbers of an entry.
        """
        self._most = most
        self._limit = np.ones(strata)  # a key above it has no chance any more
        self.stratum = np.empty(0, np.int64)
        self._key = np.empty(0)
        self.values = np.empty((0, width), np.float32)

    def add(self, seed: int, stratum_N: Array, values_N: Sequence[Array]) -> None:
        """Let a step's entries take part.

        Args:
            seed: of the step; the same for the same step.
            stratum_N: the stratum of each entry; those below 0 do not take part.
            values_N: `[width]` arrays of N numbers.
        """
        key_N = np.random.default_rng([0, seed & (2**63 - 1)]).random(len(stratum_N))
        chosen = np.flatnonzero((stratum_N >= 0) & (key_N < self._limit[stratum_N]))
        stratum = np.concatenate([self.stratum, stratum_N[chosen]])
        key = np.concatenate([self._key, key_N[chosen]])
        values = np.concatenate([self.values, np.stack([part[chosen] for part in values_N], axis=1)])
        order = np.lexsort((key, stratum))
        rank = _ranks(stratum[order])
        kept = order[rank < self._most]
        full = order[rank == self._most - 1]
        self._limit[stratum[full]] = key[full]
        self.stratum, self._key, self.values = stratum[kept], key[kept], values[kept]


def _ranks(sorted_S: Array) -> Array:
    """`[S]` how many equal values stand before each."""
    first = np.flatnonzero(np.diff(sorted_S, prepend=sorted_S[:1] - 1))
    counts = np.diff(np.append(first, len(sorted_S)))
    return np.arange(len(sorted_S)) - np.repeat(first, counts)


class Fair:
    """At most `most` entries, so many of each stratum alike; of more strata than that, one of each of some."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.kept: list[tuple[tuple[int, float, int], Any]] = []

    def add(self, seed: int, stratum_B: Array, make: Callable[[int], Any]) -> None:
        """Let a step's entries take part.

        Args:
            seed: of the step; the same for the same step.
            stratum_B: the stratum of each entry; strata of two steps are never the same.
            make: what is kept of an entry, by its place; called for those that are kept for now.
        """
        random = np.random.default_rng([1, seed & (2**63 - 1)])
        order = np.lexsort((random.random(len(stratum_B)), stratum_B))
        rank_B = np.empty(len(stratum_B), np.int64)
        rank_B[order] = _ranks(stratum_B[order])
        # Among entries of one rank chance decides, whatever the sizes of their strata.
        key_B = random.random(len(stratum_B))
        ahead = (((int(rank_B[i]), float(key_B[i]), seed), int(i)) for i in np.flatnonzero(rank_B < self._most))
        self.kept = _best(heapq.nsmallest, self._most, self.kept, ahead, make)


class Largest:
    """The `most` entries with the largest values."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.kept: list[tuple[float, Any]] = []

    def add(self, value_B: Array, make: Callable[[int], Any]) -> None:
        """Let a step's entries take part; NaN does not.

        Args:
            value_B: what is compared; of equal values the one that came first is kept.
            make: what is kept of an entry, by its place.
        """
        known = np.flatnonzero(~np.isnan(value_B))
        best = known[np.argsort(-value_B[known], kind="stable")[: self._most]]
        fresh = ((float(value_B[i]), int(i)) for i in best)
        self.kept = _best(heapq.nlargest, self._most, self.kept, fresh, make)


def _best(choose: Any, most: int, kept: list[Any], fresh: Iterable[Any], make: Callable[[int], Any]) -> list[Any]:
    """The entries whose order comes first, those that came earlier first among equals; made where they are new."""
    entries = [(order, None, entry) for order, entry in kept] + [(order, i, None) for order, i in fresh]
    chosen = choose(most, entries, key=lambda entry: entry[0])
    return [(order, entry if i is None else make(i)) for order, i, entry in chosen]
