"""Entropy control: compile a method to weights, KL coefficients and a loss mask per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from entropyctl import methods
from entropyctl.commands import AllowMismatch, History, Inputs, Json, OnlyNew, Output, Quiet, StateFile, Tee


def run(argv: list[str]) -> int:
    """The `entropyctl mask` command."""
    return methods.run("mask", "masks", mask, argv)


def mask(
    method: str,
    function: Callable[..., Any],
    params: dict[str, Any],
    inputs: Inputs = None,
    output: Output = None,
    tee: Tee = None,
    only_new: OnlyNew = False,
    state: StateFile = None,
    history: History = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile an entropy-control method to weights, KL coefficients and a loss mask per token.

    Masks compose: a second one multiplies weights, adds penalties and intersects loss masks.
    """
    from entropyctl.errors import naming
    from entropyctl.inputs import needs, optional
    from entropyctl.masks import MaskSummary, compile_mask, lay_over
    from entropyctl.masks._apply import COLUMNS, made_by_masks
    from entropyctl.memory import Memory
    from entropyctl.metrics import PastMetrics
    from entropyctl.registry import inputs_of
    from entropyctl.reporting import report
    from entropyctl.table import new_record, notice, read, write

    reads = inputs_of(function)
    needed = [*needs(reads), "loss_mask"]
    # The summary's prediction wants these where they are; a mask that needs no advantages runs without.
    wanted = [*needed, *optional(reads), "advantages", "s_star", "expected_s", *COLUMNS] if only_new else None
    # Files that decide the numbers beside the parameters, which a live mask is called with again.
    files = {k: v for k, v in (("history", history), ("state", state)) if v}
    record = new_record(f"mask {method}", params, **files)
    summary, memory = MaskSummary(), Memory(state, f"mask {method}", params)
    past = PastMetrics(history)
    with (
        read(inputs or ["-"], columns=wanted, needs=needed, allow_mismatch=tuple(allow_mismatch or ())) as source,
        write(output, "masked", record, source, only=COLUMNS if only_new else None, tee=tee) as sink,
    ):
        for step in source:
            given = {"state": memory.before(step.number), "history": past.before(step.number)}
            with naming(source.path):
                compiled = compile_mask(step.rows, function, params, given)
            left = summary.every.left
            rows = lay_over(step.rows, compiled, summary)
            sink.put(step.number, made_by_masks(rows) if only_new else rows)
            if step.rows.num_rows and not quiet and summary.every.left == left:
                notice(f"mask {method}: step {step.number}: no token is left to learn from")
            memory.remember(step.number, compiled.state)
        sink.summarise(**summary.as_dict())
    report(f"mask {method}", summary.as_dict(), as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
