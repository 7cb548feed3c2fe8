"""Fit the law between entropy and performance, R = -a e^H + b, and its ceiling b - a."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Json, Quiet

if TYPE_CHECKING:
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
Until = Annotated[
    str | None,
    typer.Option(
        metavar="STEP|SHARE",
        help="Fit the points up to this step (36) or share of the run (0.15, 15%); predict the rest.",
    ),
]
Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        metavar="NAME=TABLE",
        help="A run among several, in the place of TABLE...; again with a NAME adds tables.",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size", metavar="NAME=N", help="Non-embedding parameters of a run's model, in billions; one for each run."
    ),
]
PredictSizes = Annotated[
    list[float] | None,
    typer.Option("--predict-size", metavar="N", help="With --size: the law of one further model of N billion."),
]
Dynamics = Annotated[
    bool,
    typer.Option(
        "--dynamics", help="From metrics: the effective step size, out of predicted and realised entropy changes."
    ),
]
Derive = Annotated[
    bool, typer.Option("--derive", help="Derive the law and the theorems of S* with sympy, and check them by numbers.")
]
Confidence = Annotated[float, typer.Option(metavar="C", help="Level of the intervals, between 0 and 1.")]
LawOutput = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Also write the laws, as Parquet, a row for each run."),
]


def run(argv: list[str]) -> int:
    """The `entropyctl fit-law` command."""
    return commands.run("fit-law", fit, argv)


def fit(
    tables: Tables = None,
    entropy: EntropyColumn = None,
    performance: PerformanceColumn = None,
    metric: Metric = None,
    until: Until = None,
    run: Runs = None,
    size: Sizes = None,
    predict_size: PredictSizes = None,
    dynamics: Dynamics = False,
    derive: Derive = False,
    confidence: Confidence = 0.95,
    output: LawOutput = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the law between policy entropy and performance.

    R = -a e^H + b, by least squares in x = e^H; ceiling at H = 0: b - a (arXiv 2505.22617).

    Metrics alone give a point for each step (entropy, reward). With evals, or evals alone, there is a point for
    each policy version: its pass@k, and the entropy of its evaluated responses, or of its training step where
    those carry none. Intervals are Student's, with as many degrees of freedom as points less two. What the residuals
    say against them is said: dependence, curvature, outliers, a single point that carries the ceiling.

    Fewer than three points, one entropy, or a performance that does not fall with e^H are no law: status 3.
    Entropies that were measured in different ways (sampling.temperature, entropy.mean, entropy.responses in the
    metadata) do not belong together: status 5.

    --run twice or more fits each run, and tests by F whether they share one curve, or a alone. With --size, a, b and
    the ceiling are lines in ln N, and --predict-size has the prediction interval of a further model.

    --dynamics fits realised = slope x predicted change of the entropy: eta = slope x learning rate.
    """
    params = dict(locals())
    from entropyctl.errors import UsageError

    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: must lie between 0 and 1, for example 0.95")
    check_flags(params)
    if derive:
        _derive(params)
    elif dynamics:
        _dynamics(tables or ["-"], params)
    else:
        _fit(params)


def check_flags(params: dict[str, Any]) -> None:
    """Stop where flags that were given do not go together.

    Raises:
        UsageError: names two of them.
    """
    from entropyctl.errors import UsageError

    given = {name for name, value in params.items() if value} - {"json", "quiet", "confidence"}
    flags = {"tables": "TABLE", "predict_size": "--predict-size"}
    excluded = {
        "derive": given - {"derive"},
        "dynamics": given - {"dynamics", "tables"},
        "run": given & {"tables", "until"},
    }
    for mode, others in excluded.items():
        if mode in given and others:
            other = min(others)
            raise UsageError(
                f"--{mode}: does not go with {flags.get(other, f'--{other}'.replace('_', '-'))}; leave one out"
            )
    if "size" in given and "run" not in given:
        raise UsageError("--size: says how large the model of a --run is; give that too")
    if "predict_size" in given and "size" not in given:
        raise UsageError("--predict-size: needs the sizes of the runs that there are; give --size NAME=N for each")
    if odd := [n for n in params["predict_size"] or [] if not 0 < n < float("inf")]:
        raise UsageError(f"--predict-size {odd[0]:g}: must be a finite number above 0, in billions")


def runs_of(words: list[str]) -> dict[str, list[str]]:
    """`["a=x", "a=y", "b=z"]` as `{"a": ["x", "y"], "b": ["z"]}`.

    Raises:
        UsageError: there is one run, or a word is no NAME=TABLE.
    """
    from entropyctl.errors import UsageError

    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--run {word}: must be NAME=TABLE")
        found.setdefault(name, []).append(path)
    if len(found) < 2:
        raise UsageError(f"--run {words[0]}: several runs are compared; give at least two, or name the table alone")
    return found


