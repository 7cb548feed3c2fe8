"""Running a mask on the rows of a step, and laying it over the masks that ran before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.dynamics import predicted_change
from entropyctl.dynamics.blocks import blocks
from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.inputs import inputs
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.registry import inputs_of
from entropyctl.table.columns import flat_values, list_column, row_lengths, row_of_token, values_or, with_column

COLUMNS = ("weights", "kl_coefs", "loss_mask", "base_mask")


class Laid(NamedTuple):
    """What lies on the `N` tokens of a step."""

    weights: Array | None  # None where every weight is 1
    kl_coefs: Array | None  # None where every coefficient is 0
    loss_mask: Array

    def pulling(self) -> Array:
        """`[N]` True where a token is counted and has a weight."""
        return self.loss_mask if self.weights is None else self.loss_mask & (self.weights != 0)


def lay(before: Laid, compiled: Compiled) -> Laid:
    """A mask over those that ran before: weights multiply, penalties add, loss masks intersect."""
    weights, kl_coefs, loss_mask = before
    if compiled.weights is not None:
        weights = compiled.weights if weights is None else weights * compiled.weights
    if compiled.kl_coefs is not None:
        kl_coefs = compiled.kl_coefs if kl_coefs is None else kl_coefs + compiled.kl_coefs
    if compiled.loss_mask is not None:
        loss_mask = loss_mask & compiled.loss_mask
    return Laid(weights, kl_coefs, loss_mask)


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
    penalised: int = 0
    penalises: bool = False
    has_advantages: bool = True
    has_scores: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Fractions removed, by sign of advantage, and the predicted change of entropy per token at eta = 1 and r = 1.

        All is said of this mask alone. `tokens` are those that the incoming loss mask counts, and the predicted
        change is per such token, before with the weights that came in. Fractions are of those among them that still
        pulled, with an incoming weight other than 0; one that an earlier mask had removed is not removed again.
        A method of penalties says on which fraction of the tokens; the predicted change leaves them out.
        Nothing is said by sign without `advantages`, nor of a change without `s_star` and `expected_s` beside them.
        """
        found: dict[str, Any] = {"tokens": self.tokens, "masked_fraction": self.removed / max(self.pulling, 1)}
        if self.penalises:
            found["penalised_fraction"] = self.penalised / max(self.tokens, 1)
        if self.has_advantages:
            found |= {
                "masked_fraction_positive": self.positive_removed / max(self.positive, 1),
                "masked_fraction_negative": self.negative_removed / max(self.negative, 1),
            }
        if self.has_advantages and self.has_scores:
            found |= {
                "predicted_change_before": self.change_before / max(self.tokens, 1),
                "predicted_change_after": self.change_after / max(self.tokens, 1),
            }
        return found

    def add(self, rows: pa.Table, before: Laid, after: Laid, penalties_N: Array | None = None) -> None:
        """Count a step, with what lay on its tokens, what lies there now, and the mask's own penalties."""
        pulling_N = before.pulling()
        gone_N = pulling_N & ~after.pulling()
        self.tokens += int(np.count_nonzero(before.loss_mask))
        self.pulling += int(np.count_nonzero(pulling_N))
        self.removed += int(np.count_nonzero(gone_N))
        if penalties_N is not None:
            self.penalises = True
            self.penalised += int(np.count_nonzero(before.loss_mask & (penalties_N != 0)))
        self.has_advantages &= _is_computed(rows, "advantages")
        self.has_scores &= _is_computed(rows, "s_star") and _is_computed(rows, "expected_s")
        if not self.has_advantages:
            return
        advantages_N = flat_values(rows["advantages"])
        for side_N, name in ((advantages_N > 0, "positive"), (advantages_N < 0, "negative")):
            setattr(self, name, getattr(self, name) + int(np.count_nonzero(pulling_N & side_N)))
            removed = int(np.count_nonzero(gone_N & side_N))
            setattr(self, f"{name}_removed", getattr(self, f"{name}_removed") + removed)
        if self.has_scores:
            scores = (advantages_N, flat_values(rows["s_star"]), flat_values(rows["expected_s"]))
            for at in blocks(len(advantages_N)):
                change = predicted_change(*(values[at] for values in scores))
                total = _total(change, before, at)
                self.change_before += total
                self.change_after += total if _pulls_alike(before, after, at) else _total(change, after, at)


def _total(change: Array, laid: Laid, at: slice) -> float:
    """Sum over the counted tokens of a block, by their weights."""
    if not laid.loss_mask[at].all():
        change = change * laid.loss_mask[at]
    if laid.weights is not None:
        change = change * laid.weights[at]
    return float(change.sum(dtype=np.float64))


