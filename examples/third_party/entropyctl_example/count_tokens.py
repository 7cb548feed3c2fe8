"""Count the response tokens of each step, and those that the loss counts."""

from __future__ import annotations

from entropyctl import commands
from entropyctl.commands import Inputs, Json, Quiet


def run(argv: list[str]) -> int:
    """The `entropyctl count-tokens` command."""
    return commands.run("count-tokens", count_tokens, argv)


def count_tokens(inputs: Inputs = None, json: Json = False, quiet: Quiet = False) -> None:
    """Count the response tokens of each step, and those that the loss counts."""
    # Imported here, so that --help need not wait for them.
    from entropyctl.reporting import report
    from entropyctl.table import read
    from entropyctl.table.columns import flat_values

    totals = {"steps": 0, "rows": 0, "tokens": 0, "counted": 0}
    with read(inputs or ["-"], columns=["loss_mask"], needs=["loss_mask"]) as source:
        for step in source:
            mask = flat_values(step.rows["loss_mask"])
            totals["steps"] += 1
            totals["rows"] += step.rows.num_rows
            totals["tokens"] += len(mask)
            totals["counted"] += int(mask.sum())
    report("count-tokens", totals, as_json=json, quiet=quiet, stdout_is_data=False)
