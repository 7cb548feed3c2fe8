"""Cutting sequences into forward passes of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Sequences of similar length together, so that little is padding.

    Args:
        lengths: tokens of each sequence.
        budget: most tokens, padding included, in one batch; a longer sequence gets a batch of its own.

    Returns:
        Indices of the sequences of each batch, longest batch first (so that memory runs out at once or not at
        all). The order depends on lengths and positions alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
