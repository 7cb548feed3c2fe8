"""DPPO-TV: drop tokens whose probability has already moved too far (2602.04879)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.objectives._dppo import check, gated
from entropyctl.objectives._policy_loss import PolicyLoss


def dppo_tv(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    delta_low: float = 0.15,
    delta_high: float = 0.15,
    max_ratio: float = 20.0,
) -> PolicyLoss:
    """DPPO-TV: drop tokens whose probability has already moved too far.

    keep_t = [ p - p_old <= delta_high ] where A > 0, else [ p - p_old >= -delta_low ];
    l_t = -A sg(min(r, max_ratio)) log p keep_t,  r = p / p_old,  sg: no gradient.

    Paper: Rethinking the Trust Region in LLM Reinforcement Learning, arXiv 2602.04879.
    Code: verl, compute_policy_loss_dppo_tv (by the authors; their script sets 0.15, 0.15 and 10000).

    Where they differ: the code falls back to a max_ratio of 20 and calls for a large one, but verl's configuration
    always passes 3.0, and 0.2 for both deltas. The authors' script reduces by seq-mean-token-sum-norm and takes the
    rollout engine's log p as the old one. prime-rl has delta 0.2 and adds 1e-3 (log r)^2.

    Entropy: rare tokens may grow by large ratios, where PPO would stop them, which slows its fall.
    Shipped by: verl, prime-rl.
    Verified: the authors' numbers (golden vectors of verl), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        delta_low: how much probability a token with A <= 0 may have lost, in [0, 1]; 1 or above is no bound.
        delta_high: how much one with A > 0 may have gained; 1 or above is no bound.
        max_ratio: largest importance weight; inf is no bound.

    Returns:
        `[N]` losses, and the tokens that were dropped.

    Raises:
        UsageError: a bound makes no sense.
    """
    check(delta_low, delta_high, max_ratio)
    moved_N = logprobs.detach().exp() - old_logprobs.exp()
    keep_N = torch.where(advantages > 0, moved_N <= delta_high, moved_N >= -delta_low)
    return gated(logprobs, old_logprobs, advantages, keep_N, max_ratio)
