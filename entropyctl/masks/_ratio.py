"""The ratio of two policies, and where PPO's clip holds a token: shared by Clip-Cov, Archer and the budget."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.masks._blocks import in_blocks
from entropyctl.masks._compiled import Array


def clip_holds(logprobs_M: Array, old_logprobs_M: Array, advantages_M: Array, low: float, high: float) -> Array:
    """True where the clip is what PPO's loss takes: A > 0 and r > 1 + high, or A < 0 and r < 1 - low.

    Args:
        logprobs_M: log p of the policy that is trained, nats.
        old_logprobs_M: log p of the policy that the step started from, nats.
        advantages_M: A.
        low: how far below 1 the ratio may go.
        high: how far above 1.

    Returns:
        `[M]` bool.
    """
    if _on_policy(logprobs_M, old_logprobs_M):
        return np.zeros(len(advantages_M), bool)
    # log r against the logarithms of the bounds: no exponential, and none that overflows.
    least, most = math.log1p(-low) if low < 1 else -math.inf, math.log1p(high)

    def holds(new: Array, old: Array, sign: Array) -> Array:
        change = new - old
        return np.asarray(((sign > 0) & (change > most)) | ((sign < 0) & (change < least)))

    return in_blocks(holds, logprobs_M, old_logprobs_M, advantages_M, dtype=np.bool_)


def ratios(logprobs_M: Array, old_logprobs_M: Array) -> Array:
    """r = p / p_old, its logarithm within +-20.

    Args:
        logprobs_M: log p of the policy that is trained, nats.
        old_logprobs_M: log p of the policy that the step started from, nats.

    Returns:
        `[M]` float64; not to be written to.
    """
    if _on_policy(logprobs_M, old_logprobs_M):
        return np.broadcast_to(1.0, len(logprobs_M))
    return in_blocks(lambda new, old: np.exp((new - old).clip(-20, 20)), logprobs_M, old_logprobs_M)


def _on_policy(logprobs_M: Array, old_logprobs_M: Array) -> bool:
    """Whether both are the same memory, as for a table that was scored once: every ratio is 1."""
    new, old = (np.asarray(part_M).__array_interface__ for part_M in (logprobs_M, old_logprobs_M))
    return new == old
