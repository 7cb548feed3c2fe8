"""CISPO: clip the importance weight and keep every token's gradient (2506.13585)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio

# (clip_low, clip_high); a ratio is above 0, so that clip_low 1 is no bound.
BOUNDS = {"verl": (0.2, 0.2), "trinity": (1.0, 0.28), "trl": (1.0, 4.0), "open-instruct": (1.0, 0.272)}


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    bounds: Literal["verl", "trinity", "trl", "open-instruct"] = "verl",
    clip_low: float | None = None,
    clip_high: float | None = None,
) -> PolicyLoss:
    """CISPO: clip the importance weight and keep every token's gradient.

    l_t = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log p,   r = exp(log p - log p_old),  sg: no gradient.

    Paper: MiniMax-M1, arXiv 2506.13585.
    Code: verl, compute_policy_loss_cispo (0.2, 0.2).

    Where they differ: the authors published no code and set no lower bound. verl clips on both sides (its example
    sets clip_low 10, which is none); Trinity-RFT has 1.0 and 0.28; TRL caps the ratio itself, at 5 as it recommends
    (clip_high 4; its own default of 0.2 caps every weight at 0.2); open-instruct has no lower bound and 0.272.

    Entropy: rare tokens that gain keep their gradient where PPO would drop it, which slows its fall.
    Shipped by: verl, TRL, Trinity-RFT, SkyRL, NeMo-RL, slime, open-instruct.
    Verified: the authors' numbers (golden vectors of verl, fixture of TRL), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        bounds: whose bounds.
        clip_low: how far below 1 the weight may go, instead of theirs; 1 or above is no bound.
        clip_high: how far above 1, instead of theirs; inf is no bound.

    Returns:
        `[N]` losses, and the tokens whose weight was clipped; those keep their gradient.

    Raises:
        UsageError: a bound is negative or no number.
    """
    low, high = BOUNDS[bounds]
    low, high = low if clip_low is None else clip_low, high if clip_high is None else clip_high
    require(low >= 0, "--clip-low", low, "be 0 or above")
    require(high >= 0, "--clip-high", high, "be 0 or above")
    ratio_N = token_ratio(logprobs, old_logprobs).detach()
    weight_N = ratio_N.clamp(1 - low, 1 + high)
    return PolicyLoss(-weight_N * advantages * logprobs, weight_N != ratio_N)
