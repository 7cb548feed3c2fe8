"""GSPO: one importance ratio for the whole response, clipped as a whole (2507.18071)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._rows import row_mean

REDUCTION = "seq-mean-token-mean"

# As in verl: exp(10) per token of a response is an accident.
LARGEST_MEAN_LOG_RATIO = 10.0


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    row_of_token: Tensor,
    loss_mask: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> PolicyLoss:
    """GSPO: one importance ratio for the whole response, clipped as a whole.

    s_i = exp(mean over the row's tokens of (log p - log p_old));
    l_t = max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high)),  with the gradient s A of the token's own log p.
    Reduced by seq-mean-token-mean. There is no dual clip.

    Paper: Group Sequence Policy Optimization, arXiv 2507.18071 (3e-4, 4e-4).
    Code: verl, compute_policy_loss_gspo (the recipe's 3e-4 and 4e-4; the configuration says 0.2 and 0.2).

    Where they differ: verl now forces the mean of row means; its release 0.9.1 used whatever reduction was set. TRL
    differentiates the mean ratio itself, which is the same gradient, but reduces by token-mean unless told otherwise.
    TRL's luspo is this objective reduced by seq-mean-token-sum. The log-ratio is bounded above at 10, as in verl.

    Entropy: rare tokens are not singled out by the clip, so it has no direct hold on it.
    Shipped by: verl, TRL, Trinity-RFT, SkyRL, slime, OpenRLHF.
    Verified: the authors' numbers (golden vectors of verl, fixture of TRL's luspo), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        row_of_token: `[N]` int64, the row of each token.
        loss_mask: `[N]` bool, which tokens are counted.
        clip_low: how far below 1 the ratio may go; 1 is no bound.
        clip_high: how far above 1; inf is no bound.

    Returns:
        `[N]` losses, and the tokens of responses that the clip holds constant.

    Raises:
        UsageError: a bound makes no sense.
    """
    require(0 <= clip_low <= 1, "--clip-low", clip_low, "lie in [0, 1]")
    require(clip_high >= 0, "--clip-high", clip_high, "be 0 or above")
    mean_N, _ = row_mean(logprobs - old_logprobs, row_of_token, loss_mask)
    ratio_N = mean_N.clamp(max=LARGEST_MEAN_LOG_RATIO).exp()
    plain_N = -advantages * ratio_N
    clipped_N = -advantages * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return PolicyLoss(torch.maximum(plain_N, clipped_N), clipped_N > plain_N)
