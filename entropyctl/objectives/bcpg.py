"""BCPG: an off-line policy gradient, regularised on the log-ratio of whole responses (2505.14403)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._rows import row_mean

REDUCTION = "seq-mean-token-mean"


def bcpg(
    logprobs: Tensor,
    advantages: Tensor,
    ref_logprobs: Tensor,
    row_of_token: Tensor,
    loss_mask: Tensor,
    *,
    tau: float = 1e-3,
) -> PolicyLoss:
    """BCPG: an off-line policy gradient, regularised on the log-ratio of whole responses.

    l_t = -A log p + (tau / 2) D_i^2 / |y_i|,   D_i = sum over the row's tokens of (log p - log p_ref).
    Reduced by seq-mean-token-mean: (1/B) sum_i (1/|y_i|) [ sum_t -A_t log p_t + (tau / 2) D_i^2 ].

    Paper: Unearthing Gems from Stones, arXiv 2505.14403 (tau 1e-3; no code was published).

    Where they differ: the regulariser is the square of the response's whole log-ratio, so it grows with the square of
    its length, and the sum is divided by the length once. The weights of correct steps come with the advantages of
    `entropyctl advantage bcpg-nsa`.

    Entropy: the regulariser ties it to the reference's; the policy gradient lowers it as REINFORCE does.
    Shipped by: none of the peers.
    Verified: a float64 reference written from the formula; no code was published.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        advantages: `[N]` A.
        ref_logprobs: `[N]` log p under the reference policy.
        row_of_token: `[N]` int64, the row of each token.
        loss_mask: `[N]` bool, which tokens are counted.
        tau: strength of the regulariser.

    Returns:
        `[N]` losses; no token is clipped.

    Raises:
        UsageError: tau is negative or not finite.
    """
    require(0 <= tau < math.inf, "--tau", tau, "be a finite number, 0 or above")
    mean_N, count_N = row_mean(logprobs - ref_logprobs, row_of_token, loss_mask)
    regulariser_N = 0.5 * tau * count_N * mean_N.square()  # D^2 / |y|
    return PolicyLoss(-advantages * logprobs + regulariser_N, torch.zeros_like(loss_mask))
