"""Choose prompts by pass rate and semantic entropy, and put them in order: filters and curricula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from entropyctl import commands
from entropyctl.commands import Json, Output, Quiet

if TYPE_CHECKING:
    from fractions import Fraction

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPTS",
        help="JSON lines, Parquet, hf:OWNER/NAME?split=S, gym:NAME?key=value, or '-' for a stream.",
        show_default=False,
    ),
]
Evals = Annotated[
    str | None, typer.Option(metavar="FILE", help="What `eval -o` wrote; several files as a directory or glob.")
]
Version = Annotated[
    int | None, typer.Option(metavar="K", help="Policy version whose evaluation counts; by default the newest.")
]
MinPass = Annotated[str | None, typer.Option(metavar="X", help="Drop pass rates up to X, a number or a fraction.")]
MaxPass = Annotated[str | None, typer.Option(metavar="X", help="Drop pass rates from X on.")]
Informative = Annotated[
    bool, typer.Option("--informative", help="Drop prompts that were always or never solved (DAPO: 0 < c < n).")
]
By = Annotated[
    Literal["semantic-entropy", "pass-rate"] | None,
    typer.Option(
        metavar="semantic-entropy|pass-rate",
        help="Sort from low to high; without it the order stays, except that --stages sorts by semantic entropy.",
    ),
]
Descending = Annotated[bool, typer.Option("--descending", help="Sort from high to low.")]
Stages = Annotated[int | None, typer.Option(min=1, metavar="N", help="Cut the sorted prompts into N equal parts.")]
Stage = Annotated[int | None, typer.Option(min=1, metavar="I", help="Take part I, from 1.")]
Count = Annotated[int | None, typer.Option("--count", "-n", min=1, metavar="N", help="Take the first N at most.")]


def run(argv: list[str]) -> int:
    """The `entropyctl select` command."""
    return commands.run("select", select, argv)


def select(
    prompts: Source = None,
    evals: Evals = None,
    output: Output = None,
    min_pass: MinPass = None,
    max_pass: MaxPass = None,
    informative: Informative = False,
    order: By = None,
    descending: Descending = False,
    stages: Stages = None,
    stage: Stage = None,
    count: Count = None,
    version: Version = None,
    column: commands.Column = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose prompts by pass rate and semantic entropy, and put them in order: filters and curricula.

    The prompts keep their names, so that rollouts of the selection join with those of all prompts. Filters come
    first, then the order, then the stage, then the count; prompts without an evaluation are dropped.

    The filter of arXiv 2602.03392: --min-pass 1/16 --max-pass 15/16
    Stage 1 of SENT's curriculum (arXiv 2512.04359): --stages 2 --stage 1
    DAPO's informative prompts (arXiv 2503.14476): --informative

    rollout takes the prompts of a step in an order of its own, which its seed fixes; the order here decides the
    stages and what --count keeps.
    """
    params = dict(locals())
    from entropyctl.errors import UsageError
    from entropyctl.prompts import as_table, load_prompts, measurements, prompts_digest
    from entropyctl.prompts import select as choose
    from entropyctl.reporting import report
    from entropyctl.table import new_record, notice, write
    from entropyctl.table.rows import read_rows

    low, high = fraction("--min-pass", min_pass), fraction("--max-pass", max_pass)
    if low is not None and high is not None and low >= high:
        raise UsageError(f"--min-pass {min_pass}: must be below --max-pass {max_pass}")
    if (stages is None) != (stage is None):
        raise UsageError("--stages and --stage belong together; give both, as in --stages 2 --stage 1")
    if stages is not None and stage is not None and stage > stages:
        raise UsageError(f"--stage {stage}: must be at most --stages {stages}")
    if stages is not None and order is None:
        order = "semantic-entropy"
    if descending and order is None:
        raise UsageError("--descending: needs --order, which says what to sort by")
    path = commands.required("PROMPTS", prompts)
    measured_in = read_rows(commands.required("--evals", evals))
    record = new_record("select", params)
    announce = (lambda text: None) if quiet else notice
    problems = load_prompts(path, columns=commands.pairs("--column", column), announce=announce)
    chosen, measured = measurements(measured_in.rows, version, measured_in.path)
    found = choose(
        problems,
        measured,
        min_pass=low,
        max_pass=high,
        informative=informative,
        order=order,
        descending=descending,
        stages=stages,
        stage=stage,
        count=count,
    )
    summary = {"prompts": len(problems), "selected": len(found.problems), "policy_version": chosen, **found.dropped}
    inputs = [{"path": path, "digest": prompts_digest(problems)}, measured_in.origin()]
    with write(output, "prompts", record, inputs=inputs, chain=measured_in.header.chain) as sink:
        sink.put(0, as_table(found.problems))
        sink.summarise(**summary)
    report("select", summary, as_json=json, quiet=quiet, stdout_is_data=output in (None, "-"))
    if not found.problems and not quiet:
        notice("select: no prompt is left; the counts say why")


def fraction(flag: str, text: str | None) -> Fraction | None:
    """A pass rate as it was written: `1/16` or `0.0625`.

    Raises:
        UsageError: it is no number from 0 to 1.
    """
    from fractions import Fraction

    from entropyctl.errors import UsageError

    if text is None:
        return None
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise UsageError(f"{flag} {text}: must be a number or a fraction from 0 to 1, such as 1/16")
    return value
