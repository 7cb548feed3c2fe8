"""Archer: a tight clip and a KL penalty on a response's low-entropy tokens, a wide clip on the others (2507.15778)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._ratio import clip_holds
from entropyctl.masks._select import counted, row_quantiles, spread


def archer(
    logprobs: Array,
    old_logprobs: Array,
    entropies: Array,
    advantages: Array,
    loss_mask: Array,
    row_of_token: Array,
    *,
    quantile: float = 0.8,
    clip_low_entropy: float = 0.2,
    clip_high_entropy: float = 0.5,
    coef: float = 0.001,
    variant: Literal["authors", "paper"] = "authors",
) -> Compiled:
    """Archer: a tight clip and a KL penalty on a response's low-entropy tokens, a wide clip on the others.

    eps_t = 0.2 where H_t <= tau_i and 0.5 elsewhere,  tau_i = the 0.8-quantile of H within response i.
    w_t = 0 where A_t > 0 and r_t > 1 + eps_t, or A_t < 0 and r_t < 1 - eps_t; 1 elsewhere.
    c_t = coef where H_t <= tau_i, 0 elsewhere.

    Paper: Stabilizing Knowledge, Promoting Reasoning: Dual-Token Constraints for RLVR, arXiv 2507.15778.

    Code: wizard-III/ArcherCodeR (quantile 0.8, clips 0.2 and 0.5, low_var_kl with 0.001 and 0, dual clip 10).
    The mask holds a token where its own clip would, so the update must not clip too:
    `update --mask live --clip-low 1 --clip-high 1e9 --dual-clip 10 --kl k3`. On a file whose log-probabilities are
    those of the policy that the step started from every ratio is 1, and nothing is held.

    Where they differ: the code (variant authors, the default) divides the penalty by the low-entropy tokens alone;
    under the token mean that is coef N / N_low for each, over the micro-batch there and over the step, or the live
    mini-batch, here. The text (variant paper) has coef, and counts a token at the quantile itself as high. The names
    of the two sets are swapped in the code, the numbers are not. Its configuration has four bounds; the lower and the
    upper one of a set are equal in the authors' scripts and are one here. A token that is held has loss 0 here and its
    clipped loss there; the gradient is the same. The authors penalise the distance to the reference policy, which is
    `update --kl-to ref`. The authors' later Archer2.0 (wide clip 0.4) is another loss and is not this.

    Entropy: low-entropy tokens change it little; high-entropy ones may change it further, in either direction.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula.

    Args:
        logprobs: `[N]` log p of the current policy, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        entropies: `[N]` H of the current policy, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        row_of_token: `[N]` the response that the token belongs to.
        quantile: fraction of a response's tokens that count as low-entropy.
        clip_low_entropy: how far from 1 the ratio of a low-entropy token may go.
        clip_high_entropy: how far from 1 that of a high-entropy token may go.
        coef: coefficient of the penalty on low-entropy tokens.
        variant: the authors' code or the paper's text.

    Returns:
        Weights of 0 on the tokens that are held, 1 elsewhere, and KL coefficients.

    Raises:
        UsageError: a keyword is out of range.
    """
    require(0 <= quantile <= 1, "--quantile", quantile, "lie in [0, 1]")
    for flag, eps in (("--clip-low-entropy", clip_low_entropy), ("--clip-high-entropy", clip_high_entropy)):
        require(0 <= eps < math.inf, flag, eps, "be a finite number, 0 or above")
    require(0 <= coef < math.inf, "--coef", coef, "be a finite number, 0 or above")
    valid_N = np.asarray(loss_mask, bool)
    entropies_M, row_M = counted(valid_N, entropies, row_of_token)
    tau_M = row_quantiles(entropies_M, row_M, quantile)
    low_M = entropies_M <= tau_M if variant == "authors" else entropies_M < tau_M
    del tau_M  # a step's float64
    new_M, old_M, A_M = counted(valid_N, logprobs, old_logprobs, advantages)
    tight_M, wide_M = (clip_holds(new_M, old_M, A_M, eps, eps) for eps in (clip_low_entropy, clip_high_entropy))
    held_M = (low_M & tight_M) | (~low_M & wide_M)
    share = low_M.mean() if variant == "authors" and low_M.any() else 1.0
    kl_coefs_M = low_M * np.float32(coef / share)
    return Compiled(spread((~held_M).astype(np.float32), valid_N, 1.0), spread(kl_coefs_M, valid_N, 0.0))
