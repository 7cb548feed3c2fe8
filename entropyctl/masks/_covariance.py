"""The covariance of advantage and log-probability, token by token (2505.22617): shared by Clip-Cov, KL-Cov and SENT."""

from __future__ import annotations

from entropyctl.masks._blocks import in_blocks, mean
from entropyctl.masks._compiled import Array


def covariances(advantages_M: Array, logprobs_M: Array, among_M: Array | None = None) -> Array:
    """Each token's part in the covariance: (A - mean A)(log p - mean log p), means over the tokens given.

    Args:
        advantages_M: A of the tokens that are counted, and of no others.
        logprobs_M: their log p, nats.
        among_M: bool, the tokens that the means are taken over; all without it.

    Returns:
        `[M]` float64.
    """
    mean_A, mean_logp = mean(advantages_M, among_M), mean(logprobs_M, among_M)
    return in_blocks(lambda A, logp: (A - mean_A) * (logp - mean_logp), advantages_M, logprobs_M)
