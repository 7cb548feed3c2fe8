"""Which tokens lie outside a band around zero: shared by Clip_B and Clip_V."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from entropyctl.dynamics.blocks import blocks
from entropyctl.errors import UsageError
from entropyctl.masks._compiled import Array

# Below this deviation the authors' code clips nothing: all tokens are alike.
SMALLEST_DEVIATION = 1e-12


def outliers(
    centred: Callable[[slice], Array], count: int, sigma: float, mu_low: float, mu_high: float, sides: str
) -> Array:
    """True where a score lies outside [-mu_low sigma, mu_high sigma]; the boundary itself is inside.

    Args:
        centred: scores of some tokens about the point that counts as zero.
        count: how many tokens there are.
        sigma: the scores' deviation.
        mu_low: width of the band below zero, in deviations.
        mu_high: width above zero.
        sides: "low", "high" or "both": which bound is tested.

    Returns:
        `[N]` bool.

    Raises:
        UsageError: a width is negative or not finite.
    """
    for flag, width in (("--mu", mu_low), ("--mu-high", mu_high)):
        if not 0 <= width < math.inf:
            raise UsageError(f"{flag} {width:g}: must be a finite number, 0 or above")
    outside_N = np.zeros(count, bool)
    if sigma < SMALLEST_DEVIATION:
        return outside_N
    for at in blocks(count):
        score = centred(at)
        if sides in ("low", "both"):
            outside_N[at] |= score < -mu_low * sigma
        if sides in ("high", "both"):
            outside_N[at] |= score > mu_high * sigma
    return outside_N


def worst(drop_N: Array, centred: Callable[[Array], Array], advantages_N: Array, count: int, max_frac: float) -> Array:
    """At most a fraction of the tokens, and those that lie furthest out.

    Tokens with A = 0 carry no policy gradient; as in the authors' code of Clip_V they are dropped beyond the cap.

    Args:
        drop_N: True where a token would be dropped.
        centred: scores of some tokens about the point that counts as zero.
        advantages_N: A.
        count: tokens that are counted.
        max_frac: most of them that may be dropped, as a fraction; at least one.
    """
    if np.count_nonzero(drop_N) <= max_frac * count:
        return drop_N
    cap = max(int(max_frac * count), 1)
    weightless_N = drop_N & np.equal(advantages_N, 0)
    candidates = np.flatnonzero(drop_N & ~weightless_N)
    kept = candidates[np.argsort(-np.abs(centred(candidates)), kind="stable")[:cap]]
    weightless_N[kept] = True
    return weightless_N