def sizes_of(words: list[str] | None, runs: dict[str, list[str]]) -> dict[str, float]:
    """`["a=7"]` as `{"a": 7.0}`; every run has one, or none.

    Raises:
        UsageError: a word is no NAME=N, a run is unknown, or one has no size.
    """
    from entropyctl.errors import UsageError

    sizes = {}
    for name, text in commands.pairs("--size", words).items():
        try:
            sizes[name] = float(text)
        except ValueError:
            raise UsageError(f"--size {name}={text}: must be NAME=N with a number of billions") from None
        if name not in runs:
            raise UsageError(f"--size {name}={text}: there is no --run {name}; known: {', '.join(runs)}")
    if sizes and (missing := [name for name in runs if name not in sizes]):
        raise UsageError(f"--size: run {missing[0]} has none; give every run its size, or leave the run out")
    return sizes


def _fit(params: dict[str, Any]) -> None:
    from entropyctl.laws.collect import check_definitions, definitions, names_of
    from entropyctl.laws.report import law_of, laws_of
    from entropyctl.show.law import print_law, print_laws
    from entropyctl.table import new_record, notice

    record = new_record("fit-law", {name: value for name, value in params.items() if value not in (None, False)})
    runs = runs_of(params["run"]) if params["run"] else {"": params["tables"] or ["-"]}
    sizes = sizes_of(params["size"], runs)
    allow = tuple(params["allow_mismatch"] or ())
    inputs, points, measured = {}, {}, []
    allowed: list[dict[str, Any]] = []
    for name, paths in runs.items():
        inputs[name], points[name] = _read(paths, params, allow, allowed)
        measured += definitions(inputs[name], points[name])
        if not params["quiet"]:
            for text in (points[name].origin, *points[name].notes):
                notice(f"fit-law: {name}: {text}" if name else f"fit-law: {text}")
    everything = [entry for entries in inputs.values() for entry in entries]
    allowed += check_definitions(measured, allow, everything)
    if allowed:
        record["allowed_mismatches"] = allowed
    level = params["confidence"]
    if params["run"]:
        several = laws_of(points, sizes, params["predict_size"] or [], confidence=level)
        _finish(params, record, everything, several.as_rows(), several.as_dict(), lambda to: print_laws(to, several))
    else:
        one = law_of(points[""], until=params["until"], confidence=level, path=names_of(everything))
        _finish(params, record, everything, [one.as_row()], one.as_dict(), lambda to: print_law(to, one))


def _read(
    paths: list[str], params: dict[str, Any], allow: tuple[str, ...], allowed: list[dict[str, Any]]
) -> tuple[list[Rows], Points]:
    from entropyctl.laws.collect import collect
    from entropyctl.table.rows import read_rows

    inputs = [read_rows(path, allow, allowed) for path in paths]
    return inputs, collect(inputs, params["entropy"], params["performance"], params["metric"])


def _dynamics(paths: list[str], params: dict[str, Any]) -> None:
    from entropyctl.laws.step_size import fit_step_size
    from entropyctl.metrics import read_history
    from entropyctl.show.law import print_step_size

    if len(paths) > 1:
        from entropyctl.errors import UsageError

        raise UsageError(f"{paths[1]}: --dynamics is of one run; name its one file or directory of metrics")
    found = fit_step_size(read_history(paths[0]), confidence=params["confidence"], path=paths[0])
    _say(params, found.as_dict(), lambda to: print_step_size(to, found))


def _finish(
    params: dict[str, Any],
    record: dict[str, Any],
    inputs: list[Rows],
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
    show: Any,
) -> None:
    import pyarrow as pa

    from entropyctl.table import write
    from entropyctl.table.columns import column_from
    from entropyctl.table.provenance import merge_chains
    from entropyctl.table.schema import load_schema

    if params["output"] is not None:
        columns = load_schema("laws").columns
        chain, origins = merge_chains([entry.header.chain for entry in inputs]), [entry.origin() for entry in inputs]
        with write(params["output"], "laws", record, inputs=origins, chain=chain) as sink:
            sink.put(0, pa.table({c.name: column_from([row[c.name] for row in rows], c.arrow_type) for c in columns}))
            sink.summarise(**(rows[0] if len(rows) == 1 else {"laws": rows}))
    _say(params, summary, show)


def _say(params: dict[str, Any], summary: dict[str, Any], show: Any) -> None:
    from entropyctl.reporting import report
    from entropyctl.show.console import console

    to_stderr = params["output"] == "-"
    if params["json"]:
        report("fit-law", summary, as_json=True, quiet=params["quiet"], stdout_is_data=to_stderr)
    elif not params["quiet"]:
        show(console(to_stderr=to_stderr))


def _derive(params: dict[str, Any]) -> None:
    from entropyctl.errors import EntropyctlError
    from entropyctl.laws.derivation import derive
    from entropyctl.show.law import print_derivations

    found = derive()
    _say(params, {"derived": [one.as_dict() for one in found]}, lambda to: print_derivations(to, found))
    if wrong := [one.name for one in found if not one.holds]:
        raise EntropyctlError(
            f"--derive: {', '.join(wrong)} does not hold here; report it with the versions of your packages"
        )
