"""Sums of what is still to come in a row, discounted per counted token."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array

_BLOCK = 1 << 16  # tokens that fit a core's cache


def returns_to_go(rewards_N: Array, row_of_token_N: Array, loss_mask_N: Array, gamma: float) -> Array:
    """G_t = r_t + gamma G_t', t' the next counted token of the row; 0 where the token is not counted.

    Tokens outside the mask are stepped over: they neither add a reward nor discount one. With deltas for rewards and
    gamma lambda for gamma this is the sum of generalised advantage estimation.

    Args:
        rewards_N: a number per token; what stands outside the mask is not read.
        row_of_token_N: the row of each token; a row's tokens stand together.
        loss_mask_N: True where the token is counted.
        gamma: discount from one counted token to the one before, 0 to 1.
    """
    mask_N = np.asarray(loss_mask_N, bool)
    row_C = np.asarray(row_of_token_N)[mask_N]
    sum_C = np.asarray(rewards_N, np.float64)[mask_N]
    starts = np.flatnonzero(np.append(True, row_C[1:] != row_C[:-1]))
    longest = int(np.diff(np.append(starts, len(row_C))).max()) if len(row_C) else 0
    # After the pass with stride s a token holds the sum of the next 2 s: passes grow with the logarithm of the length.
    stride = 1
    while stride < longest and gamma**stride > 0:
        _add_later(sum_C, row_C, stride, gamma**stride)
        stride *= 2
    found_N = np.zeros(len(mask_N))
    found_N[mask_N] = sum_C
    return found_N


def _add_later(sum_C: Array, row_C: Array, stride: int, discount: float) -> None:
    """Add to each number, in place, the one `stride` further on in its row. From the left, so that it is still old."""
    for start in range(0, len(sum_C) - stride, _BLOCK):
        here = slice(start, min(start + _BLOCK, len(sum_C) - stride))
        there = slice(here.start + stride, here.stop + stride)
        sum_C[here] += np.where(row_C[here] == row_C[there], discount * sum_C[there], 0.0)
