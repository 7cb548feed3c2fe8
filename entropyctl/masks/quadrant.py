"""Quadrant: keep the gradients of chosen signs of A and S* (the gradient-mask experiments of 2602.03392)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.errors import UsageError
from entropyctl.masks._blocks import in_blocks
from entropyctl.masks._compiled import Array, Compiled, removed

QUADRANTS = {"pos-high": (1, 1), "pos-low": (1, -1), "neg-high": (-1, 1), "neg-low": (-1, -1)}


def quadrant(
    s_star: Array,
    expected_s: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    keep: str = "pos-low,neg-high",
    score: Literal["centred", "s-star"] = "centred",
    variant: Literal["paper", "trinity"] = "paper",
) -> Compiled:
    """Quadrant: keep the gradients of chosen signs of A and S*.

    A > 0, S > 0 (pos-high) lowers the entropy;  A > 0, S < 0 (pos-low) raises it;
    A < 0, S > 0 (neg-high) raises it;           A < 0, S < 0 (neg-low) lowers it.
    w_t = 1 in the quadrants that are kept, 0 in the others; tokens with A = 0 or S = 0 are in none and stay.

    Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models, arXiv 2602.03392, which
    keeps one quadrant at a time.

    Where they differ: the paper plots S*; the exact first-order sign is that of S* - E[S] (Theorem 3.3), the
    default here. No code was published for this experiment. Variant paper keeps removed tokens in the loss's
    denominator; variant trinity drops them from it, as that code base's clips do.

    Entropy: raised by pos-low and neg-high, lowered by pos-high and neg-low; the quadrants that are kept decide.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula; no code was published.

    Args:
        s_star: `[N]` S* of the tokens, nats.
        expected_s: `[N]` E[S], nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        keep: comma-separated quadrants out of pos-high, pos-low, neg-high, neg-low.
        score: S* - E[S] (centred) or S* itself (s-star).
        variant: whether removed tokens are counted (paper) or not (trinity).

    Returns:
        Weights of 0 on the tokens removed (paper), or a smaller loss mask (trinity).

    Raises:
        UsageError: a name in keep is no quadrant.
    """
    wanted = [name.strip() for name in keep.split(",") if name.strip()]
    for name in wanted:
        if name not in QUADRANTS:
            raise UsageError(f"--keep: there is no quadrant '{name}'; known: {', '.join(QUADRANTS)}")
    unwanted = [signs for name, signs in QUADRANTS.items() if name not in wanted]

    def stays(S: Array, ES: Array, A: Array) -> Array:
        centre = ES if score == "centred" else 0.0
        sides = {1: (A > 0, centre < S), -1: (A < 0, centre > S)}
        drop = [sides[of_A][0] & sides[of_S][1] for of_A, of_S in unwanted]
        return ~np.logical_or.reduce(drop, axis=0) if drop else np.ones(len(A), bool)

    keep_N = in_blocks(stays, s_star, expected_s, advantages, given=None, dtype=np.bool_)
    return removed(keep_N, np.asarray(loss_mask, bool), counted=variant == "paper")
