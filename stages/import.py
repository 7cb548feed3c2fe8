"""Read rollout dumps of other programs: verl, TRL, prime-rl and NeMo-RL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from entropyctl import methods
from entropyctl.commands import Json, Output, Quiet, Tee

Dumps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DUMP]...",
        help="Files that the other program wrote, their directory, or globs; those of one run.",
        show_default=False,
    ),
]
CorrectFrom = Annotated[
    float | None,
    typer.Option(metavar="X", help="Call responses with a reward of X or more correct, and others wrong."),
]
SampledAt = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        help="What logits were divided by when the responses were sampled; unknown without it.",
    ),
]


def run(argv: list[str]) -> int:
    """The `entropyctl import` command."""
    return methods.run("import", "imports", import_dump, argv, word="format")


def import_dump(
    method: str,
    function: Callable[..., Any],
    params: dict[str, Any],
    inputs: Dumps = None,
    output: Output = None,
    tee: Tee = None,
    correct_from: CorrectFrom = None,
    temperature: SampledAt = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read rollout dumps of other programs: verl, TRL, prime-rl and NeMo-RL.

    The result has the columns that the dump has, and no others: nothing is tokenised or guessed. A stage that
    misses one says which stage makes it. The policy, the tokenizer and the sampling are unknown but for what is told.
    """
    from functools import partial

    from entropyctl.errors import InputError, UsageError, require
    from entropyctl.imports import import_rows, open_dumps, origin_of, table_of, with_verdicts
    from entropyctl.reporting import report
    from entropyctl.table import new_record, notice, write

    if not inputs:
        raise UsageError(f"no dump is named; give its files or their directory, as in `import {method} DIRECTORY`")
    if temperature is not None:
        require(temperature > 0, "--temperature", temperature, "be above 0")
    record = new_record(f"import {method}", {**params, "correct_from": correct_from, "temperature": temperature})
    context = {} if temperature is None else {"sampling": {"temperature": temperature}}
    dumps = open_dumps(inputs, (lambda text: None) if quiet else notice)
    steps = import_rows(partial(function, **params), dumps)
    # The first step says which columns there are, and so which table it is.
    step = next(steps, None)
    if step is None:
        raise InputError(f"{', '.join(inputs)}: no response is in there; name files that {method} wrote")
    origin: dict[str, Any] = {}
    with write(output, table_of(step.rows), record, context=context, inputs=[origin], tee=tee) as sink:
        count = unscored = 0
        while step is not None:
            rows = step.rows if correct_from is None else with_verdicts(step.rows, correct_from)
            sink.put(step.number, rows)
            unscored += rows["reward"].null_count if "reward" in rows.column_names else 0
            count, step = count + 1, next(steps, None)
        origin |= origin_of(dumps)
        summary = {"steps": count, "rows": sink.rows, "columns": " ".join(rows.column_names)}
        sink.summarise(**summary)
    if unscored and not quiet:
        notice(f"import {method}: {unscored} of {summary['rows']} responses have no score")
    report(f"import {method}", summary, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
