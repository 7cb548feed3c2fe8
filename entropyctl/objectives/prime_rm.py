"""PRIME's reward model: its log-ratio to the reference, summed, predicts correctness (2502.01456)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._rows import row_mean

REDUCTION = "seq-mean-token-mean"
TRAINS = "prm"


def prime_rm(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    correct: Tensor,
    row_of_token: Tensor,
    loss_mask: Tensor,
    *,
    beta: float = 0.05,
) -> PolicyLoss:
    """PRIME's reward model: its log-ratio to the reference, summed, predicts correctness.

    l_t = -log sigmoid(beta Q_i) where correct_i, else -log(1 - sigmoid(beta Q_i)),
    Q_i = sum over the row's tokens of (log p - log p_ref). Reduced by seq-mean-token-mean: the mean over responses.

    Paper: Process Reinforcement through Implicit Rewards, arXiv 2502.01456.
    Code: PRIME-RL/PRIME and verl-recipe, compute_ce_dpo_loss_rm (beta 0.05, learning rate 1e-6, gradient norm 10).

    Where they differ: nothing in the loss. What the policy is given of it (last token, normalisation, coefficients)
    differs, and belongs to `entropyctl advantage prime`. Masks are the policy's: whatever weights, penalties and
    narrowed loss masks the table has, this learns from every token that the policy chose, as the authors do.

    Entropy: trains a reward model, not the policy: none of its own.
    Shipped by: verl (its recipes).
    Verified: a float64 reference written from the formula.

    Args:
        logprobs: `[N]` log p under the reward model that is trained, nats.
        ref_logprobs: `[N]` log p under the reference model.
        correct: `[B]` bool, which responses are correct.
        row_of_token: `[N]` int64, the row of each token.
        loss_mask: `[N]` bool, which tokens are counted.
        beta: scale of the log-ratio.

    Returns:
        `[N]` losses; no token is clipped.

    Raises:
        UsageError: beta is not above 0, or not finite.
    """
    require(0 < beta < math.inf, "--beta", beta, "be a finite number above 0")
    mean_N, count_N = row_mean(logprobs - ref_logprobs, row_of_token, loss_mask)
    target_N = correct[row_of_token].to(mean_N.dtype)
    loss_N = binary_cross_entropy_with_logits(beta * count_N * mean_N, target_N, reduction="none")
    return PolicyLoss(loss_N, torch.zeros_like(loss_mask))
