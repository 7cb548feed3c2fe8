"""REINFORCE: the plain policy gradient, without a clip (Williams, 1992)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio


def reinforce(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, ratio: bool = False) -> PolicyLoss:
    """REINFORCE: the plain policy gradient, without a clip.

    l_t = -A log p.  With --ratio: l_t = -A r,  r = exp(log p - log p_old), which has the same gradient where the
    policy is still the old one, and weighs it by importance where it is not: the loss of KL-Cov and of SENT.

    Source: Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning, 1992;
    https://github.com/verl-project/verl.
    Code: verl, compute_policy_loss_gpg (-A log p); compute_policy_loss_kl_cov (-A r, before its penalty).

    Where they differ: verl does not bound the log-ratio of KL-Cov; here it is held within +-20, beyond which no token
    is that was not an accident.

    Entropy: follows -eta Cov(log p, A), so it falls while likely tokens are the rewarded ones; nothing holds it.
    Shipped by: verl, Trinity-RFT.
    Verified: the authors' numbers (golden vectors of kl-cov and SENT, fixture of gpg), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        ratio: weigh by the importance ratio instead of the log-probability.

    Returns:
        `[N]` losses; no token is clipped.
    """
    weight_N = token_ratio(logprobs, old_logprobs) if ratio else logprobs
    return PolicyLoss(-advantages * weight_N, torch.zeros_like(advantages, dtype=torch.bool))
