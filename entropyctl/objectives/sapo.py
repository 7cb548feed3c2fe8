"""SAPO: a soft gate on the ratio in place of a clip (2511.20347)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropyctl.errors import require
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._ratio import token_ratio

REDUCTION = "seq-mean-token-mean"


def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> PolicyLoss:
    """SAPO: a soft gate on the ratio in place of a clip.

    l_t = -A f(r),  f(r) = (4 / tau) sigmoid(tau (r - 1)),  tau = tau_pos where A > 0, else tau_neg;
    r = exp(log p - log p_old). At r = 1 the gate has slope 1; it flattens with distance. Reduced by
    seq-mean-token-mean.

    Paper: Soft Adaptive Policy Optimization, arXiv 2511.20347.
    Code: verl, compute_policy_loss_sapo (1.0, 1.05, reduction forced); TRL (the same, without verl's +-20).

    Where they differ: Trinity-RFT multiplies log p by a gate without a gradient, which is another update. verl's
    example sets the taus where its code does not read them.

    Entropy: tau_neg above tau_pos damps the updates that spread mass over tokens that were not sampled; no direct hold.
    Shipped by: verl, TRL, Trinity-RFT, SkyRL, AReaL.
    Verified: the authors' numbers (golden vectors of verl, fixture of TRL), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        tau_pos: how fast the gate closes where A > 0; above 0.
        tau_neg: the same where A <= 0.

    Returns:
        `[N]` losses; no token is clipped.

    Raises:
        UsageError: a tau is not above 0, or not finite.
    """
    require(0 < tau_pos < math.inf, "--tau-pos", tau_pos, "be a finite number above 0")
    require(0 < tau_neg < math.inf, "--tau-neg", tau_neg, "be a finite number above 0")
    tau_N = torch.where(advantages > 0, tau_pos, torch.full_like(advantages, tau_neg))
    gate_N = torch.sigmoid(tau_N * (token_ratio(logprobs, old_logprobs) - 1)) * 4 / tau_N
    return PolicyLoss(-advantages * gate_N, torch.zeros_like(advantages, dtype=torch.bool))
