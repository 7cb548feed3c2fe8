"""GDPO: several rewards, each standardised within its group before they are added (2601.05242)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import PerToken
from entropyctl.advantages._whiten import whiten
from entropyctl.advantages.grpo import grpo
from entropyctl.errors import UsageError


def gdpo(
    rewards: Array,
    group: Array,
    row_of_token: Array,
    loss_mask: Array,
    *,
    weights: str = "",
    variant: Literal["verl", "trl"] = "verl",
) -> PerToken:
    """GDPO: several rewards, each standardised within its group before they are added.

    A_t = whiten(sum_m w_m A_im),  A_im = (R_im - mean_g(R_m)) / (std_g(R_m) + eps)

    The rewards are the table's columns `reward_NAME` (`score --reward-as NAME`), in order of name. The column
    `reward` is not read, so that `overlong` and `kl-in-reward`, which change it, have no effect before this.

    Paper: GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL Optimization,
    arXiv 2601.05242.

    Code: verl, compute_gdpo_outcome_advantage (eps 1e-6, weights 1).

    Where they differ: verl (the default) whitens over the counted tokens of the step, so that long responses weigh
    more: (x - mean) / sqrt(var + 1e-8). TRL (multi_objective_aggregation normalize_then_sum) standardises over the
    responses, has eps 1e-4 in both places, and here gives a group of one 0 before it; in verl's form such a group
    keeps its reward.

    Entropy: falls as with GRPO; rewards that rarely differ, such as format, keep their say.

    Shipped by: verl, TRL.

    Verified: a float64 reference written from both codes' formulas.

    Args:
        rewards: `[B, M]` the rewards of each row.
        group: `[B]` number of the row's group.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        weights: comma-separated weights, one per reward in order of name; empty means 1 for all.
        variant: verl's whitening over tokens, or TRL's over responses.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: weights are not as many finite numbers as there are rewards.
    """
    rewards_BM = np.asarray(rewards, np.float64)
    weights_M = _weights(weights, rewards_BM.shape[1])
    if variant == "verl":
        return whiten((_standardised(rewards_BM, group, 1e-6) @ weights_M)[row_of_token], loss_mask)
    alone_B = group_moments(np.zeros(len(rewards_BM)), group).count_B == 1
    sum_B = np.where(alone_B, 0.0, _standardised(rewards_BM, group, 1e-4) @ weights_M)
    # The step is one group: its unbiased deviation, over responses.
    found_B = grpo(sum_B, np.zeros(len(sum_B)), eps=1e-4)
    return np.where(np.asarray(loss_mask, bool), found_B[row_of_token], 0.0)


def _standardised(rewards_BM: Array, group: Array, eps: float) -> Array:
    columns = [grpo(reward_B, group, eps=eps) for reward_B in rewards_BM.T]
    return np.stack(columns, axis=1)


def _weights(text: str, count: int) -> Array:
    if not text.strip():
        return np.ones(count)
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not all(math.isfinite(weight) for weight in found):
        raise UsageError(f"--weights {text}: must be {count} numbers with commas between them, one per reward column")
    return np.array(found)
