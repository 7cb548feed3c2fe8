"""Arithmetic on the tokens of a step in float64, a cache's worth at a time.

Whole-array float64 copies of 20 million tokens cost more than reading them from disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from entropyctl.dynamics.blocks import TOKENS_PER_BLOCK, blocks
from entropyctl.masks._compiled import Array


class Moments(NamedTuple):
    """Of the counted tokens; how many, and a mean and a deviation of 0 where there is none."""

    tokens: int
    mean: float
    std: float  # population


def moments(values_N: Array, valid_N: Array) -> Moments:
    """Count, mean and population deviation in float64, by two passes: the second is about the mean.

    Args:
        values_N: numbers in any floating type.
        valid_N: bool, True where the token is counted.
    """
    count = int(np.count_nonzero(valid_N))
    if count == 0:
        return Moments(0, 0.0, 0.0)
    values_M = values_N if count == len(valid_N) else values_N[valid_N]
    centre = mean(values_M)
    squares = 0.0
    for block in _float64_blocks(values_M):
        block -= centre
        squares += float(np.square(block, out=block).sum())  # a dot product would start BLAS's threads
    return Moments(count, centre, float(np.sqrt(squares / count)))


def mean(values_M: Array) -> float:
    """The mean of numbers in any floating type, in float64; 0 of none."""
    return sum(float(block.sum()) for block in _float64_blocks(values_M)) / max(len(values_M), 1)


def _float64_blocks(values_M: Array) -> Iterator[Array]:
    room = np.empty(min(TOKENS_PER_BLOCK, len(values_M)))
    for at in blocks(len(values_M)):
        part = values_M[at]
        block = room[: len(part)]
        block[:] = part
        yield block


def in_blocks(formula: Callable[..., Array], *values_M: Array, dtype: type = np.float64) -> Array:
    """`[M]` a formula of each token's own numbers.

    Args:
        formula: from float64 arrays to an array of the same length.
        values_M: the numbers, in any floating type.
        dtype: of the result.
    """
    found_M: Array = np.empty(len(values_M[0]), dtype)
    for at in blocks(len(found_M)):
        found_M[at] = formula(*(np.asarray(part_M[at], np.float64) for part_M in values_M))
    return found_M
