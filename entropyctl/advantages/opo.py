"""OPO: rewards less their group's mean weighted by length, the baseline of least variance (2505.23585)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerRow
from entropyctl.advantages.grpo import grpo


def opo(reward: Array, group: Array, row_of_token: Array, loss_mask: Array) -> PerRow:
    """OPO: rewards less their group's mean weighted by length, the baseline of least variance.

    A_i = R_i - b_g,  b_g = sum_j L_j R_j / sum_j L_j, L_j the counted tokens of response j.
    A group of one has the baseline 0, as in verl.

    Paper: On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585.

    Code: verl, compute_opo_outcome_advantage.

    Where they differ: the optimal baseline weighs by squared gradient norms, for which the length stands in. The
    paper's training is exactly on-policy, without KL and entropy terms; verl leaves that to the configuration.

    Entropy: falls; its authors report higher entropy than GRPO's, from strictly on-policy steps.

    Shipped by: verl.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.

    Returns:
        `[B]` A, float64.
    """
    # Weighing what is left of the mean leaves a group of equal rewards at exactly 0.
    centred_B = grpo(reward, group, std=False)
    _, index_B, count_G = np.unique(group, return_inverse=True, return_counts=True)
    length_B = np.bincount(np.asarray(row_of_token)[np.asarray(loss_mask, bool)], minlength=len(centred_B))
    length_G = np.bincount(index_B, length_B)
    baseline_G = np.bincount(index_B, length_B * centred_B) / np.maximum(length_G, 1)
    return centred_B - np.where(count_G > 1, baseline_G, 0.0)[index_B]
