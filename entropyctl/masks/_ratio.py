"""Where PPO's clip holds a token: shared by Clip-Cov, which passes over such tokens, and Archer, which makes them."""

from __future__ import annotations

import numpy as np

from entropyctl.masks._compiled import Array

# exp(700) is the largest that float64 holds; no bound of a clip lies near it.
_LARGEST = 700.0


def clip_holds(
    logprobs_M: Array, old_logprobs_M: Array, advantages_M: Array, low: float | Array, high: float | Array
) -> Array:
    """True where the clip is what PPO's loss takes: A > 0 and r > 1 + high, or A < 0 and r < 1 - low.

    Args:
        logprobs_M: log p of the policy that is trained, nats.
        old_logprobs_M: log p of the policy that the step started from, nats.
        advantages_M: A.
        low: how far below 1 the ratio may go; a number, or one for each token.
        high: how far above 1.

    Returns:
        `[M]` bool.
    """
    new_M, old_M = (np.asarray(x, np.float64) for x in (logprobs_M, old_logprobs_M))
    ratio_M = np.exp(np.minimum(new_M - old_M, _LARGEST))
    sign_M = np.sign(advantages_M)
    return np.asarray(((sign_M > 0) & (ratio_M > 1 + high)) | ((sign_M < 0) & (ratio_M < 1 - low)))
