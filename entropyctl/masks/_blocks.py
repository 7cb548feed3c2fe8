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


def moments(values: Callable[[slice], Array], valid_N: Array) -> Moments:
    """Count, mean and population deviation in float64.

    A block's squares are taken about its own mean, and blocks are put together as by Chan, Golub and LeVeque (1979):
    nothing is lost of a deviation that is small beside the mean.

    Args:
        values: the numbers of some tokens, in any floating type.
        valid_N: bool, True where the token is counted.
    """
    count, centre, squares = 0, 0.0, 0.0
    for at in blocks(len(valid_N)):
        part = values(at) if valid_N[at].all() else values(at)[valid_N[at]]
        if not len(part):
            continue
        block = part.astype(np.float64)
        block_mean = float(block.sum()) / len(block)
        block -= block_mean
        apart, together = block_mean - centre, count + len(block)
        squares += float(np.square(block, out=block).sum())  # a dot product would start BLAS's threads
        squares += apart**2 * count * len(block) / together
        centre += apart * len(block) / together
        count = together
    return Moments(count, centre, float(np.sqrt(squares / max(count, 1))))


def mean(values_M: Array, among_M: Array | None = None) -> float:
    """The mean of numbers in any floating type, in float64; 0 of none.

    Args:
        values_M: the numbers.
        among_M: bool, those that count; all without it.
    """
    if among_M is None:
        return sum(float(block.sum()) for block in _float64_blocks(values_M)) / max(len(values_M), 1)
    parts = zip(_float64_blocks(values_M), blocks(len(values_M)), strict=True)
    total = sum(float(np.multiply(block, among_M[at], out=block).sum()) for block, at in parts)
    return total / max(int(np.count_nonzero(among_M)), 1)


def _float64_blocks(values_M: Array) -> Iterator[Array]:
    room = np.empty(min(TOKENS_PER_BLOCK, len(values_M)))
    for at in blocks(len(values_M)):
        part = values_M[at]
        block = room[: len(part)]
        block[:] = part
        yield block


def float_type(*values_M: Array) -> type:
    """The number type of what is made from some columns: float32 where all of them are, else float64."""
    kind: type = np.result_type(np.float32, *(np.asarray(part_M).dtype for part_M in values_M)).type
    return kind


def in_blocks(
    formula: Callable[..., Array], *values_M: Array, given: type | None = np.float64, dtype: type = np.float64
) -> Array:
    """`[M]` a formula of each token's own numbers.

    Args:
        formula: from arrays to an array of the same length.
        values_M: the numbers.
        given: the number type that the formula gets them in; None for the one that they have.
        dtype: of the result.
    """
    found_M: Array = np.empty(len(values_M[0]), dtype)
    for at in blocks(len(found_M)):
        found_M[at] = formula(*(np.asarray(part_M[at], given) for part_M in values_M))
    return found_M
