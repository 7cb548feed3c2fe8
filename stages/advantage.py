"""Turn rewards into an advantage for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from entropyctl import methods
from entropyctl.commands import AllowMismatch, Inputs, Json, OnlyNew, Output, Quiet, StateFile, Tee

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
    state: StateFile = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn rewards into an advantage for every token, or shape the rewards or advantages that are there.

    A group is the samples of one prompt in one step. --keep-groups is DAPO's dynamic sampling (2503.14476), by the
    grader's outcomes; verl goes by the deviation of a metric, under which equal rewards such as 0.7 may differ, and
    also keeps groups of one, which are dropped here. Shapings compose by pipe: those of the reward in front of an
    estimator, those of the advantages after it.
    """
    from entropyctl.advantages import AdvantageSummary, apply_advantage
    from entropyctl.advantages._apply import keep_first_groups, makes, shapes_reward
    from entropyctl.errors import naming
    from entropyctl.inputs import needs, optional
    from entropyctl.memory import Memory
    from entropyctl.registry import inputs_of
    from entropyctl.reporting import report
    from entropyctl.table import new_record, notice, read, write

    reads = inputs_of(function)
    needed = [*needs(reads), "loss_mask", "reward", "prompt_id"]
    # The columns of several rewards are known by their prefix alone, so that all are read.
    few = only_new and "rewards" not in reads
    wanted = [*needed, *optional(reads), "outcome", "greedy", "token_rewards"] if few else None
    record = new_record(f"advantage {method}", {**params, "keep_groups": keep_groups}, narrows=keep_groups is not None)
    summary, memory = AdvantageSummary(), Memory(state, f"advantage {method}", params)
    made = makes(function) if only_new else None
    with (
        read(inputs or ["-"], columns=wanted, needs=needed, allow_mismatch=tuple(allow_mismatch or ())) as source,
        write(output, "advantaged", record, source, only=made, tee=tee) as sink,
    ):
        stale = shapes_reward(function) and any("advantages" in entry.schema.names for entry in source.inputs)
        if stale and not quiet:
            notice(f"advantage {method}: the advantages in {source.path} are of the old rewards; estimate them again")
        for step in source:
            rows = step.rows if keep_groups is None else keep_first_groups(step.rows, keep_groups)
            before = {"state": memory.before(step.number)}
            with naming(source.path):
                applied = apply_advantage(rows, function, params, summary, before)
            sink.put(step.number, applied.rows, rows_read=step.rows.num_rows)
            memory.remember(step.number, applied.state)
        sink.summarise(**summary.as_dict())
    report(f"advantage {method}", summary.as_dict(), as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
