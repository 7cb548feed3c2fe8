"""ReMax: returns less the reward of the prompt's greedy response (2310.10505)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerToken
from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.errors import UsageError


def remax(
    token_rewards: Array, greedy: Array, group: Array, row_of_token: Array, loss_mask: Array, reward: Array
) -> PerToken:
    """ReMax: returns less the reward of the prompt's greedy response.

    A_t = sum_{t' >= t} r_t' - b_g,  b_g = the reward of the response of temperature 0 to the same prompt.
    The greedy response itself gets 0.

    Paper: ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models,
    arXiv 2310.10505.

    Code: verl, compute_remax_outcome_advantage.

    Where they differ: verl never puts the greedy responses into the batch; here they are rows of the table, marked in
    the column `greedy`. Of several greedy rows of a prompt the mean counts.

    Entropy: falls; samples that do no better than the mode are pushed down, so that it falls less than without
    a baseline.

    Shipped by: verl.

    Verified: the authors' numbers (verl, in float64).

    Args:
        token_rewards: `[N]` r, the reward of each token; a response's reward lies on its last counted token.
        greedy: `[B]` True for the greedy row of a prompt.
        group: `[B]` number of the row's group.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        reward: `[B]` R.

    Returns:
        `[N]` A, float64; 0 where the token is not counted and in greedy rows.

    Raises:
        UsageError: a group has no greedy row.
    """
    greedy_B, row_N = np.asarray(greedy, bool), np.asarray(row_of_token)
    _, index_B, size_G = np.unique(group, return_inverse=True, return_counts=True)
    count_G = np.bincount(index_B[greedy_B], minlength=len(size_G))
    if (count_G == 0).any():
        raise UsageError(
            f"{(count_G == 0).sum()} of {len(count_G)} prompts have no greedy response, which is remax's baseline; "
            "roll out with `entropyctl rollout --greedy-baseline`"
        )
    sum_G = np.bincount(index_B[greedy_B], np.asarray(reward, np.float64)[greedy_B], len(size_G))
    baseline_B = (sum_G / count_G)[index_B]
    advantage_N = returns_to_go(token_rewards, row_N, loss_mask, 1.0) - baseline_B[row_N]
    return np.where(np.asarray(loss_mask, bool) & ~greedy_B[row_N], advantage_N, 0.0)
