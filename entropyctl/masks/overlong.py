"""Overlong filtering: responses that were cut off leave the loss (2503.14476)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._runs import runs


def overlong(
    finish_reason: Array,
    loss_mask: Array,
    row_of_token: Array,
    *,
    variant: Literal["trl", "counted"] = "trl",
) -> Compiled:
    """Overlong filtering: responses that were cut off leave the loss.

    keep_t = [ finish_reason of the response is not "length" ]

    The reward of a response that was cut off has had its say in the group's mean and deviation by then.

    Paper: DAPO: An Open-Source LLM Reinforcement Learning System at Scale, arXiv 2503.14476 (its overlong filtering;
    the soft punishment is another method).

    Code: TRL, GRPOTrainer, mask_truncated_completions (off by default).

    Where they differ: TRL clears the mask, so that under a token mean the denominator shrinks (variant trl, the
    default); it tells a cut by the last token, which also takes in aborted responses, where this goes by "length"
    alone. Variant counted leaves the tokens in the denominator. verl has no such filter.

    Entropy: no fixed direction; it removes the pushes against long responses.

    Shipped by: TRL.

    Verified: a reference written from the formula.

    Args:
        finish_reason: `[B]` stop, length or abort.
        loss_mask: `[N]` True where the token is counted.
        row_of_token: `[N]` the response of each token.
        variant: whether dropped tokens leave the loss's denominator (trl) or stay in it (counted).

    Returns:
        The loss mask (trl), or weights (counted).
    """
    whole_B = np.asarray(finish_reason, object) != "length"
    keep_N = runs(row_of_token).spread(whole_B)
    return removed(keep_N, np.asarray(loss_mask, bool), counted=variant == "counted")
