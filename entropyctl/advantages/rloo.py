"""RLOO: each reward less the mean of the group's other samples (2402.14740)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import PerRow
from entropyctl.advantages.grpo import grpo


def rloo(reward: Array, group: Array, *, alone: Literal["keep", "zero"] = "keep") -> PerRow:
    """RLOO: each reward less the mean of the group's other samples.

    A_i = R_i - 1/(n - 1) sum_{j != i} R_j = n / (n - 1) (R_i - mean_g)

    Paper: Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs,
    arXiv 2402.14740.

    Code: verl, compute_rloo_outcome_advantage (--alone keep) and compute_rloo_vectorized_outcome_advantage
    (--alone zero).

    Where they differ: a group of one has no other samples. verl's first version leaves its reward as the advantage,
    its vectorised one gives 0; TRL takes at least two samples.

    Entropy: falls as with GRPO, whose direction it has; only the length of the step differs.

    Shipped by: verl, TRL.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        alone: the advantage of a group of one: its reward (keep) or 0 (zero).

    Returns:
        `[B]` A, float64.
    """
    count_B = group_moments(np.asarray(reward, np.float64), group).count_B
    others_B = np.maximum(count_B - 1, 1)
    advantage_B = grpo(reward, group, std=False) * (count_B / others_B)
    return np.where(count_B > 1, advantage_B, 0.0) if alone == "zero" else advantage_B
