"""The importance ratio of a token."""

from __future__ import annotations

from torch import Tensor

# exp(20) is 5e8: a ratio beyond it is an accident, and must not become infinite. As in verl.
LARGEST_LOG_RATIO = 20.0


def token_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """`[N]` r = exp(log p - log p_old), with the logarithm held within +-20."""
    return (logprobs - old_logprobs).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
