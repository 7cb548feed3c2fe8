"""Best of k: only the best sample of a group is reinforced, by its lead over the second (2503.19595)."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.advantages._groups import Array, group_moments, sorted_in_groups
from entropyctl.advantages._returns import PerRow
from entropyctl.errors import UsageError


def grpo_passk(reward: Array, group: Array, *, std: bool = True, eps: float = 1e-6) -> PerRow:
    """Best of k: only the best sample of a group is reinforced, by its lead over the second.

    A_i = (R_(1) - R_(2)) / (std_g + eps) for the sample with the highest reward, 0 for the others; 0 for all where two
    share the highest. R_(1), R_(2) are the two highest rewards, std_g the group's unbiased deviation.

    Paper: Optimizing Language Models for Inference Time Objectives using Reinforcement Learning, arXiv 2503.19595.

    Code: verl, compute_grpo_passk_outcome_advantage (estimator grpo_passk; divides by the deviation).

    Where they differ: the paper does not divide by the deviation (--no-std). With rewards of 0 and 1 only groups with
    exactly one correct sample teach.

    Entropy: falls less than with GRPO, since what the policy already solves often is not reinforced.

    Shipped by: verl.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        std: divide by the group's deviation.
        eps: added to the deviation.

    Returns:
        `[B]` A, float64, 0 or above.

    Raises:
        UsageError: a group has one sample only; eps is negative or not finite.
    """
    if not 0 <= eps < math.inf:
        raise UsageError(f"--eps {eps:g}: must be a finite number, 0 or above")
    reward_B = np.asarray(reward, np.float64)
    order_B, start_G, count_G, _ = sorted_in_groups(reward_B, group)
    if (count_G < 2).any():
        raise UsageError(
            f"{(count_G < 2).sum()} of {len(count_G)} prompts have a single response, and grpo-passk compares the two "
            "best; roll out with `--n` 2 or more"
        )
    last_G = start_G + count_G - 1
    best_G, second_G = order_B[last_G], order_B[last_G - 1]
    lead_G = reward_B[best_G] - reward_B[second_G]
    if std:
        # A group without a lead may have no deviation either.
        lead_G = lead_G / np.where(lead_G > 0, group_moments(reward_B, group).std_B[best_G] + eps, 1.0)
    advantage_B = np.zeros(len(reward_B))
    advantage_B[best_G] = lead_G
    return advantage_B
