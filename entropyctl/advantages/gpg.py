"""GPG: rewards less their group's mean, scaled up for the samples that teach nothing (2504.02546)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import PerRow
from entropyctl.advantages.grpo import grpo
from entropyctl.errors import UsageError


def gpg(reward: Array, group: Array, *, f_norm: float = 1.0, variant: Literal["verl", "paper"] = "verl") -> PerRow:
    """GPG: rewards less their group's mean, scaled up for the samples that teach nothing.

    A_i = alpha (R_i - mean_g) / F_norm,  alpha = B / (B - M), over the B responses of the step.
    A group of one has mean 0, as in verl.

    Paper: GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning, arXiv 2504.02546.

    Code: verl, compute_gpg_outcome_advantage (f_norm 1).

    Where they differ: in the paper M counts the responses without a gradient, those of groups that are all right or
    all wrong. In the code (variant verl, the default) it counts the responses with a reward of exactly 0, in whatever
    group: with rewards of 1 and 0, alpha is 1 / (share of correct responses), and with rewards of 1 and -1 it is 1.

    Entropy: falls as with Dr.GRPO; alpha lengthens the step where few samples teach.

    Shipped by: verl.

    Verified: the authors' numbers (verl, in float64); variant paper by a float64 reference.

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        f_norm: divides every advantage.
        variant: what alpha counts: rewards of 0 (verl), or responses of groups without a difference (paper).

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: f_norm is not above 0, or not finite.
    """
    if not 0 < f_norm < math.inf:
        raise UsageError(f"--f-norm {f_norm:g}: must be a finite number above 0")
    reward_B = np.asarray(reward, np.float64)
    centred_B = grpo(reward_B, group, std=False)
    moments = group_moments(reward_B, group)
    different_B = np.where(moments.count_B == 1, centred_B != 0, ~moments.equal_B)
    teaches_B = reward_B != 0 if variant == "verl" else different_B
    return len(reward_B) / max(int(teaches_B.sum()), 1) * centred_B / f_norm
