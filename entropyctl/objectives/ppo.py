"""PPO: the clipped surrogate with separate bounds and a dual clip (1707.06347)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio


def ppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> PolicyLoss:
    """PPO: the clipped surrogate with separate bounds and a dual clip.

    r_t = exp(log p - log p_old);  l_t = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high));
    where A < 0: l_t = min(l_t, -A dual_clip).

    Paper: Proximal Policy Optimization Algorithms, arXiv 1707.06347. clip_high above clip_low is DAPO's clip-higher
    (2503.14476: 0.2 and 0.28, token-mean); the dual clip is of 1912.09729.
    Code: verl, compute_policy_loss_vanilla (0.2, 0.2, 3.0; recipes use a dual clip of 10).

    Where they differ: the paper has one clip and no dual clip, and so has TRL: --dual-clip inf. The scripts of
    Clip-Cov and KL-Cov pass a dual clip of 10 that their code does not apply. verl holds the log-ratio within +-20,
    and so does this.

    Entropy: clipping from below raises it and clipping from above lowers it (2509.26114), so that a wider clip_high
    slows its fall.
    Shipped by: verl, TRL, Trinity-RFT, SkyRL, NeMo-RL, slime, OpenRLHF, AReaL, open-instruct.
    Verified: the authors' numbers (golden vectors of verl, fixtures of TRL), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        clip_low: how far below 1 the ratio may go; 1 is no bound.
        clip_high: how far above 1; inf is no bound.
        dual_clip: bound on the ratio where A < 0; above 1; inf is no dual clip.

    Returns:
        `[N]` losses, and the tokens that a clip holds constant.

    Raises:
        UsageError: a bound makes no sense.
    """
    require(0 <= clip_low <= 1, "--clip-low", clip_low, "lie in [0, 1]")
    require(clip_high >= 0, "--clip-high", clip_high, "be 0 or above")
    require(dual_clip > 1, "--dual-clip", dual_clip, "be above 1")
    ratio_N = token_ratio(logprobs, old_logprobs)
    plain_N = -advantages * ratio_N
    clipped_N = -advantages * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    upper_N = torch.maximum(plain_N, clipped_N)
    bound_N = torch.where(advantages < 0, -advantages * dual_clip, math.inf)
    return PolicyLoss(torch.minimum(upper_N, bound_N), (clipped_N > plain_N) | (upper_N > bound_N))
