"""KL-Cov: a penalty on the tokens whose covariance of A and log p is highest (2505.22617)."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._covariance import covariances
from entropyctl.masks._select import counted, highest, spread


def kl_cov(
    logprobs: Array,
    advantages: Array,
    loss_mask: Array,
    token_key: Array,
    *,
    ratio: float = 2e-3,
    coef: float = 1.0,
) -> Compiled:
    """KL-Cov: a penalty on the tokens whose covariance of A and log p is highest.

    Cov_t = (A_t - mean A)(log p_t - mean log p), means over the N counted tokens of the step.
    c_t = coef on the max(1, floor(ratio N)) tokens of highest Cov_t, 0 on the rest.

    Paper: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv 2505.22617.

    Code: PRIME-RL/Entropy-Mechanism-of-RL and verl, compute_policy_loss_kl_cov (7B: ratio 2e-3, coef 1).
    The authors' loss needs `update --objective reinforce --ratio --kl abs`: -A r without any clip, and the penalty
    |log p - log p_old|. Its gradient is 0 where both are equal, so the first mini-batch after a rollout is a plain
    policy gradient: take several (the paper has 8) with `--mask live`.

    Where they differ: the authors give the ratio in percent (k_percent 0.2 for 7B, 0.02 for 32B, which is 2e-4).
    verl's configuration has ratio 2e-4 and coefficient 0.1. SkyRL's default 0.2 is a fraction, 100 times the authors'.
    The code takes at least one token, the text floor(ratio N), which is none below 1 / ratio tokens.
    The code's penalty is |log p - log p_old|, the text writes KL(old || new): choose with `update --kl`. Both anchor to
    the policy of the rollout, not to a reference. The code takes means and counts per micro-batch; here they are
    of the step, or of the mini-batch under `update --mask live`. Nothing asks for the sign: where all covariances are
    negative, negative ones are penalised.

    Entropy: keeps it from falling, because a step changes it by about -eta Cov(log p, A) and the largest terms are
    held back.

    Shipped by: verl, SkyRL.

    Verified: the authors' numbers (golden vectors).

    Args:
        logprobs: `[N]` log p of the current policy, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        token_key: `[N]` uint64, the token's identity; it decides between equal covariances.
        ratio: tokens to penalise, as a fraction of those counted.
        coef: coefficient of the penalty on them.

    Returns:
        KL coefficients.

    Raises:
        UsageError: a keyword is out of range.
    """
    require(0 <= ratio <= 1, "--ratio", ratio, "lie in [0, 1]")
    require(0 <= coef < math.inf, "--coef", coef, "be a finite number, 0 or above")
    valid_N = np.asarray(loss_mask, bool)
    logprobs_M, advantages_M, key_M = counted(valid_N, logprobs, advantages, token_key)
    cov_M = covariances(advantages_M, logprobs_M)
    highest_M = highest(cov_M, key_M, max(int(ratio * len(cov_M)), 1))
    return Compiled(kl_coefs=spread(highest_M * np.float32(coef), valid_N, 0.0))
