"""From a loss per token to one number: the only place that decides on a denominator."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from entropyctl import registry
from entropyctl.errors import UsageError

Array = npt.NDArray[Any]

REDUCTIONS = (
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
    "token-sum-norm",
)


def default_reduction(name: str) -> str:
    """The reduction that an objective's authors force or use: its module's `REDUCTION`; token-mean where it has none.

    Args:
        name: the objective as a user types it, another package's too.

    Raises:
        UsageError: no such objective; the message lists the known ones.
    """
    module = sys.modules[registry.load_function("objectives", name).__module__]
    return str(getattr(module, "REDUCTION", "token-mean"))


def token_coefficients(
    loss_mask_N: Array, lengths_B: Array, reduction: str, norm: float | None = None, *, all_rows: bool = False
) -> Array:
    """Coefficient k_t of each token, so that the loss of the mini-batch is sum_t k_t loss_t.

    With m the loss mask, L_i the counted tokens of response i and B' the responses with L_i > 0:

        token-mean               k = m / sum m
        token-sum                k = m
        seq-mean-token-sum       k = m / B'
        seq-mean-token-mean      k = m / (B' L_i)
        seq-mean-token-sum-norm  k = m / (B' norm)       (Dr.GRPO, with norm the longest possible response)
        token-sum-norm           k = m / norm            (Trinity-RFT's form of it, and verl's until 0.6.1)

    The coefficients are of the whole mini-batch, so cutting it into forward passes changes nothing. Responses that
    lost all their tokens do not count in B', as where verl normalises locally; verl's trainer, which knows the global
    mini-batch, TRL and Trinity-RFT divide by all responses. Without a counted token every k is 0.

    Args:
        loss_mask_N: bool, tokens of the responses behind one another.
        lengths_B: tokens of each response.
        reduction: one of `REDUCTIONS`.
        norm: constant of the two that end in -norm; the longest response of the mini-batch by default, as in verl,
            which makes the loss depend on the batch: give a constant to compare runs.
        all_rows: let B' be all responses, those without a counted token too.

    Returns:
        `[N]` float64.

    Raises:
        UsageError: no such reduction.
    """
    if reduction not in REDUCTIONS:
        raise UsageError(f"--reduction: there is no '{reduction}'; known: {', '.join(REDUCTIONS)}")
    mask_N = np.asarray(loss_mask_N, np.float64)
    row_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    counted_B = np.bincount(row_N, mask_N, minlength=len(lengths_B))
    total, responses = mask_N.sum(), len(counted_B) if all_rows else (counted_B > 0).sum()
    if total == 0 or reduction == "token-sum":
        return mask_N
    if reduction == "token-mean":
        return mask_N / total
    if reduction == "seq-mean-token-mean":
        return mask_N / np.maximum(counted_B, 1)[row_N] / responses
    divisor = (float(np.max(lengths_B)) if norm is None else norm) if reduction.endswith("-norm") else 1.0
    return mask_N / divisor / (1 if reduction == "token-sum-norm" else responses)
