"""Pass@k training: advantages of pass@k as the objective, by counting subsets instead of drawing them (2508.10751)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerRow
from entropyctl.errors import UsageError


def pass_at_k(reward: Array, group: Array, *, k: int = 4) -> PerRow:
    """Pass@k training: advantages of pass@k as the objective, by counting subsets instead of drawing them.

    A_i = (1 - rho) / (sigma + 1e-6) for a correct response, and for one that is not
    A_i = (1 - rho - C(n-c-1, k-1) / C(n-1, k-1)) / (sigma + 1e-6),
    with c of the group's n responses correct, rho = 1 - C(n-c, k) / C(n, k), sigma = sqrt(rho (1 - rho)).

    Paper: Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning Models,
    arXiv 2508.10751.

    Code: RUCAIBox/Passk_Training, calc_adv (no default for k; 4 is ours).

    Where they differ: a reward that is neither 0 nor 1 is returned as it is and counts as not correct; give this
    method rewards that are not shaped. Where no response is correct, or fewer than k are wrong, all get 0. So does a
    group of fewer than k responses, for which the authors' code divides 0 by 0.

    Entropy: falls less than with GRPO, and may rise: prompts that are solved in k attempts are left alone.

    Shipped by: none of the peers.

    Verified: the authors' numbers (golden vectors).

    Args:
        reward: `[B]` R, 1 (correct) or 0.
        group: `[B]` number of the row's group.
        k: attempts of which one must be correct.

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: k is below 1.
    """
    if k < 1:
        raise UsageError(f"--k {k:g}: must be 1 or more")
    reward_B = np.asarray(reward, np.float64)
    _, index_B, n_G = np.unique(group, return_inverse=True, return_counts=True)
    c_G = np.bincount(index_B, reward_B == 1).astype(np.int64)
    none_correct_G = _ratio(n_G - c_G, n_G, k)  # 1 - rho
    sigma_G = np.sqrt((1 - none_correct_G) * none_correct_G)
    others_wrong_G = _ratio(n_G - c_G - 1, n_G - 1, k - 1)
    right_G = none_correct_G / (sigma_G + 1e-6)
    wrong_G = (none_correct_G - others_wrong_G) / (sigma_G + 1e-6)
    values_B = np.where(reward_B == 0, wrong_G[index_B], reward_B)
    return np.where(reward_B == 1, right_G[index_B], values_B)


def _ratio(some_G: Array, all_G: Array, k: int) -> Array:
    """C(some, k) / C(all, k) as a product, which no large number enters; 0 where some < k."""
    found_G = np.where(some_G < k, 0.0, 1.0)
    for i in range(min(k, int(some_G.max(initial=0)))):
        found_G = found_G * np.where(some_G >= k, (some_G - i) / np.maximum(all_G - i, 1), 0.0)
    return found_G
