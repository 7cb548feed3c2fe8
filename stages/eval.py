"""Measure a policy: unbiased pass@k, average and majority of scored responses."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Inputs, Json, Quiet

Ks = Annotated[
    list[str] | None,
    typer.Option("-k", metavar="K[,K]...", help="Which pass@k to report; may be repeated. Default: every k up to n."),
]
EvalOutput = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the counts by problem, as Parquet.")
]
FailUnder = Annotated[
    float | None, typer.Option(metavar="X", help="End with status 10 when the average over problems is below X.")
]


def run(argv: list[str]) -> int:
    """The `entropyctl eval` command."""
    return commands.run("eval", evaluate, argv)


def evaluate(
    inputs: Inputs = None,
    k: Ks = None,
    output: EvalOutput = None,
    fail_under: FailUnder = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a policy on scored responses.

    pass@k = 1 - C(n - c, k) / C(n, k) for each problem with n responses, c of them correct; mean over problems.

    Without bias, for every k up to n (arXiv 2107.03374); intervals are Student's over problems. maj@n: whether
    the most frequent answer is correct; answers that tie count with the fraction of them that is correct.
    Responses that could not be graded (unparsable, timeout, error) count as not correct.
    """
    from contextlib import nullcontext

    from entropyctl.errors import ThresholdCrossed
    from entropyctl.laws import evaluate as ev
    from entropyctl.table import new_record, read, write

    ks = chosen_ks(k)
    allow = tuple(allow_mismatch or ())
    record = new_record("eval", {"k": ks, "fail_under": fail_under})
    with (
        read(inputs or ["-"], columns=ev.COLUMNS, needs=ev.NEEDS, allow_mismatch=allow) as source,
        write(output, "evals", record, source) if output else nullcontext() as sink,
    ):
        evals = ev.evaluate((step.rows for step in source), source.path)
        summary = ev.summarise(evals, ks)
        if sink is not None:
            sink.put(0, evals, rows_read=summary["pooled"]["responses"])
            sink.summarise(**summary)
    _report(summary, bool(ks), json, quiet, stdout_is_data=output == "-")
    average = summary["pooled"]["avg@n"]["mean"]
    if fail_under is not None and average < fail_under:
        raise ThresholdCrossed(f"avg@n is {average:.4f}, below --fail-under {fail_under:g}")


def chosen_ks(words: list[str] | None) -> list[int]:
    """`["1,2", "4"]` as `[1, 2, 4]`.

    Raises:
        UsageError: one is not a number.
    """
    from entropyctl.errors import UsageError

    parts = [part.strip() for word in words or [] for part in word.split(",")]
    if odd := next((part for part in parts if not part.isdecimal()), None):
        raise UsageError(f"-k {odd}: must be a whole number or several with commas, such as 1,2,4")
    return [int(part) for part in parts]


def _report(summary: dict[str, Any], chosen: bool, as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.evaluation import print_evaluation

    if as_json:
        report("eval", summary, as_json=True, quiet=quiet, stdout_is_data=stdout_is_data)
    elif not quiet:
        print_evaluation(console(to_stderr=stdout_is_data), summary, chosen)
