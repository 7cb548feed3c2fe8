"""Clip-Cov: drop a few random tokens out of those whose covariance of A and log p is high (2505.22617)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._covariance import covariances
from entropyctl.masks._random import uniform
from entropyctl.masks._ratio import clip_holds
from entropyctl.masks._select import counted, lowest, spread


def clip_cov(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    loss_mask: Array,
    token_key: Array,
    *,
    ratio: float = 2e-4,
    lower: float = 1.0,
    upper: float = 5.0,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
    seed: int = 0,
    variant: Literal["verl", "paper"] = "verl",
) -> Compiled:
    """Clip-Cov: drop a few random tokens out of those whose covariance of A and log p is high.

    Cov_t = (A_t - mean A)(log p_t - mean log p), means over the N counted tokens of the step.
    keep_t = 0 for max(1, floor(ratio N)) tokens drawn at random out of { t : lower < Cov_t < upper }, 1 for the rest.
    Where there are no more candidates than that, all of them go.

    Paper: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv 2505.22617.

    Code: PRIME-RL/Entropy-Mechanism-of-RL and verl, compute_policy_loss_clip_cov (ratio 2e-4, 1 to 5, PPO clip 1/1).
    The authors' loss needs `update --clip-low 1 --clip-high 1 --dual-clip 1e9`; pass the same bounds here.

    Where they differ: the code (variant verl, the default) has an open interval, takes at least one token and
    passes over tokens that PPO's clip holds already. The text (variant paper) has a closed interval, no minimum and no
    clip of the ratio. The code takes means and counts per micro-batch and draws from torch's global generator; here
    they are of the step (of the mini-batch under `update --mask live`), and the draw depends on the seed and on the
    token alone. The code zeroes a dropped token's
    loss, the text detaches it: the gradient is the same. Dropped tokens stay in the denominator in both.

    Entropy: keeps it from falling, because a step changes it by about -eta Cov(log p, A) and the largest terms go.

    Shipped by: verl, SkyRL.

    Verified: the authors' numbers (golden vectors), where every candidate is chosen.

    Args:
        logprobs: `[N]` log p of the current policy, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        token_key: `[N]` uint64, the token's identity.
        ratio: tokens to drop, as a fraction of those counted.
        lower: covariance above which a token is a candidate.
        upper: covariance below which it is one.
        clip_low: the PPO clip of the update: how far below 1 the ratio may go (verl only).
        clip_high: how far above 1 (verl only).
        seed: of the draw.
        variant: the code that its authors gave to verl, or the paper's text.

    Returns:
        Weights of 0 on the tokens dropped, 1 elsewhere.

    Raises:
        UsageError: a keyword is out of range.
    """
    require(0 < ratio <= 1, "--ratio", ratio, "lie above 0, up to 1")
    require(math.isfinite(lower), "--lower", lower, "be a finite number")
    require(math.isfinite(upper), "--upper", upper, "be a finite number")
    require(lower <= upper, "--lower", lower, f"not lie above --upper {upper:g}")
    require(0 <= clip_low < math.inf, "--clip-low", clip_low, "be a finite number, 0 or above")
    require(0 <= clip_high < math.inf, "--clip-high", clip_high, "be a finite number, 0 or above")
    valid_N = np.asarray(loss_mask, bool)
    new_M, old_M, advantages_M, key_M = counted(valid_N, logprobs, old_logprobs, advantages, token_key)
    cov_M = covariances(advantages_M, new_M)
    count = int(ratio * len(cov_M))
    if variant == "verl":
        candidate_M = (cov_M > lower) & (cov_M < upper)
        candidate_M &= ~clip_holds(new_M, old_M, advantages_M, clip_low, clip_high)
        count = max(count, 1)
    else:
        candidate_M = (cov_M >= lower) & (cov_M <= upper)
    keys = key_M[candidate_M]
    keep_M = np.ones(len(cov_M), bool)
    keep_M[np.flatnonzero(candidate_M)[lowest(uniform(keys, seed), keys, count)]] = False
    return removed(spread(keep_M, valid_N, True), valid_N, counted=True)
