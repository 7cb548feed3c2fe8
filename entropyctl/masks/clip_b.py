"""Clip_B: drop tokens whose S* lies far below the batch mean (2602.03392)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import moments
from entropyctl.masks._clip import outliers, worst
from entropyctl.masks._compiled import Array, Compiled, removed


def clip_b(
    s_star: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    mu: float = 2.5,
    mu_high: float | None = None,
    sides: Literal["low", "high", "both"] | None = None,
    apply_to: Literal["negative", "positive", "both"] | None = None,
    max_frac: float | None = None,
    variant: Literal["paper", "trinity"] = "trinity",
) -> Compiled:
    """Clip_B: drop tokens whose S* lies far below the batch mean.

    keep_t = [ -mu sigma <= S*_t - mean(S*) <= mu_high sigma ],  S*_t = p (H + log p),
    with mean and population deviation sigma over all valid tokens of the step.

    Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models, arXiv 2602.03392
    (mu 2.5, sweep 2.0 to 3.0).

    Code: Trinity-RFT, clipb_advantage.py (mu 2.5).

    Where they differ: the code (variant trinity, the default) drops only tokens with A < 0 on the low side,
    and shrinks the loss's denominator; the text (variant paper) is two-sided on all tokens, and here keeps
    the denominator. The code takes log p from the sampling engine and H from the trainer; here both are of
    the scoring policy. Neither caps what is dropped; max_frac does as in Clip_V.

    Entropy: keeps it from falling in the default, which drops updates with A < 0 and S* far below the mean; two-sided
    it bounds the change in both directions.

    Shipped by: Trinity-RFT.

    Verified: the authors' numbers (golden vectors); variant paper by a float64 reference written from the formula.

    Args:
        s_star: `[N]` S* of the tokens, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        mu: deviations below the mean at which a token is dropped.
        mu_high: the same above the mean; mu when not given.
        sides: which side is tested; default low (trinity) or both (paper).
        apply_to: which sign of A is tested; default negative (trinity) or both (paper).
        max_frac: most tokens that may be dropped, as a fraction; at least one; no cap without it.
        variant: the authors' code or the paper's text.

    Returns:
        A smaller loss mask (trinity), or weights of 0 on the tokens dropped (paper).

    Raises:
        UsageError: a width is negative or not finite, or max_frac outside [0, 1].
    """
    valid_N, S = np.asarray(loss_mask, bool), np.asarray(s_star)
    count, mean, sigma = moments(lambda at: S[at], valid_N)

    def centred(at: slice | Array) -> Array:
        return np.asarray(S[at] - mean)

    sides = sides or ("low" if variant == "trinity" else "both")
    apply_to = apply_to or ("negative" if variant == "trinity" else "both")
    if max_frac is not None:
        require(0 <= max_frac <= 1, "--max-frac", max_frac, "lie in [0, 1]")
    drop_N = valid_N & outliers(centred, len(S), sigma, mu, mu if mu_high is None else mu_high, sides)
    if apply_to != "both":
        drop_N &= np.less(advantages, 0) if apply_to == "negative" else np.greater(advantages, 0)
    if max_frac is not None:
        drop_N = worst(drop_N, centred, advantages, count, max_frac)
    return removed(~drop_N, valid_N, counted=variant == "paper")
