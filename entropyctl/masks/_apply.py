"""Running a mask on the rows of a step, and laying it over the masks that ran before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.dynamics import predicted_change
from entropyctl.errors import EntropyctlError
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.registry import columns_of
from entropyctl.table.columns import flat_values, list_column, null_rows, row_lengths, with_column

COLUMNS = ("weights", "kl_coefs", "loss_mask")


class Laid(NamedTuple):
    """What lies on the tokens of a step, `[N]` each."""

    weights: Array
    loss_mask: Array


@dataclass
class MaskSummary:
    """Running totals of what a mask did; add steps, then ask for `as_dict`."""

    tokens: int = 0
    pulling: int = 0
    removed: int = 0
    positive: int = 0
    positive_removed: int = 0
    negative: int = 0
    negative_removed: int = 0
    change_before: float = 0.0
    change_after: float = 0.0
    has_advantages: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Fractions removed, by sign of advantage, and the predicted change of entropy per token at eta = 1.

        All is said of this mask alone. `tokens` are those that the incoming loss mask counts, and the predicted
        change is per such token, before with the weights that came in. Fractions are of those among them that still
        pulled, with an incoming weight other than 0; one that an earlier mask had removed is not removed again.
        """
        found: dict[str, Any] = {"tokens": self.tokens, "masked_fraction": self.removed / max(self.pulling, 1)}
        if self.has_advantages:
            found |= {
                "masked_fraction_positive": self.positive_removed / max(self.positive, 1),
                "masked_fraction_negative": self.negative_removed / max(self.negative, 1),
                "predicted_change_before": self.change_before / max(self.tokens, 1),
                "predicted_change_after": self.change_after / max(self.tokens, 1),
            }
        return found

    def add(self, rows: pa.Table, before: Laid, after: Laid) -> None:
        """Count a step, whose weights and loss masks are given as they were and as they are."""
        pulling_N = before.loss_mask & (before.weights != 0)
        gone_N = pulling_N & ~(after.loss_mask & (after.weights != 0))
        self.tokens += int(before.loss_mask.sum())
        self.pulling += int(pulling_N.sum())
        self.removed += int(gone_N.sum())
        self.has_advantages &= _is_computed(rows, "advantages")
        if not self.has_advantages:
            return
        advantages_N = flat_values(rows["advantages"])
        for sign, name in ((1, "positive"), (-1, "negative")):
            side_N = pulling_N & (np.sign(advantages_N) == sign)
            setattr(self, name, getattr(self, name) + int(side_N.sum()))
            setattr(self, f"{name}_removed", getattr(self, f"{name}_removed") + int((side_N & gone_N).sum()))
        if _is_computed(rows, "s_star") and _is_computed(rows, "expected_s"):
            change_N = predicted_change(advantages_N, flat_values(rows["s_star"]), flat_values(rows["expected_s"]))
            self.change_before += float((change_N * before.weights)[before.loss_mask].sum(dtype=np.float64))
            self.change_after += float((change_N * after.weights)[after.loss_mask].sum(dtype=np.float64))


def apply_mask(
    rows: pa.Table,
    function: Callable[..., Compiled],
    params: dict[str, Any],
    summary: MaskSummary | None = None,
) -> pa.Table:
    """The rows of a step with `weights`, `kl_coefs` and `loss_mask`.

    A mask composes with those that ran before: weights multiply, penalties add, loss masks intersect.

    Args:
        rows: one step; must have the columns that the method reads.
        function: the method.
        params: its keyword parameters.
        summary: totals to add this step to.
    """
    lengths_B = row_lengths(rows["loss_mask"])
    inputs = [flat_values(rows[name]) for name in columns_of(function)]
    compiled = function(*inputs, **params)
    before_N = flat_values(rows["loss_mask"]).astype(bool)
    weights_N = _column(rows, "weights", 1.0, lengths_B)
    kl_coefs_N = _column(rows, "kl_coefs", 0.0, lengths_B)
    before, after_N = Laid(weights_N, before_N), before_N
    for name, part_N in zip(Compiled._fields, compiled, strict=True):
        if part_N is not None and np.shape(part_N) != before_N.shape:
            shape = f"{name} of shape {np.shape(part_N)} for {len(before_N)} tokens"
            raise EntropyctlError(f"mask {function.__name__}: returned {shape}; mend the method")
    if compiled.weights is not None:
        weights_N = weights_N * compiled.weights
    if compiled.kl_coefs is not None:
        kl_coefs_N = kl_coefs_N + compiled.kl_coefs
    if compiled.loss_mask is not None:
        after_N = before_N & compiled.loss_mask
    if not (np.isfinite(weights_N).all() and np.isfinite(kl_coefs_N).all()):
        raise EntropyctlError(
            f"mask {function.__name__}: computed a weight that is not finite; this is a bug, please report it"
        )
    if summary is not None:
        summary.add(rows, before, Laid(weights_N, after_N))
    rows = with_column(rows, "weights", list_column(weights_N, lengths_B, pa.float32()))
    rows = with_column(rows, "kl_coefs", list_column(kl_coefs_N, lengths_B, pa.float32()))
    return with_column(rows, "loss_mask", list_column(after_N, lengths_B, pa.bool_()))


def _is_computed(rows: pa.Table, name: str) -> bool:
    return name in rows.column_names and rows[name].null_count == 0


def _column(rows: pa.Table, name: str, missing: float, lengths_B: Array) -> Array:
    values_N = np.full(lengths_B.sum(), missing, np.float32)
    if name in rows.column_names:
        values_N[np.repeat(~null_rows(rows[name]), lengths_B)] = flat_values(rows[name])
    return values_N
