"""Entropy advantage shaping: a bonus for uncertain tokens that never turns an advantage's sign (2506.14758)."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.advantages._returns import Array, PerToken
from entropyctl.errors import UsageError


def entropy_shaping(
    advantages: Array, entropies: Array, loss_mask: Array, *, alpha: float = 0.4, kappa: float = 2.0
) -> PerToken:
    """Entropy advantage shaping: a bonus for uncertain tokens that never turns an advantage's sign.

    A_t = A_t + min(alpha H_t, |A_t| / kappa), H without a gradient.

    Paper: Reasoning with Exploration: An Entropy Perspective, arXiv 2506.14758 (alpha 0.4 for GRPO, 0.1 for PPO;
    kappa 2).

    Where they differ: the authors' code was not found. A third party's addition to verl has alpha 0.1 and kappa 1,
    where a negative advantage may become 0. Here A is of the table, so entropies are of the policy that scored;
    the paper takes them in the update. A token with A = 0 gets nothing.

    Entropy: raises it by exploration: uncertain tokens of good responses are pushed up more, and those of bad ones
    pushed down less.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula; the authors' code was not found.

    Args:
        advantages: `[N]` A, of an estimator that ran before.
        entropies: `[N]` H of the tokens, nats.
        loss_mask: `[N]` True where the token is counted.
        alpha: bonus per nat.
        kappa: the bonus is at most |A| / kappa; above 1 no sign turns.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: alpha is negative, kappa below 1, or one is not finite.
    """
    if not 0 <= alpha < math.inf:
        raise UsageError(f"--alpha {alpha:g}: must be a finite number, 0 or above")
    if not 1 <= kappa < math.inf:
        raise UsageError(f"--kappa {kappa:g}: must be a finite number, 1 or above")
    mask_N = np.asarray(loss_mask, bool)
    advantages_N = np.where(mask_N, np.asarray(advantages, np.float64), 0.0)
    bonus_N = alpha * np.where(mask_N, np.asarray(entropies, np.float64), 0.0)
    return advantages_N + np.minimum(bonus_N, np.abs(advantages_N) / kappa)
