"""Fit the law between entropy and performance, R = -a e^H + b, and its ceiling b - a."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from entropyctl import commands
from entropyctl.commands import Json, Quiet

if TYPE_CHECKING:
    from entropyctl.laws import LawFit
    from entropyctl.laws.points import Points
    from entropyctl.table.rows import Rows

Tables = Annotated[
    list[str] | None,
    typer.Argument(metavar="TABLE...", help="Metrics, evals, or any CSV, JSON lines or Parquet with two columns."),
]
EntropyColumn = Annotated[
    str | None, typer.Option("--entropy", metavar="COLUMN", help="Column of the entropies, in nats.")
]
PerformanceColumn = Annotated[
    str | None, typer.Option("--performance", metavar="COLUMN", help="Column of the performance.")
]
Metric = Annotated[
    str | None, typer.Option(metavar="pass@K", help="Performance that evals stand for; pass@1 when not given.")
]
Confidence = Annotated[float, typer.Option(metavar="C", help="Level of the intervals, between 0 and 1.")]
LawOutput = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the law, as Parquet.")
]


def run(argv: list[str]) -> int:
    """The `entropyctl fit-law` command."""
    return commands.run("fit-law", fit, argv)


def fit(
    tables: Tables = None,
    entropy: EntropyColumn = None,
    performance: PerformanceColumn = None,
    metric: Metric = None,
    confidence: Confidence = 0.95,
    output: LawOutput = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the law between policy entropy and performance.

    R = -a e^H + b, by least squares in x = e^H; ceiling at H = 0: b - a (arXiv 2505.22617).

    Metrics alone give a point for each step (entropy, reward). With evals, or evals alone, there is a point for
    each policy version: its pass@k, and the entropy of its evaluated responses, or of its training step where
    those carry none. Intervals are Student's, with as many degrees of freedom as points less two.
    """
    from entropyctl.errors import UsageError
    from entropyctl.laws import fit_law
    from entropyctl.table import new_record, notice
    from entropyctl.table.rows import read_rows

    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: must lie between 0 and 1, for example 0.95")
    params = {"entropy": entropy, "performance": performance, "metric": metric, "confidence": confidence}
    record = new_record("fit-law", params)
    inputs = [read_rows(path) for path in tables or ["-"]]
    points = collect(inputs, entropy, performance, metric)
    law = fit_law(points.entropy, points.performance, confidence=confidence, path=_names(inputs))
    if not quiet:
        for text in (f"fit-law: {points.origin}", *points.notes):
            notice(text)
    if output is not None:
        _write(output, law, record, inputs)
    _report(law, points, as_json=json, quiet=quiet, stdout_is_data=output == "-")


def collect(inputs: list[Rows], entropy: str | None, performance: str | None, metric: str | None) -> Points:
    """The points that the inputs hold.

    Raises:
        UsageError: the flags do not fit the inputs.
    """
    import pyarrow as pa

    from entropyctl.errors import UsageError
    from entropyctl.laws.points import from_columns, from_run, joined

    if (entropy is None) != (performance is None):
        raise UsageError("--entropy and --performance name the two columns together; give both or neither")
    by_table: dict[str | None, list[Rows]] = {}
    for entry in inputs:
        by_table.setdefault(entry.header.table, []).append(entry)
    evals, metrics = by_table.get("evals", []), by_table.get("metrics", [])
    if metric is not None and (entropy is not None or not evals):
        raise UsageError("--metric chooses what evals stand for; it needs an evals table and no column names")
    if entropy is not None and performance is not None:
        return joined([from_columns(entry.rows, entropy, performance, entry.path) for entry in inputs])
    if odd := next((entry for entry in inputs if entry.header.table not in ("evals", "metrics")), None):
        what = f"is a table of {odd.header.table}" if odd.header.table else "is no table of entropyctl's"
        raise UsageError(
            f"{odd.path}: {what}; name two of its columns with --entropy and --performance "
            f"(it has {', '.join(odd.rows.column_names)})"
        )
    if not evals:
        return joined([from_columns(entry.rows, "entropy", "reward", entry.path) for entry in metrics])
    of_run = pa.concat_tables([entry.rows for entry in metrics], promote_options="permissive") if metrics else None
    evaluated = pa.concat_tables([entry.rows for entry in evals], promote_options="permissive")
    return from_run(of_run, evaluated, metric or "pass@1", _names(inputs))


def _names(inputs: list[Rows]) -> str:
    return " + ".join("standard input" if entry.path == "-" else entry.path for entry in inputs)


def _write(output: str, law: LawFit, record: dict[str, object], inputs: list[Rows]) -> None:
    import pyarrow as pa

    from entropyctl.table import write
    from entropyctl.table.columns import column_from
    from entropyctl.table.provenance import merge_chains
    from entropyctl.table.schema import load_schema

    row, columns = law.as_row(), load_schema("laws").columns
    chain, origins = merge_chains([entry.header.chain for entry in inputs]), [entry.origin() for entry in inputs]
    with write(output, "laws", record, inputs=origins, chain=chain) as sink:
        sink.put(0, pa.table({c.name: column_from([row[c.name]], c.arrow_type) for c in columns}))
        sink.summarise(**row)


def _report(law: LawFit, points: Points, as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console
    from entropyctl.show.law import print_law

    if as_json:
        summary = law.as_row() | {"entropy": points.entropy, "performance": points.performance}
        report("fit-law", summary, as_json=True, quiet=quiet, stdout_is_data=stdout_is_data)
    elif not quiet:
        print_law(console(to_stderr=stdout_is_data), law)
