"""QAE: rewards less a quantile of their group instead of the mean (2509.22611)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array, group_moments, sorted_in_groups
from entropyctl.advantages._returns import PerRow
from entropyctl.errors import UsageError


def qae(reward: Array, group: Array, *, quantile: float = 0.4, std: bool = False) -> PerRow:
    """QAE: rewards less a quantile of their group instead of the mean.

    A_i = R_i - Q_K(g),  Q_K the smallest reward of the group that at least a share K of its rewards do not exceed.
    With rewards of 0 and 1 and a share p of them correct: Q_K = 0 where p <= 1 - K, so that only correct responses
    teach, and 1 elsewhere, so that only wrong ones do. A group of one has A = 0.

    Paper: Quantile Advantage Estimation for Entropy-Safe Reasoning, arXiv 2509.22611 (K 0.4).

    Where they differ: no code was found. The baseline alone is the paper's subject; DAPO, on which it was tried,
    divides by the group's deviation, for which there is --std (eps 1e-6, as in grpo).

    Entropy: held from both sides: hard prompts only reinforce rare successes, easy ones only push failures down.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula; no code was published.

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        quantile: K. The larger, the more prompts count as easy.
        std: divide by the group's unbiased deviation.

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: quantile lies outside [0, 1].
    """
    if not 0 <= quantile <= 1:
        raise UsageError(f"--quantile {quantile:g}: must lie in [0, 1]")
    reward_B = np.asarray(reward, np.float64)
    order_B, start_G, count_G, index_B = sorted_in_groups(reward_B, group)
    # K n may lie a rounding error above a whole number: 0.07 of 100 is the 7th.
    below_G = np.ceil(quantile * count_G - 1e-9).astype(np.int64)
    baseline_G = reward_B[order_B][start_G + np.maximum(below_G - 1, 0)]
    centred_B = reward_B - baseline_G[index_B]
    return centred_B / (group_moments(reward_B, group).std_B + 1e-6) if std else centred_B
