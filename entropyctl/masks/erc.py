"""ERC: drop tokens whose entropy has left a band around what it was before the update (2512.05591)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import in_blocks
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._select import counted, spread

# Added to both entropies by the authors' code, so that two deterministic policies are alike.
SMALLEST = 1e-8
BANDS = {"authors": (0.8, 1.2), "paper": (0.95, 1.05)}


def erc(
    entropies: Array,
    old_entropies: Array,
    loss_mask: Array,
    *,
    low: float | None = None,
    high: float | None = None,
    variant: Literal["authors", "paper"] = "authors",
) -> Compiled:
    """ERC: drop tokens whose entropy has left a band around what it was before the update.

    keep_t = [ low < rho_t < high ],  rho_t = (H_t + 1e-8) / (H_old,t + 1e-8).

    Paper: Entropy Ratio Clipping as a Soft Global Constraint for Stable Reinforcement Learning, arXiv 2512.05591.

    Code: Kwai-Klear/ERC (its configuration has 0.8 and 1.2).

    Where they differ: the band of the code's configuration is 0.8 to 1.2 (variant authors, the default), that of the
    text 0.95 to 1.05 (variant paper). The code detaches a dropped token, so that its loss still
    counts in the value that is logged; here it counts as 0. The gradient is the same, and dropped tokens stay in the
    denominator in both.
    On a file whose entropies are those of the policy that the step started from every ratio is 1 and nothing
    happens: run it as `update --mask live` with several mini-batches or epochs.

    Entropy: bounds its change within a step on both sides, token by token.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula.

    Args:
        entropies: `[N]` H of the current policy, nats.
        old_entropies: `[N]` H of the policy that the step started from, nats.
        loss_mask: `[N]` True where the token is counted.
        low: ratio at or below which a token is dropped; default 0.8 (authors) or 0.95 (paper).
        high: ratio at or above which a token is dropped; default 1.2 (authors) or 1.05 (paper).
        variant: the band of the authors' code or of the paper's text.

    Returns:
        Weights of 0 on the tokens dropped, 1 elsewhere.

    Raises:
        UsageError: a bound is negative or not finite, or low lies above high.
    """
    low = BANDS[variant][0] if low is None else low
    high = BANDS[variant][1] if high is None else high
    require(0 <= low < math.inf, "--low", low, "be a finite number, 0 or above")
    require(0 <= high < math.inf, "--high", high, "be a finite number, 0 or above")
    require(low <= high, "--low", low, f"not lie above --high {high:g}")
    valid_N = np.asarray(loss_mask, bool)

    def inside(H: Array, old_H: Array) -> Array:
        # Rounding may leave a deterministic token with an entropy just below 0.
        new, old = np.maximum(H, 0.0) + SMALLEST, np.maximum(old_H, 0.0) + SMALLEST
        return np.asarray((new > low * old) & (new < high * old))

    keep_M = in_blocks(inside, *counted(valid_N, entropies, old_entropies), dtype=np.bool_)
    return removed(spread(keep_M, valid_N, True), valid_N, counted=True)
