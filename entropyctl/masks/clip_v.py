"""Clip_V: drop tokens whose S* lies far below its vocabulary mean E[S] (2602.03392)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import moments
from entropyctl.masks._clip import outliers, worst
from entropyctl.masks._compiled import Array, Compiled, removed


def clip_v(
    s_star: Array,
    expected_s: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    mu: float = 8.5,
    mu_high: float | None = None,
    sides: Literal["low", "high", "both"] | None = None,
    apply_to: Literal["negative", "positive", "both"] | None = None,
    max_frac: float | None = None,
    variant: Literal["paper", "trinity"] = "trinity",
) -> Compiled:
    """Clip_V: drop tokens whose S* lies far below its vocabulary mean E[S].

    keep_t = [ -mu sigma <= S*_t - E[S]_t <= mu_high sigma ],  sigma = population deviation of S* - E[S]
    over all valid tokens of the step. The mean is taken as 0 (Corollary 3.5), so scores are not re-centred.

    Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models, arXiv 2602.03392
    (mu 7.5 to 8.5).

    Code: Trinity-RFT, clipv_advantage.py (mu 8.5, max_frac 1e-4).

    Where they differ: the code (variant trinity, the default) tests only the low side, spares A > 0 and tests
    A = 0, caps what it drops at max_frac (1e-4) of the tokens, keeping the worst, and shrinks the loss's
    denominator. Tokens with A = 0 are dropped beyond the cap: they carry no policy gradient. The cap is in no
    text. The text (variant paper) is two-sided on all tokens without a cap, and here keeps the denominator.
    The code's constructor says mu = 2.0, its configuration 8.5.

    Entropy: keeps it from falling in the default, which drops updates with A < 0 and S* far below E[S]; two-sided
    it bounds the change in both directions.

    Shipped by: Trinity-RFT.

    Verified: the authors' numbers (golden vectors); variant paper by a float64 reference written from the formula.

    Args:
        s_star: `[N]` S* of the tokens, nats.
        expected_s: `[N]` E[S], nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        mu: deviations below E[S] at which a token is dropped.
        mu_high: the same above E[S]; mu when not given.
        sides: which side is tested; default low (trinity) or both (paper).
        apply_to: which sign of A is tested; default negative (trinity, with A = 0 too) or both (paper).
        max_frac: most tokens that may be dropped, as a fraction; at least one; default 1e-4 (trinity) or 1 (paper).
        variant: the authors' code or the paper's text.

    Returns:
        A smaller loss mask (trinity), or weights of 0 on the tokens dropped (paper).

    Raises:
        UsageError: a width is negative or not finite, or max_frac outside [0, 1].
    """
    valid_N, S, ES = np.asarray(loss_mask, bool), np.asarray(s_star), np.asarray(expected_s)

    def centred(at: slice | Array) -> Array:
        return np.asarray(S[at] - ES[at])

    count, _, sigma = moments(centred, valid_N)
    sides = sides or ("low" if variant == "trinity" else "both")
    apply_to = apply_to or ("negative" if variant == "trinity" else "both")
    if max_frac is None:
        max_frac = 1e-4 if variant == "trinity" else 1.0
    require(0 <= max_frac <= 1, "--max-frac", max_frac, "lie in [0, 1]")
    drop_N = valid_N & outliers(centred, len(S), sigma, mu, mu if mu_high is None else mu_high, sides)
    if apply_to != "both":
        drop_N &= np.less_equal(advantages, 0) if apply_to == "negative" else np.greater_equal(advantages, 0)
    drop_N = worst(drop_N, centred, advantages, count, max_frac)
    return removed(~drop_N, valid_N, counted=variant == "paper")
