"""Mean and deviation over the counted tokens of a step, a cache's worth at a time.

Whole-array float64 copies of 20 million tokens cost more than reading them from disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from entropyctl.masks._compiled import Array

# 16384 float64 are 128 KiB, which stay in a core's second-level cache.
TOKENS_PER_BLOCK = 16_384


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
    everything = count == len(valid_N)
    blocks = values_N if everything else values_N[valid_N]
    mean = sum(float(block.sum()) for block in _float64_blocks(blocks)) / count
    squares = 0.0
    for block in _float64_blocks(blocks):
        block -= mean
        squares += float(np.square(block, out=block).sum())  # a dot product would start BLAS's threads
    return Moments(count, mean, float(np.sqrt(squares / count)))


def _float64_blocks(values_N: Array) -> Iterator[Array]:
    room = np.empty(TOKENS_PER_BLOCK)
    for start in range(0, len(values_N), TOKENS_PER_BLOCK):
        part = values_N[start : start + TOKENS_PER_BLOCK]
        block = room[: len(part)]
        block[:] = part
        yield block
