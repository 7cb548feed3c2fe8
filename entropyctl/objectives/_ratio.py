"""The importance ratio of a token, and the bounds that a flag may have."""

from __future__ import annotations

from torch import Tensor

from entropyctl.errors import UsageError

# exp(20) is 5e8: a ratio beyond it is an accident, and must not become infinite. As in verl.
LARGEST_LOG_RATIO = 20.0


def token_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """`[N]` r = exp(log p - log p_old), with the logarithm held within +-20."""
    return (logprobs - old_logprobs).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def require(valid: bool, flag: str, value: float, must: str) -> None:
    """Refuse a flag's value; a comparison with NaN is never valid.

    Raises:
        UsageError: names the flag, its value, and what it must be.
    """
    if not valid:
        raise UsageError(f"--{flag} {value:g}: must {must}")
