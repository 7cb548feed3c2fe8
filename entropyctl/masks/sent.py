"""SENT: a penalty on low-entropy tokens, strongest where the covariance of A and log p is high (2512.04359)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._covariance import covariances
from entropyctl.masks._select import counted, highest, lowest, spread

# What the authors' code multiplies its coefficient by on the highest and on the lowest covariances.
STRONG, WEAK = 2.0, 0.5


def sent(
    logprobs: Array,
    entropies: Array,
    advantages: Array,
    loss_mask: Array,
    token_key: Array,
    *,
    low_fraction: float = 0.8,
    cov_ratio: float = 2e-4,
    coef: float = 0.1,
    tau_h: float | None = None,
    tau_cov: float | None = None,
    beta_low: float | None = None,
    beta_high: float | None = None,
    variant: Literal["code", "paper"] = "code",
) -> Compiled:
    """SENT: a penalty on low-entropy tokens, strongest where the covariance of A and log p is high.

    T_low = { t : H_t < tau_h },  T_high = { t in T_low : Cov_t > tau_cov },
    Cov_t = (A_t - mean A)(log p_t - mean log p);
    c_t = beta_high on T_high, beta_low on the rest of T_low, 0 elsewhere.

    Paper: Efficient Reinforcement Learning with Semantic and Token Entropy for LLM Reasoning, arXiv 2512.04359.

    Code: zldscr0/SENT, low_entropy_kl_cov_v2 (low set 0.8, cov ratio 2e-4, ppo_kl_coef 0.1). Its loss needs
    `update --objective reinforce --ratio --kl abs`: -A r without any clip, and the penalty |log p - log p_old|.

    Where they differ: the code (variant code, the default) takes the max(1, int(low_fraction N)) tokens of lowest
    H as T_low, and of these the j = max(1, int(cov_ratio |T_low|)) of highest covariance with 2 coef and the j of
    lowest with coef / 2, which goes last; all others have no penalty. It anchors to the old policy and
    adds a reference KL of 0.001 (k3) on all tokens. The text (variant paper) has thresholds, a penalty on all of
    T_low and the reference policy as anchor, which is `update --kl-to ref`.
    Its thresholds and coefficients were not found: without --tau-h, --tau-cov, --beta-low or --beta-high the code's
    number stands in for each. Which tokens its means run over was not found either; here T_low, as in the code.
    The shipped code gathers rows with an integer mask, so that its covariances belong to the wrong tokens; here the
    selection is the one that was meant. Its means and counts are over a micro-batch; here over the step, or over the
    mini-batch under `update --mask live`. Without ppo_kl_coef in the configuration it takes 1. An older function of
    the repository, low_entropy_kl_cov, penalises all of T_low and drops all other tokens; it is not here. A background
    article adds KL and covariance as two terms of the loss, which neither does. The curriculum by semantic entropy,
    whose script was not published, is `select`, not a mask.

    Entropy: keeps it from falling: the penalised tokens are those whose updates lower it most.

    Shipped by: none of the peers.

    Verified: the authors' numbers (golden vectors) with their mask made boolean; variant paper by a float64 reference
    written from the formula.

    Args:
        logprobs: `[N]` log p of the current policy, nats.
        entropies: `[N]` H of the current policy, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        token_key: `[N]` uint64, the token's identity; it decides between equal values.
        low_fraction: T_low as a fraction of the counted tokens.
        cov_ratio: highest (and in the code lowest) covariances as a fraction of T_low.
        coef: the code's coefficient, doubled on the highest covariances and halved on the lowest.
        tau_h: entropy below which a token is in T_low, nats; low_fraction decides without it (paper only).
        tau_cov: covariance above which a token is in T_high; cov_ratio decides without it (paper only).
        beta_low: coefficient on the rest of T_low; coef / 2 without it (paper only).
        beta_high: coefficient on T_high; 2 coef without it (paper only).
        variant: the authors' code or the paper's text.

    Returns:
        KL coefficients.

    Raises:
        UsageError: a keyword is out of range, or is of the other variant.
    """
    require(0 <= low_fraction <= 1, "--low-fraction", low_fraction, "lie in [0, 1]")
    require(0 <= cov_ratio <= 1, "--cov-ratio", cov_ratio, "lie in [0, 1]")
    require(0 <= coef < math.inf, "--coef", coef, "be a finite number, 0 or above")
    for flag, value in (("tau-h", tau_h), ("tau-cov", tau_cov), ("beta-low", beta_low), ("beta-high", beta_high)):
        if value is not None:
            allowed = math.isfinite(value) and (value >= 0 or flag == "tau-cov")
            require(allowed, f"--{flag}", value, "be a finite number" + ", 0 or above" * (flag != "tau-cov"))
            require(variant == "paper", f"--{flag}", value, "go with --variant paper")
    valid_N = np.asarray(loss_mask, bool)
    entropies_M, logprobs_M, advantages_M, key_M = counted(valid_N, entropies, logprobs, advantages, token_key)
    if tau_h is None:
        low_M = lowest(entropies_M, key_M, max(1, int(low_fraction * len(entropies_M))))
    else:
        low_M = entropies_M < np.float64(tau_h)
    cov_M = covariances(advantages_M, logprobs_M, low_M)
    count = max(1, int(cov_ratio * np.count_nonzero(low_M)))
    high_M = highest(cov_M, key_M, count, low_M) if tau_cov is None else low_M & (cov_M > tau_cov)
    weak_M = lowest(cov_M, key_M, count, low_M) if variant == "code" else low_M & ~high_M
    kl_coefs_M = np.zeros(len(cov_M), np.float32)
    kl_coefs_M[high_M] = STRONG * coef if beta_high is None else beta_high
    kl_coefs_M[weak_M] = WEAK * coef if beta_low is None else beta_low
    return Compiled(kl_coefs=spread(kl_coefs_M, valid_N, 0.0))
