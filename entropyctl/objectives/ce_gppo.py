"""CE-GPPO: PPO whose clipped tokens keep a scaled gradient (2509.20712)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio


def ce_gppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta1: float = 0.75,
    beta2: float = 1.0,
    dual_clip: float = 10.0,
) -> PolicyLoss:
    """CE-GPPO: PPO whose clipped tokens keep a scaled gradient.

    l_t = -beta1 (1 - clip_low) A r / sg(r)   where A < 0 and r < 1 - clip_low,
    l_t = -beta2 (1 + clip_high) A r / sg(r)  where A > 0 and r > 1 + clip_high,  else  l_t = -A r;
    where A < 0: l_t = min(l_t, -A dual_clip).   r = exp(log p - log p_old),  sg: no gradient.

    Paper: CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization, arXiv 2509.20712.
    Code: Kwai-Klear/CE-GPPO, compute_gppo_loss_general_beta (7B script: 0.2, 0.2, 0.75, 1, 10).

    Where they differ: beta1 is 0.75 in the function and the 7B script, 0.5 in the 1.5B script, 0.25 in the
    configuration; the dual clip is 3 in the function, 10 in the scripts. The code does not bound the log-ratio; here
    it is held within +-20. The betas scale the reported loss too. Betas of 0 have the gradient of PPO.

    Entropy: beta2 gives rare tokens that gain their gradient back and raises it; beta1 those that lose, and lowers it.
    Shipped by: none of the peers.
    Verified: the authors' numbers (golden vectors), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        clip_low: how far below 1 the ratio may go; 1 is no bound.
        clip_high: how far above 1; inf is no bound.
        beta1: scale of the gradient below the lower bound, A < 0.
        beta2: scale of the gradient above the upper bound, A > 0.
        dual_clip: bound on the ratio where A < 0; above 1; inf is no dual clip.

    Returns:
        `[N]` losses, and the tokens outside the bounds.

    Raises:
        UsageError: a bound or a scale makes no sense.
    """
    require(0 <= clip_low <= 1, "--clip-low", clip_low, "lie in [0, 1]")
    require(clip_high >= 0, "--clip-high", clip_high, "be 0 or above")
    require(0 <= beta1 < math.inf, "--beta1", beta1, "be a finite number, 0 or above")
    require(0 <= beta2 < math.inf, "--beta2", beta2, "be a finite number, 0 or above")
    require(dual_clip > 1, "--dual-clip", dual_clip, "be above 1")
    ratio_N = token_ratio(logprobs, old_logprobs)
    fixed_N = ratio_N.detach()
    low_N = (advantages < 0) & (fixed_N < 1 - clip_low)
    high_N = (advantages > 0) & (fixed_N > 1 + clip_high)
    scale_N = torch.where(low_N, beta1 * (1 - clip_low) / fixed_N, 1.0)
    scale_N = torch.where(high_N, beta2 * (1 + clip_high) / fixed_N, scale_N)
    upper_N = -advantages * scale_N * ratio_N
    bound_N = torch.where(advantages < 0, -advantages * dual_clip, math.inf)
    return PolicyLoss(torch.minimum(upper_N, bound_N), low_N | high_N | (upper_N > bound_N))
