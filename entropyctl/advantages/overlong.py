"""Soft overlong punishment: a penalty that grows over the last tokens before the length limit (2503.14476)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._returns import Array, RowReward
from entropyctl.errors import UsageError


def overlong(
    lengths: Array,
    *,
    max_length: int = 20480,
    buffer: int = 4096,
    factor: float = 1.0,
    variant: Literal["verl", "paper"] = "verl",
) -> RowReward:
    """Soft overlong punishment: a penalty that grows over the last tokens before the length limit.

    R_i = R_i + min(0, factor (max_length - buffer - L_i) / buffer), L_i the response's tokens; in the paper at least
    -factor, with factor 1: 0 up to max_length - buffer, then linear, and -1 beyond max_length.

    Paper: DAPO, arXiv 2503.14476, eq. 13 (max_length 20480, buffer 4096).

    Code: verl, workers/reward_manager/dapo.py (off by default; its DAPO recipe 20480, 4096, 1.0).

    Where they differ: the code (variant verl, the default) has no floor; its responses cannot be longer than
    max_length, so the two agree unless saved responses are longer. verl's recipe has rewards of +1 and -1, so that
    the penalty is at most half of their distance; with rewards of 1 and 0 it is all of it.

    Entropy: nothing directly; it stops growth in length, with which entropy often moves.

    Shipped by: verl.

    Verified: a float64 reference written from the formula, which is also the code's.

    Args:
        lengths: `[B]` tokens of each response.
        max_length: length at which the penalty is `factor`, tokens.
        buffer: length over which it grows, tokens.
        factor: the penalty at max_length.
        variant: the code without, or the paper with a floor.

    Returns:
        `[B]` what is added to the reward, float64, 0 or below.

    Raises:
        UsageError: buffer is below 1, max_length below buffer, or factor negative or not finite.
    """
    if buffer < 1:
        raise UsageError(f"--buffer {buffer:g}: must be 1 or more")
    if max_length < buffer:
        raise UsageError(f"--max-length {max_length:g}: must be at least --buffer {buffer:g}")
    if not 0 <= factor < math.inf:
        raise UsageError(f"--factor {factor:g}: must be a finite number, 0 or above")
    over_B = np.asarray(lengths, np.float64) - (max_length - buffer)
    high = 1.0 if variant == "paper" else np.inf
    return 0.0 - factor * np.clip(over_B / buffer, 0.0, high)
