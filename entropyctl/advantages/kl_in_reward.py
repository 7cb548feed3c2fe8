"""KL in the reward: each token pays for its distance from the reference policy (1909.08593)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._returns import Array, TokenReward
from entropyctl.errors import UsageError


def kl_in_reward(
    old_logprobs: Array,
    ref_logprobs: Array,
    loss_mask: Array,
    *,
    beta: float = 0.001,
    estimator: Literal["k1", "k2", "k3", "abs"] = "k1",
) -> TokenReward:
    """KL in the reward: each token pays for its distance from the reference policy.

    R_i = R_i - beta sum_t KL_t, token by token, with d = log pi_old - log pi_ref:
    k1 = d,  k2 = d^2 / 2,  k3 = exp(-d) + d - 1,  abs = |d|

    Paper: Fine-tuning language models from human preferences, arXiv 1909.08593.

    Code: verl, apply_kl_penalty (beta 0.001, k1; off by default). As there, d is held within 20 nats and k3 within
    10, so that one token cannot overflow.

    Where they differ: TRL has it in RLOO alone (k1, beta 0.05), and GRPO of both adds the KL to the loss. A fixed
    beta only: verl's adaptive one (target 0.1, horizon 10000) is not here.

    Entropy: holds it near the reference policy's.

    Shipped by: verl, TRL.

    Verified: verl's numbers of its estimators.

    Args:
        old_logprobs: `[N]` log-probability of each token under the policy that the step started from, nats.
        ref_logprobs: `[N]` the same under the reference policy.
        loss_mask: `[N]` True where the token is counted.
        beta: reward per nat.
        estimator: of the KL from one sample.

    Returns:
        `[N]` what is added to the token's reward, float64; 0 where the token is not counted.

    Raises:
        UsageError: beta is negative or not finite.
    """
    if not 0 <= beta < math.inf:
        raise UsageError(f"--beta {beta:g}: must be a finite number, 0 or above")
    mask_N = np.asarray(loss_mask, bool)
    difference_N = np.asarray(old_logprobs, np.float64)[mask_N] - np.asarray(ref_logprobs, np.float64)[mask_N]
    reward_N = np.zeros(len(mask_N))
    reward_N[mask_N] = -beta * _kl(difference_N, estimator)
    return reward_N


def _kl(difference_N: Array, estimator: str) -> Array:
    if estimator == "k1":
        return difference_N
    if estimator == "abs":
        return np.abs(difference_N)
    if estimator == "k2":
        return difference_N**2 / 2
    held_N = np.clip(difference_N, -20.0, 20.0)
    return np.minimum(np.expm1(-held_N) + held_N, 10.0)
