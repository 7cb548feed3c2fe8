"""SEED-GRPO: advantages of prompts with uncertain answers are made smaller (2505.12346)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._likelihood import log_likelihoods
from entropyctl.advantages._returns import PerRow
from entropyctl.dynamics.semantic_entropy import semantic_entropy
from entropyctl.errors import UsageError


def seed_grpo(
    reward: Array,
    group: Array,
    old_logprobs: Array,
    row_of_token: Array,
    loss_mask: Array,
    cluster: Array,
    *,
    alpha: float = 0.0417,
    modulation: Literal["linear", "exp", "focal"] = "linear",
    focal_gamma: float = 2.0,
    estimator: Literal["rao", "mean-log", "counts"] = "rao",
    mass: Literal["normalised", "raw"] = "normalised",
    likelihood: Literal["mean", "sum"] = "mean",
) -> PerRow:
    """SEED-GRPO: advantages of prompts with uncertain answers are made smaller.

    A_i = (R_i - mean_g) f(alpha SE_g / log G), SE_g the semantic entropy of the group's answers, G its size;
    f(x) = 1 - x (linear), exp(-x) (exp) or (1 - x)^focal_gamma (focal), with 1 - x never below 0.
    SE_g = - sum_k p_k log p_k (rao), - (1/K) sum_k log p_k (mean-log), or rao with p_k the share of responses
    (counts); p_k is the probability of answer k, the sum over its responses.

    Paper: SEED-GRPO: Semantic Entropy Enhanced GRPO for Uncertainty-Aware Policy Optimization, arXiv 2505.12346.
    It has mean-log over raw probabilities of whole responses: `--estimator mean-log --mass raw --likelihood sum`.

    Code: liv-daliberti/maxent-grpo, a third party's (alpha 0.0417, divided by log G; rao; normalised; mean
    log-probability per token). The authors' repository holds no code.

    Where they differ: the paper's alpha, the form of its focal modulation and its exponent were not found; alpha
    is the third party's, focal_gamma 2 is ours. mean-log has no upper bound and raw masses may exceed 1, so SE may
    then lie outside [0, log G]. A group of one has log G = 0; it keeps the factor 1, and its advantage is 0. A
    response without an answer is an answer of its own; correct responses, which the grader verified, are one answer,
    and others are the same where the answers read out of them are equal as strings.

    Entropy: nothing directly; smaller steps where answers disagree slow the fall of entropy on uncertain prompts.

    Shipped by: none of the peers.

    Verified: the example of 2505.12346's estimators in float64, and a reference written from the formula.

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        old_logprobs: `[N]` log-probability of each token under the policy that the step started from, nats.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        cluster: `[B]` number of the row's answer; equal within a group = the same answer.
        alpha: how strongly uncertainty weighs.
        modulation: f.
        focal_gamma: exponent of the focal modulation.
        estimator: of the semantic entropy.
        mass: probabilities of the answers, normalised within the group or raw.
        likelihood: of a response: mean of its tokens' log-probabilities, or their sum.

    Returns:
        `[B]` A, float64.

    Raises:
        UsageError: alpha or focal_gamma is negative or not finite.
    """
    for flag, value in (("--alpha", alpha), ("--focal-gamma", focal_gamma)):
        if not 0 <= value < math.inf:
            raise UsageError(f"{flag} {value:g}: must be a finite number, 0 or above")
    reward_B = np.asarray(reward, np.float64)
    moments = group_moments(reward_B, group)
    centred_B = np.where(moments.equal_B, 0.0, reward_B - moments.mean_B)
    logprob_B = log_likelihoods(old_logprobs, row_of_token, loss_mask, len(reward_B), mean=likelihood == "mean")
    found = semantic_entropy(group, cluster, logprob_B, estimator=estimator, mass=mass)
    x_G = alpha * found.entropy_G / np.where(found.size_G > 1, np.log(found.size_G), np.inf)
    return centred_B * _factor(x_G, modulation, focal_gamma)[found.index_B]


def _factor(x_G: Array, modulation: str, focal_gamma: float) -> Array:
    if modulation == "exp":
        return np.exp(-x_G)
    rest_G = np.maximum(1 - x_G, 0.0)
    return rest_G if modulation == "linear" else rest_G**focal_gamma
