"""DPPO-KL: drop tokens whose binary KL divergence has already grown too far (2602.04879)."""

from __future__ import annotations

import torch
from torch import Tensor

from entropyctl.objectives._dppo import check, gated
from entropyctl.objectives._policy_loss import PolicyLoss

# Added to both probabilities of "another token", as in the authors' code.
FLOOR = 1e-8


def dppo_kl(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    delta_low: float = 0.05,
    delta_high: float = 0.05,
    max_ratio: float = 20.0,
) -> PolicyLoss:
    """DPPO-KL: drop tokens whose binary KL divergence has already grown too far.

    D = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p));
    keep_t = [ D <= delta_high or p <= p_old ] where A > 0, else [ D <= delta_low or p >= p_old ];
    l_t = -A sg(min(r, max_ratio)) log p keep_t,  r = p / p_old,  sg: no gradient.

    Paper: Rethinking the Trust Region in LLM Reinforcement Learning, arXiv 2602.04879.
    Code: verl, compute_policy_loss_dppo_kl (by the authors; their script sets 0.05, 0.05 and 10000).

    Where they differ: the code falls back to a max_ratio of 20 and calls for a large one, but verl's configuration
    always passes 3.0, and 0.2 for both deltas. The authors' script reduces by seq-mean-token-sum-norm and takes the
    rollout engine's log p as the old one. The code adds 1e-8 to 1 - p and 1 - p_old, and so does this.

    Entropy: rare tokens may grow by large ratios, where PPO would stop them, which slows its fall.
    Shipped by: verl.
    Verified: the authors' numbers (golden vectors of verl), losses and gradients.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        old_logprobs: `[N]` log p under the policy that the advantages were measured with.
        advantages: `[N]` A.
        delta_low: divergence at which a token with A <= 0 that lost probability is dropped, nats; inf is no bound.
        delta_high: divergence at which one with A > 0 that gained is dropped, nats; inf is no bound.
        max_ratio: largest importance weight; inf is no bound.

    Returns:
        `[N]` losses, and the tokens that were dropped.

    Raises:
        UsageError: a bound makes no sense.
    """
    check(delta_low, delta_high, max_ratio)
    p_N, old_N = logprobs.detach().exp(), old_logprobs.exp()
    # A rounded log p may be a little above 0, and the logarithm below must not see a negative number.
    other_N, old_other_N = (1 - p_N).clamp(min=0.0) + FLOOR, (1 - old_N).clamp(min=0.0) + FLOOR
    divergence_N = old_N * (old_logprobs - logprobs.detach()) + (1 - old_N) * (old_other_N / other_N).log()
    keep_N = torch.where(
        advantages > 0, (divergence_N <= delta_high) | (p_N <= old_N), (divergence_N <= delta_low) | (p_N >= old_N)
    )
    return gated(logprobs, old_logprobs, advantages, keep_N, max_ratio)
