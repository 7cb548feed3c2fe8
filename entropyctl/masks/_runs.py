"""Sums over rows and numbers of rows, by the runs in which a row's tokens stand together.

`N` tokens, `B` rows, `R` runs. On a table every row is one run; nothing here needs it to be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from entropyctl.masks._compiled import Array


class Runs(NamedTuple):
    """Where the tokens of one row stand together."""

    row: Array  # [R] whose they are
    first: Array  # [R] the place of the first one
    length: Array  # [R]

    @property
    def rows(self) -> int:
        """B, one more than the highest number of a row."""
        return int(self.row.max(initial=-1)) + 1

    def sums(self, values_N: Array) -> Array:
        """`[B]` float64, the sum over each row; 0 for a row without tokens."""
        if not len(self.first):
            return np.zeros(0)
        sums_R = np.add.reduceat(values_N, self.first, dtype=np.float64)
        return np.bincount(self.row, sums_R, self.rows)

    def counts(self, valid_N: Array) -> Array:
        """`[B]` float64, how many tokens of each row are counted."""
        return np.bincount(self.row, self.length, self.rows) if valid_N.all() else self.sums(valid_N)

    def largest(self, values_N: Array, initial: float) -> Array:
        """`[B]` float64, the largest value of each row, at least `initial`."""
        largest_B = np.full(self.rows, initial)
        if len(self.first):
            np.maximum.at(largest_B, self.row, np.maximum.reduceat(values_N, self.first))
        return largest_B

    def spread(self, values_B: Array) -> Array:
        """`[N]` each token's row's value."""
        return np.repeat(values_B[self.row], self.length)


def runs(row_N: Array) -> Runs:
    """The runs of equal numbers.

    Args:
        row_N: int64, the row of each token.
    """
    starts_N = np.ones(len(row_N), bool)
    np.not_equal(row_N[1:], row_N[:-1], out=starts_N[1:])
    first_R = np.flatnonzero(starts_N)
    return Runs(row_N[first_R], first_R, np.diff(first_R, append=len(row_N)))
