"""Walking over the tokens of a step a cache's worth at a time."""

from __future__ import annotations

from collections.abc import Iterator

# 32768 float64 are 256 KiB: a few of them stay in a core's second-level cache, and numpy's calls cost little beside.
TOKENS_PER_BLOCK = 32_768


def blocks(count: int) -> Iterator[slice]:
    """The places of `count` tokens, a block's after another's."""
    for start in range(0, count, TOKENS_PER_BLOCK):
        yield slice(start, start + TOKENS_PER_BLOCK)
