"""GRPO: rewards standardised within each group of samples (2402.03300)."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import PerRow
from entropyctl.errors import UsageError


def grpo(reward: Array, group: Array, *, std: bool = True, eps: float = 1e-6) -> PerRow:
    """GRPO: rewards standardised within each group of samples.

    A_i = (R_i - mean_g) / (std_g + eps), std_g the unbiased (n - 1) deviation of the group's rewards.
    With --no-std: A_i = R_i - mean_g, which is Dr.GRPO (arXiv 2503.20783).
    A group of one has mean 0 and std 1, so A = R / (1 + eps), as in verl.

    Paper: DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models, arXiv 2402.03300.

    Code: verl, compute_grpo_outcome_advantage (eps 1e-6).

    Where they differ: TRL has eps 1e-4, understand-r1-zero 1e-8. verl computes in float32, where equal rewards such
    as 0.7 leave a residue of up to 0.1; here a group of equal rewards gets exactly 0. TRL takes at least two samples,
    and gives a group of one 0 in evaluation.

    Entropy: falls, since on average the samples that are reinforced are those that were probable already.

    Shipped by: verl, TRL, Trinity-RFT.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        std: divide by the group's deviation.
        eps: added to the deviation.

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: eps is negative or not finite.
    """
    if not 0 <= eps < math.inf:
        raise UsageError(f"--eps {eps:g}: must be a finite number, 0 or above")
    reward_B = np.asarray(reward, np.float64)
    moments = group_moments(reward_B, group)
    alone_B = moments.count_B == 1
    mean_B = np.where(alone_B, 0.0, moments.mean_B)
    std_B = np.where(alone_B, 1.0, moments.std_B)
    centred_B = np.where(moments.equal_B & ~alone_B, 0.0, reward_B - mean_B)
    return centred_B / (std_B + eps) if std else centred_B
