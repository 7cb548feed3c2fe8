"""PPO: the clipped surrogate with separate bounds and a dual clip (1707.06347)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.errors import UsageError
from entropyctl.objectives._policy_loss import PolicyLoss

# exp(20) is 5e8: a ratio beyond it is an accident, and must not become infinite. As in verl.
LARGEST_LOG_RATIO = 20.0


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

    r = exp(log p - log p_old);  l = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high));
    where A < 0: l = min(l, -A dual_clip).

    Paper: PPO, arXiv 1707.06347; clip_high above clip_low is DAPO's clip-higher (2503.14476, 0.2 and 0.28);
    the dual clip is of 1912.09729. Code: verl, compute_policy_loss_vanilla (0.2, 0.2, 3.0; recipes use 10).

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        clip_low: how far below 1 the ratio may go.
        clip_high: how far above 1.
        dual_clip: bound on the ratio where A < 0; above 1.

    Raises:
        UsageError: a bound makes no sense.
    """
    if not (0 <= clip_low <= 1 and clip_high >= 0 and dual_clip > 1):
        raise UsageError(
            f"--clip-low {clip_low:g}, --clip-high {clip_high:g}, --dual-clip {dual_clip:g}: "
            "must be in [0, 1], at least 0, and above 1"
        )
    log_ratio_N = (logprobs - old_logprobs).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    plain_N = -advantages * ratio_N
    clipped_N = -advantages * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    upper_N = torch.maximum(plain_N, clipped_N)
    bound_N = -advantages * dual_clip
    loss_N = torch.where(advantages < 0, torch.minimum(upper_N, bound_N), upper_N)
    held_N = (clipped_N > plain_N) | ((advantages < 0) & (upper_N > bound_N))
    return PolicyLoss(loss_N, held_N)
