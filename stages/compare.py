"""Compare two masks, two runs or two evaluations: what differs, and what it does to the entropy."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Json

One = Annotated[str, typer.Argument(metavar="A", help="A table with a mask; a run, or its metrics; evals.")]
Other = Annotated[str, typer.Argument(metavar="B", help="The same of the other.")]
Base = Annotated[
    list[str] | None,
    typer.Option(metavar="TABLE", help="What both masks are laid over, where files hold them alone; may be repeated."),
]
Top = Annotated[int, typer.Option(min=1, metavar="N", help="Of masks: how many tokens that differ are shown.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Of masks: directory of a tokenizer.json, to show tokens as text."),
]


def run(argv: list[str]) -> int:
    """The `entropyctl compare` command."""
    return commands.run("compare", compare, argv)


def compare(
    a: One,
    b: Other,
    base: Base = None,
    top: Top = 10,
    tokenizer: Tokenizer = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
) -> None:
    """Compare two masks, two runs or two evaluations: what differs, and what it does to the entropy.

    Two tables of the same rows are two masks: how many of the tokens that the policy chose each of them keeps
    (counted, with a weight other than 0), by sign of A and by quadrant of A and S* - E[S]; what `forecast` predicts
    at eta = 1 without a mask, under A and under B; and the tokens whose predicted changes differ most.
      entropyctl compare A.parquet B.parquet --base scored.parquet --base advantages.parquet

    Two directories of runs, or what `update --metrics` wrote, are two runs: entropy, reward, predicted and realised
    change, masked share and KL at the steps that both have, at the last of them and in the mean.

    Two tables of evals are two policies on the same problems: pass@k of B less that of A, with a band for all k at
    once, and how the pass rates of the problems moved, as `eval B --against A` has it.

    What was not made from the same rollouts, or measured at another temperature, ends with status 5.
    """
    from entropyctl.errors import MismatchError, UsageError

    kinds = [kind_of(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise MismatchError(f"{b}: is {kinds[1]}, and {a} is {kinds[0]}; compare two of one kind")
    allow = tuple(allow_mismatch or ())
    if kinds[0] == RESPONSES:
        _compare_masks(base or [], a, b, top, tokenizer, allow, json)
        return
    if base or tokenizer:
        raise UsageError(f"{'--base' if base else '--tokenizer'}: is of two masks; leave it out")
    if kinds[0] == METRICS:
        _compare_runs(a, b, allow, json)
    elif kinds[0] == EVALS:
        _compare_evals(a, b, allow, json)
    else:
        raise UsageError(f"{a}: is {kinds[0]}; compare two masks over the same rows, or two runs")


RESPONSES, METRICS, EVALS = "a table of responses", "a run's metrics", "a table of evals"


def kind_of(path: str) -> str:
    """What a path holds, in words."""
    from entropyctl.compare.runs import metrics_of
    from entropyctl.table.source import open_argument

    if path == "-" or metrics_of(path) != path:
        return RESPONSES if path == "-" else METRICS
    entry = open_argument(path)
    entry.reader.close()
    table = entry.header.table
    if table == "metrics" or (table is None and "entropy" in entry.schema.names and "step" in entry.schema.names):
        return METRICS
    return f"a table of {table}" if table in ("evals", "laws", "prompts") else RESPONSES


def _compare_masks(
    base: list[str], a: str, b: str, top: int, tokenizer: str | None, allow: tuple[str, ...], as_json: bool
) -> None:
    from entropyctl.compare.masks import compare_masks
    from entropyctl.show.comparison import print_masks
    from entropyctl.show.console import console
    from entropyctl.show.contributions import with_text
    from entropyctl.show.tokenizer import decoder

    decode = decoder(tokenizer)
    facts = compare_masks(base, a, b, top, allow)
    if as_json:
        _report(facts | {"top": with_text(facts["top"], decode)})
    else:
        print_masks(console(), facts, decode)


def _compare_runs(a: str, b: str, allow: tuple[str, ...], as_json: bool) -> None:
    from entropyctl.compare.runs import compare_runs
    from entropyctl.show.comparison import print_runs
    from entropyctl.show.console import console

    facts = compare_runs(a, b, allow)
    if as_json:
        _report(facts)
    else:
        print_runs(console(), facts)


def _compare_evals(a: str, b: str, allow: tuple[str, ...], as_json: bool) -> None:
    from entropyctl.evaluation.comparison import compared
    from entropyctl.evaluation.evaluation import of_files
    from entropyctl.show.console import console
    from entropyctl.show.evaluation import print_comparison
    from entropyctl.table import new_record, notice

    one, other = (of_files([path], None, new_record("compare", {}), None, allow, notice) for path in (a, b))
    facts = {"kind": "evals", **compared(other, one, allow, names=("A", "B"))}
    if as_json:
        _report(facts)
    else:
        print_comparison(console(), facts)


def _report(summary: dict[str, Any]) -> None:
    from entropyctl.reporting import report

    report("compare", summary, as_json=True, quiet=False, stdout_is_data=False)
