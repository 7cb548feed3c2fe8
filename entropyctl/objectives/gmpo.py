"""GMPO: the geometric mean of clipped token ratios, one for each response (2507.20673)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import LARGEST_LOG_RATIO
from entropyctl.objectives._rows import row_mean

REDUCTION = "seq-mean-token-mean"


def gmpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    row_of_token: Tensor,
    loss_mask: Tensor,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> PolicyLoss:
    """GMPO: the geometric mean of clipped token ratios, one for each response.

    d_t = sgn(A) min(sgn(A) delta, sgn(A) clip(delta, -clip_low, clip_high)),  delta = log p - log p_old;
    l_t = -mean(A) exp(mean(d)),  means over the row's tokens. Reduced by seq-mean-token-mean: the mean over rows.

    Paper: Geometric-Mean Policy Optimization, arXiv 2507.20673.
    Code: callsys/GMPO (0.4, 0.4); verl, compute_policy_loss_geo_mean.

    Where they differ: the bounds are of the log-ratio, not of the ratio. verl's mean over rows counts rows that lost
    all their tokens; here only `update --all-rows` does. It is taken per forward pass and added up, so that verl's
    step grows with their number; here it is of the mini-batch. verl's share of clipped tokens counts every token
    outside the bounds; here those that the minimum holds. The row's mean log-ratio is bounded above at 20.

    Entropy: single extreme ratios weigh less than in an arithmetic mean, which allows wider bounds and slows its fall.
    Shipped by: verl.
    Verified: the authors' numbers (golden vectors of verl), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        row_of_token: `[N]` int64, the row of each token.
        loss_mask: `[N]` bool, which tokens are counted.
        clip_low: how far below 0 a token's log-ratio may go, nats; inf is no bound.
        clip_high: how far above 0; inf is no bound.

    Returns:
        `[N]` losses, and the tokens that the clip holds constant.

    Raises:
        UsageError: a bound is negative or no number.
    """
    require(clip_low >= 0, "--clip-low", clip_low, "be 0 or above")
    require(clip_high >= 0, "--clip-high", clip_high, "be 0 or above")
    delta_N, sign_N = logprobs - old_logprobs, advantages.sign()
    plain_N, clipped_N = sign_N * delta_N, sign_N * delta_N.clamp(-clip_low, clip_high)
    mean_N, _ = row_mean(sign_N * torch.minimum(plain_N, clipped_N), row_of_token, loss_mask)
    advantage_N, _ = row_mean(advantages, row_of_token, loss_mask)
    return PolicyLoss(-advantage_N * mean_N.clamp(max=LARGEST_LOG_RATIO).exp(), plain_N > clipped_N)
