"""REINFORCE++-baseline: rewards less their group's mean, whitened over all tokens of the step (2501.03262)."""

from __future__ import annotations

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerToken
from entropyctl.advantages._whiten import whiten
from entropyctl.advantages.grpo import grpo


def reinforce_plus_plus_baseline(reward: Array, group: Array, row_of_token: Array, loss_mask: Array) -> PerToken:
    """REINFORCE++-baseline: rewards less their group's mean, whitened over all tokens of the step.

    A_t = (c_i - mean) / sqrt(var + 1e-8),  c_i = R_i - mean_g,
    mean and unbiased variance over the counted tokens of the step: long responses weigh more in them.
    A group of one has the baseline 0.

    Paper: REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization,
    arXiv 2501.03262.

    Code: verl, compute_reinforce_plus_plus_baseline_outcome_advantage.

    Where they differ: one deviation for the step, where GRPO has one per group. Since the mean over tokens is taken
    off, a group of equal rewards gets an advantage that is not quite 0. verl refuses a step of fewer than two tokens;
    here one token gets 0.

    Entropy: falls as with GRPO; prompts that are nearly solved or nearly hopeless weigh less in it.

    Shipped by: verl, OpenRLHF.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.
    """
    return whiten(grpo(reward, group, std=False)[row_of_token], loss_mask)
