"""REINFORCE with outcomes: a number for every token of a correct response, another for those of the others."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.advantages._groups import Array
from entropyctl.errors import InputError, UsageError


def outcome_advantages(
    reward_B: Array, row_N: Array, mask_N: Array, *, correct: float, wrong: float, gamma: float = 1.0
) -> Array:
    """`correct` times gamma^(counted tokens still to come) for rewards of 1, `wrong` for rewards of 0.

    Raises:
        UsageError: gamma lies outside [0, 1].
        InputError: a reward is neither 0 nor 1.
    """
    if not 0 <= gamma <= 1:
        raise UsageError(f"--gamma {gamma:g}: must lie in [0, 1]")
    right_N = require_outcomes(reward_B)[row_N]
    mask_N = np.asarray(mask_N, bool)
    end_B = np.cumsum(np.bincount(np.asarray(row_N)[mask_N], minlength=len(reward_B)))
    to_come_N = end_B[row_N] - np.cumsum(mask_N)
    return np.where(mask_N, np.where(right_N, correct * gamma**to_come_N, wrong), 0.0)


def own_share(reward_B: Array, row_N: Array, mask_N: Array, outcome: int) -> float:
    """Counted tokens of the step for each counted token of the responses with this reward; 1 where there is none.

    Times this, a mean over all tokens is a mean over those of the responses alone.
    """
    mask_N = np.asarray(mask_N, bool)
    own_N = mask_N & (np.asarray(reward_B) == outcome)[row_N]
    return float(mask_N.sum() / own_N.sum()) if own_N.any() else 1.0


def require_outcomes(reward_B: Array) -> Array:
    """`[B]` True where the reward is 1.

    Raises:
        InputError: a reward is neither 0 nor 1.
    """
    reward_B = np.asarray(reward_B)
    other_B = (reward_B != 0) & (reward_B != 1)
    if other_B.any():
        raise InputError(
            f"{other_B.sum()} rewards are neither 0 nor 1, the first is {float(reward_B[other_B][0]):g}; this method "
            "takes outcomes: grade with `entropyctl score --reward`, and shape no rewards before it"
        )
    return reward_B == 1


def require_weight(weight: float) -> None:
    """Refuse a weight below 0.

    Raises:
        UsageError: it is negative or not finite.
    """
    if not 0 <= weight < math.inf:
        raise UsageError(f"--weight {weight:g}: must be a finite number, 0 or above")
