"""Entropy control: compile a method to weights, KL coefficients and a loss mask per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from entropyctl import methods
from entropyctl.commands import AllowMismatch, Inputs, Json, OnlyNew, Output, Quiet, Tee


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
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile an entropy-control method to weights, KL coefficients and a loss mask per token.

    Masks compose: a second one multiplies weights, adds penalties and intersects loss masks.
    """
    from entropyctl.masks import MaskSummary, apply_mask
    from entropyctl.masks._apply import COLUMNS
    from entropyctl.registry import columns_of
    from entropyctl.reporting import report
    from entropyctl.table import new_record, read, write

    needs = [*columns_of(function), "loss_mask"]
    # The summary's prediction wants these where they are; a mask that needs no advantages runs without.
    wanted = [*needs, "advantages", "s_star", "expected_s", "weights", "kl_coefs"] if only_new else None
    record = new_record(f"mask {method}", params)
    summary = MaskSummary()
    with (
        read(inputs or ["-"], columns=wanted, needs=needs, allow_mismatch=tuple(allow_mismatch or ())) as source,
        write(output, "masked", record, source, only=COLUMNS if only_new else None, tee=tee) as sink,
    ):
        for step in source:
            sink.put(step.number, apply_mask(step.rows, function, params, summary))
        sink.summarise(**summary.as_dict())
    report(f"mask {method}", summary.as_dict(), as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
