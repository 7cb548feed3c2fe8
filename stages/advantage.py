"""Turn rewards into an advantage for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from entropyctl import methods
from entropyctl.commands import AllowMismatch, Inputs, Json, OnlyNew, Output, Quiet, Tee

KeepGroups = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Keep the first N informative groups of each step (some correct, some not) and drop the rest.",
    ),
]


def run(argv: list[str]) -> int:
    """The `entropyctl advantage` command."""
    return methods.run("advantage", "advantages", advantage, argv)


def advantage(
    method: str,
    function: Callable[..., Any],
    params: dict[str, Any],
    inputs: Inputs = None,
    output: Output = None,
    tee: Tee = None,
    only_new: OnlyNew = False,
    keep_groups: KeepGroups = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn rewards into an advantage for every token.

    A group is the samples of one prompt in one step.
    """
    from entropyctl.advantages import AdvantageSummary, apply_advantage
    from entropyctl.advantages._apply import keep_first_groups
    from entropyctl.registry import columns_of
    from entropyctl.reporting import report
    from entropyctl.table import new_record, read, write

    needs = [
        n for n in (*columns_of(function), "loss_mask", "reward", "prompt_id") if n not in ("group", "row_of_token")
    ]
    wanted = [*needs, "outcome"] if only_new else None
    record = new_record(f"advantage {method}", {**params, "keep_groups": keep_groups}, narrows=keep_groups is not None)
    summary = AdvantageSummary()
    with (
        read(inputs or ["-"], columns=wanted, needs=needs, allow_mismatch=tuple(allow_mismatch or ())) as source,
        write(output, "advantaged", record, source, only=("advantages",) if only_new else None, tee=tee) as sink,
    ):
        for step in source:
            rows = step.rows if keep_groups is None else keep_first_groups(step.rows, keep_groups)
            sink.put(step.number, apply_advantage(rows, function, params, summary), rows_read=step.rows.num_rows)
        sink.summarise(**summary.as_dict())
    report(f"advantage {method}", summary.as_dict(), as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
