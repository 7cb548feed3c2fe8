"""Probability weighting: unlikely tokens of good responses count more (2512.21625)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import float_type
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._select import ranked


def probability(
    logprobs: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    factor: float = 2.0,
    fraction: float = 0.2,
    apply_to: Literal["positive", "negative", "both"] = "positive",
) -> Compiled:
    """Probability weighting: unlikely tokens of good responses count more.

    w_t = factor where A_t > 0 and p_t is among the lowest fraction of all tokens with A > 0;
    with apply_to negative or both also where A_t < 0 and p_t is among the highest fraction of those with A < 0;
    w_t = 1 elsewhere.

    A fraction of n tokens is ceil(fraction n) of them; tokens that are as likely as the last of these are in too.
    Fractions are of the counted tokens that the call is given: those of a step on a file, of a mini-batch inside
    update.

    Paper: Rethinking Sample Polarity in Reinforcement Learning with Verifiable Rewards, arXiv 2512.21625 (A3PO:
    factor 2 on 20 % of either side early in training; `--apply-to both` with the factor held constant).

    Where they differ: A3PO weighs both sides, and lets the factor fade as training goes on; here the default is the
    positive side alone, and a schedule is a matter of calling with another factor. AR (arXiv 2505.12929) weighs
    the other way, unlikely tokens down.

    Entropy: raises it, or slows its fall: reinforcing an unlikely token and suppressing a likely one both flatten
    the distribution.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula; no code was published.

    Args:
        logprobs: `[N]` log p, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        factor: weight of the chosen tokens.
        fraction: share of the tokens of a side that is chosen.
        apply_to: low-probability tokens with A > 0, high-probability ones with A < 0, or both.

    Returns:
        Weights.

    Raises:
        UsageError: the factor is negative or not finite, or fraction outside [0, 1].
    """
    require(0 <= factor < math.inf, "--factor", factor, "be a finite number, 0 or above")
    require(0 <= fraction <= 1, "--fraction", fraction, "lie in [0, 1]")
    logprobs_N = np.asarray(logprobs)
    valid_N = np.asarray(loss_mask, bool)
    weights_N: Array = np.ones(len(valid_N), float_type(logprobs))
    if apply_to != "negative":
        positive = np.flatnonzero(valid_N & (np.asarray(advantages) > 0))
        weights_N[positive[_lowest(logprobs_N[positive], fraction)]] = factor
    if apply_to != "positive":
        negative = np.flatnonzero(valid_N & (np.asarray(advantages) < 0))
        weights_N[negative[_lowest(-logprobs_N[negative], fraction)]] = factor
    return Compiled(weights=weights_N)


def _lowest(values: Array, fraction: float) -> Array:
    """True for the lowest ceil(fraction n) of n values, and for what equals the last of them."""
    count = math.ceil(round(fraction * len(values), 9))  # 0.07 * 100 is a little above 7 in floating point
    if count == 0:
        return np.zeros(len(values), bool)
    return np.asarray(values <= ranked(values, count - 1))
