"""Running a mask on the rows of a step, and laying it over the masks that ran before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.inputs import inputs
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._laid import laid_on, lay
from entropyctl.masks._summary import MaskSummary
from entropyctl.registry import inputs_of
from entropyctl.table.columns import everywhere, list_column, row_lengths, row_of_token, with_column
from entropyctl.table.schema import KEY

COLUMNS = ("weights", "kl_coefs", "loss_mask", "base_mask")


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
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below, by one line
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
        if part_N is not None and name != "loss_mask" and not everywhere(np.isfinite, part_N):
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
            laid_N = getattr(after, name)
            # A method's own numbers were proved; what they make of those before may be too large.
            stored_N = part if laid_N is part and part.dtype == np.float32 else _float32(laid_N, name)
            rows = with_column(rows, name, list_column(stored_N, lengths_B, pa.float32()))
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


def made_by_masks(rows: pa.Table) -> pa.Table:
    """The key and what masks have made of the rows; a loss mask that none has narrowed is the rollouts' own."""
    made = COLUMNS if "base_mask" in rows.column_names else ("weights", "kl_coefs")
    return rows.select([name for name in (*KEY, *made) if name in rows.column_names])


def _float32(values_N: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        stored_N = values_N.astype(np.float32, copy=False)
    if not everywhere(np.isfinite, stored_N):
        raise UsageError(
            f"{name}: this mask's numbers over those of the masks before are too large for float32; lower them"
        )
    return stored_N


def _where_not_all(mask_N: Array, lengths_B: Array) -> pa.Array:
    """A column of the rows' masks, null where a row's is all true."""
    partial_B = np.zeros(len(lengths_B), bool)
    if not mask_N.all():
        partial_B[row_of_token(lengths_B)[~mask_N]] = True
    values_N = mask_N[np.repeat(partial_B, lengths_B)] if partial_B.any() else mask_N[:0]
    return list_column(values_N, np.where(partial_B, lengths_B, 0), pa.bool_(), partial_B)
