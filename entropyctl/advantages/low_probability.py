"""Advantage reweighting, AR: improbable tokens weigh less in the update (2505.12929)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._returns import Array, PerToken
from entropyctl.errors import UsageError


def low_probability(advantages: Array, old_logprobs: Array, loss_mask: Array, *, alpha: float = 0.2) -> PerToken:
    """Advantage reweighting, AR: improbable tokens weigh less in the update.

    A_t = (alpha pi_old(y_t) + 1 - alpha) A_t

    Paper: Do Not Let Low-Probability Tokens Over-Dominate in RL for LLMs, arXiv 2505.12929.

    Code: zhyang2226/AR-Lopti (alpha 0.2 for AR alone, 0.3 together with Lopti).

    Where they differ: formula and code agree. Lopti, the paper's other half, is no weight of a token: it updates
    on tokens below a probability of 0.5 first and on the rest afterwards.

    Entropy: holds back its change, since improbable tokens have the largest gradients.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the authors' formula.

    Args:
        advantages: `[N]` A, of an estimator that ran before.
        old_logprobs: `[N]` log-probability of each token under the policy that the step started from, nats.
        loss_mask: `[N]` True where the token is counted.
        alpha: 0 leaves A as it is; 1 multiplies it by the token's probability.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: alpha lies outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"--alpha {alpha:g}: must lie in [0, 1]")
    mask_N = np.asarray(loss_mask, bool)
    probability_N = np.exp(np.where(mask_N, np.asarray(old_logprobs, np.float64), 0.0))
    return np.where(mask_N, np.asarray(advantages, np.float64), 0.0) * (alpha * probability_N + 1 - alpha)
