"""The loss that both divergences of DPPO gate."""

from __future__ import annotations

from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio


def check(delta_low: float, delta_high: float, max_ratio: float) -> None:
    """Refuse bounds that make no sense.

    Raises:
        UsageError: names the flag.
    """
    require(delta_low >= 0, "--delta-low", delta_low, "be 0 or above")
    require(delta_high >= 0, "--delta-high", delta_high, "be 0 or above")
    require(max_ratio > 0, "--max-ratio", max_ratio, "be above 0")


def gated(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, keep_N: Tensor, max_ratio: float) -> PolicyLoss:
    """l_t = -A sg(min(r, max_ratio)) log p where keep_t, else 0."""
    ratio_N = token_ratio(logprobs, old_logprobs).detach().clamp(max=max_ratio)
    return PolicyLoss(-advantages * ratio_N * logprobs * keep_N, ~keep_N)