def _pulls_alike(before: Laid, after: Laid, at: slice) -> bool:
    """Whether a mask has left the tokens of a block as they were."""
    same = after.weights is before.weights and np.array_equal(before.loss_mask[at], after.loss_mask[at])
    return bool(same)


def compile_mask(
    rows: pa.Table, function: Callable[..., Compiled], params: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Compiled:
    """The numbers of a method for the rows of a step.

    Args:
        rows: one step; must have the columns that the method reads, and `loss_mask`.
        function: the method.
        params: its keyword parameters.
        given: its `state` and `history`, where it reads them.

    Raises:
        EntropyctlError: the method returned what is no `Compiled`, or no number per token.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below, by one line
        compiled = function(*inputs(rows, inputs_of(function), given), **params)
    if not isinstance(compiled, Compiled):
        raise EntropyctlError(
            f"mask {function.__name__}: returned {type(compiled).__name__} and not Compiled; mend the method"
        )
    count = int(row_lengths(rows["loss_mask"]).sum())
    for name in ("weights", "kl_coefs", "loss_mask"):
        part_N = getattr(compiled, name)
        if part_N is not None and np.shape(part_N) != (count,):
            shape = f"{name} of shape {np.shape(part_N)} for {count} tokens"
            raise EntropyctlError(f"mask {function.__name__}: returned {shape}; mend the method")
        if part_N is not None and name != "loss_mask" and not np.isfinite(part_N).all():
            raise EntropyctlError(
                f"mask {function.__name__}: computed a weight that is not finite; check its parameters"
            )
    return compiled


def lay_over(rows: pa.Table, compiled: Compiled, summary: MaskSummary | None = None) -> pa.Table:
    """The rows of a step with a mask's numbers over those of the masks that ran before.

    Adds or changes the columns that the mask has numbers for, and no others. `base_mask` keeps the first loss mask
    where a method narrows it, so that the methods can be run again on other statistics; it is null for a response
    all of whose tokens were counted.

    Args:
        rows: one step.
        compiled: the method's numbers.
        summary: totals to add this step to.

    Raises:
        UsageError: a number does not fit into float32.
    """
    lengths_B = row_lengths(rows["loss_mask"])
    before = laid_on(rows)
    after = lay(before, compiled)
    if summary is not None:
        summary.add(rows, before, after, compiled.kl_coefs)
    for name, part in (("weights", compiled.weights), ("kl_coefs", compiled.kl_coefs)):
        if part is not None:
            rows = with_column(rows, name, _float32_column(getattr(after, name), lengths_B, name))
    if compiled.loss_mask is None:
        return rows
    if "base_mask" not in rows.column_names:
        rows = with_column(rows, "base_mask", _where_not_all(before.loss_mask, lengths_B))
    return with_column(rows, "loss_mask", list_column(after.loss_mask, lengths_B, pa.bool_()))


def apply_mask(
    rows: pa.Table,
    function: Callable[..., Compiled],
    params: Mapping[str, Any],
    summary: MaskSummary | None = None,
) -> pa.Table:
    """The rows of a step with the numbers of a method: `lay_over(rows, compile_mask(rows, function, params))`."""
    return lay_over(rows, compile_mask(rows, function, params), summary)


def laid_on(rows: pa.Table) -> Laid:
    """What lies on the tokens of a step; a weight that was not computed is 1, a coefficient 0."""
    mask_N = flat_values(rows["loss_mask"]).astype(bool, copy=False)
    return Laid(_column(rows, "weights", 1.0), _column(rows, "kl_coefs", 0.0), mask_N)


def _float32_column(values_N: Array, lengths_B: Array, name: str) -> pa.Array:
    with np.errstate(over="ignore"):
        stored_N = values_N.astype(np.float32, copy=False)
    if not np.isfinite(stored_N).all():
        raise UsageError(
            f"{name}: this mask's numbers over those of the masks before are too large for float32; lower them"
        )
    return list_column(stored_N, lengths_B, pa.float32())


def _where_not_all(mask_N: Array, lengths_B: Array) -> pa.Array:
    """A column of the rows' masks, null where a row's is all true."""
    partial_B = np.zeros(len(lengths_B), bool)
    if not mask_N.all():
        partial_B[row_of_token(lengths_B)[~mask_N]] = True
    values_N = mask_N[np.repeat(partial_B, lengths_B)]
    return list_column(values_N, np.where(partial_B, lengths_B, 0), pa.bool_(), partial_B)


def _is_computed(rows: pa.Table, name: str) -> bool:
    return name in rows.column_names and rows[name].null_count == 0


def _column(rows: pa.Table, name: str, missing: float) -> Array | None:
    return values_or(rows, name, np.float32(missing)) if name in rows.column_names else None
