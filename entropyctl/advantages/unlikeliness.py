"""Unlikeliness reward: correct responses that the policy found likely are worth less, then GRPO (2506.02355)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, sorted_in_groups
from entropyctl.advantages._likelihood import log_likelihoods
from entropyctl.advantages._returns import PerRow
from entropyctl.advantages.grpo import grpo
from entropyctl.errors import UsageError


def unlikeliness(
    reward: Array,
    group: Array,
    old_logprobs: Array,
    row_of_token: Array,
    loss_mask: Array,
    *,
    rank_penalty: float = 0.25,
    variant: Literal["code", "paper"] = "code",
) -> PerRow:
    """Unlikeliness reward: correct responses that the policy found likely are worth less, then GRPO.

    A_i = (r'_i - mean_g) / (std_g + 1e-6),  r'_i = R_i (1 - beta rank_i / G),
    rank 0 for the least likely of the group's G responses (code), or
    r'_i = R_i (1 - beta (G - rank_i) / G), rank 0 for the most likely (paper).

    Paper: Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening, arXiv 2506.02355 (beta 0.25).

    Code: AndreHe02/rewarding-unlikely-release (rank_penalty 0 in its configuration, 0.25 in its experiments).

    Where they differ: the paper's r' is smaller by beta / G for every correct response, which the normalisation does
    not undo while there are wrong ones. The code ranks by the mean log-probability of a response's tokens, the paper
    by the probability of the whole response; the variants rank accordingly. Trinity-RFT puts the penalised rewards
    into the mean and deviation only and leaves R in the numerator: a fault, not offered. The authors drop groups that
    are all right or all wrong (`advantage --keep-groups`), and find that a second epoch has a similar effect.

    Entropy: falls less than with GRPO: of the correct responses the improbable ones are reinforced most.

    Shipped by: Trinity-RFT, with the fault above.

    Verified: a float64 reference written from the authors' code and the paper's formula.

    Args:
        reward: `[B]` R, meant for 1 (correct) and 0.
        group: `[B]` number of the row's group.
        old_logprobs: `[N]` log-probability of each token under the policy that the step started from, nats.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        rank_penalty: beta, what the most likely response can lose at most, as a fraction of its reward.
        variant: ranks and likelihood of the authors' code or of the paper; equally likely responses stand in the order
            of the table.

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: rank_penalty lies outside [0, 1].
    """
    if not 0 <= rank_penalty <= 1:
        raise UsageError(f"--rank-penalty {rank_penalty:g}: must lie in [0, 1]")
    reward_B = np.asarray(reward, np.float64)
    likelihood_B = log_likelihoods(old_logprobs, row_of_token, loss_mask, len(reward_B), mean=variant == "code")
    order_B, start_G, count_G, index_B = sorted_in_groups(likelihood_B, group)
    rank_B = np.empty(len(order_B))  # from 0, the least likely
    rank_B[order_B] = np.arange(len(order_B)) - np.repeat(start_G, count_G)
    if variant == "paper":
        rank_B += 1  # the paper's G - rank, whose ranks begin at the most likely
    return grpo(reward_B * (1 - rank_penalty * rank_B / count_G[index_B]), group)
