"""Random: drop a fraction of the tokens, whichever they are (control experiment)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import in_blocks
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._random import check_seed, uniform


def random(
    token_key: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    apply_to: Literal["negative", "positive", "both"] = "both",
) -> Compiled:
    """Random: drop a fraction of the tokens, whichever they are.

    keep_t = [ u_t >= fraction ],  u_t uniform in [0, 1), a function of the token's identity and the seed

    What another mask does may be due to which tokens it drops, or to how many: this drops as many. Each token is
    drawn by itself, so the fraction holds on average, the same tokens go in any file and order, and those of a
    smaller fraction are among those of a larger one. They stay in the loss's denominator.

    Source: a control experiment of entropyctl; no paper.

    Entropy: shrinks its change by the fraction on average, whatever its direction.

    Shipped by: none of the peers.

    Verified: statistics of the draws; no code was published.

    Args:
        token_key: `[N]` uint64, the token's identity.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        fraction: share of the tokens that is dropped.
        seed: other tokens for another seed; 0 or above.
        apply_to: tokens of which sign of A are drawn from; both has those with A = 0 too.

    Returns:
        Weights, 0 for what is dropped.

    Raises:
        UsageError: fraction outside [0, 1], or a negative seed.
    """
    require(0 <= fraction <= 1, "--fraction", fraction, "lie in [0, 1]")
    check_seed(seed)
    valid_N = np.asarray(loss_mask, bool)
    drop_N = valid_N & in_blocks(lambda key: uniform(key, seed) < fraction, token_key, given=np.uint64, dtype=np.bool_)
    if apply_to != "both":
        drop_N &= np.greater(advantages, 0) if apply_to == "positive" else np.less(advantages, 0)
    return removed(~drop_N, valid_N, counted=True)
