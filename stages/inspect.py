"""Look at a file: columns, statistics, history, single responses and tokens, histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropyctl import commands
from entropyctl.commands import Json

if TYPE_CHECKING:
    from entropyctl.query import Query

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE...", help="Tables: files, directories or globs; '-' or nothing is a stream on stdin."),
]
Where = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="Look only at what this is true of: 'reward > 0 and entropies > 2'."),
]
Provenance = Annotated[bool, typer.Option("--provenance", help="How it was made, as commands to paste.")]
Row = Annotated[str | None, typer.Option(metavar="STEP:PROMPT_ID:SAMPLE|N", help="Show one response.")]
Color = Annotated[
    str | None,
    typer.Option(metavar="QUANTITY", help="With --row: the numbers of its tokens to show; entropies when not given."),
]
Rows = Annotated[int | None, typer.Option(min=1, metavar="N", help="List the first N rows, as --row takes them.")]
Top = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Show the N tokens that carry most of the predicted change of entropy."),
]
HistogramOf = Annotated[
    str | None, typer.Option("--histogram", metavar="QUANTITY[,QUANTITY]...", help="Show how they are distributed.")
]
By = Annotated[
    str | None, typer.Option(metavar="QUANTITY", help="With --histogram: take apart by this, for example outcome.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="With --row or --top: directory of a tokenizer.json, to show tokens as text."),
]


def run(argv: list[str]) -> int:
    """The `entropyctl inspect` command."""
    return commands.run("inspect", inspect, argv)


def inspect(
    files: Files = None,
    where: Where = None,
    provenance: Provenance = False,
    row: Row = None,
    color: Color = None,
    rows: Rows = None,
    top: Top = None,
    histogram: HistogramOf = None,
    by: By = None,
    tokenizer: Tokenizer = None,
    json: Json = False,
) -> None:
    """Look at a file: its table, rows, context, columns and statistics.

    Reads everything once, a group of rows at a time, and compares digests on the way. Control characters of the
    data are shown as escapes such as \\x1b. Several files are described one by one; --where, --row, --rows, --top
    and --histogram lay them over one another by key.

    A QUANTITY is a column, or numbers joined by + - * / and abs(...), or one of
      centred_s    S* - E[S]
      mismatch     logprobs - rollout_logprobs
      probability  e^logprobs
      change       predicted change of the token's entropy at eta = 1: -w r A (S* - E[S]), 0 where it is not counted
      kept         whether the token is counted and has a weight other than 0
      position     of the token in its response, from 0
      length       of the response in tokens

    A CONDITION compares them by < <= > >= == !=, with words in quotes (outcome == 'correct'), and joins comparisons
    by and, or, not and parentheses. One that names quantities of tokens is asked of every token, where a row's numbers
    count for each of its tokens: it selects tokens, and the rows that have one. Any other selects rows, and all their
    tokens. What is null is neither equal to nor different from anything; x == null asks for it. A division by zero is
    null. A name in backquotes is a column whatever its characters.

    --row shows tokens in colours: white to orange, or blue to orange about 0 where signs mean something; removed ones
    (weight 0, or not counted) are struck out. --top is of the rows as they are, like `forecast --lr 1`.
    """
    params = dict(locals())
    from entropyctl.query import query

    _check_flags(params)
    condition = query("--where", where) if where is not None else None
    paths = files or ["-"]
    if row is not None:
        _show_row(paths, row, condition, params)
    elif rows is not None:
        _show_rows(paths, condition, rows, json)
    elif top is not None:
        _show_top(paths, condition, top, tokenizer, json)
    elif histogram is not None:
        _show_histograms(paths, condition, histogram, by, json)
    elif condition is not None:
        _show_selected(paths, condition, json)
    else:
        _show_files(paths, provenance, json)


def _check_flags(params: dict[str, Any]) -> None:
    """Stop where flags that were given do not go together."""
    from entropyctl.errors import UsageError

    given = {name for name, value in params.items() if value not in (None, False)}
    views = [name for name in ("provenance", "row", "rows", "top", "histogram") if name in given]
    if len(views) > 1:
        raise UsageError(f"--{views[0]} and --{views[1]}: each shows something else; leave one out")
    needs = {"color": ("row",), "tokenizer": ("row", "top"), "by": ("histogram",)}
    for name, others in needs.items():
        if name in given and not given & set(others):
            raise UsageError(
                f"--{name}: is of another view; choose one with {' or '.join(f'--{other}' for other in others)}"
            )
    for name, other in (("row", "json"), ("provenance", "where")):
        if {name, other} <= given:
            raise UsageError(f"--{name}: does not go with --{other}; leave one out")


def _show_files(paths: list[str], provenance: bool, as_json: bool) -> None:
    from entropyctl.show.console import console
    from entropyctl.show.describe import describe, history
    from entropyctl.show.history import print_history
    from entropyctl.show.overview import print_overview

    found = []
    for path in paths:
        facts = history(path) if provenance else describe(path)
        found.append(facts)
        if not as_json and provenance:
            print_history(console(), path, facts["provenance"])
        elif not as_json:
            print_overview(console(), facts)
    if as_json:
        _report({"inputs": found})


def _show_selected(paths: list[str], where: Query, as_json: bool) -> None:
    from entropyctl.show.console import console
    from entropyctl.show.overview import print_overview
    from entropyctl.show.selected import describe_selected

    facts = describe_selected(paths, where)
    if as_json:
        _report({"inputs": [facts]})
    else:
        print_overview(console(), facts)


def _show_row(paths: list[str], row: str, where: Query | None, params: dict[str, Any]) -> None:
    from entropyctl.show.console import console
    from entropyctl.show.find import find_row
    from entropyctl.show.response import chosen_quantity, print_response, tokens_of
    from entropyctl.show.row_names import parse_row
    from entropyctl.show.tokenizer import decoder

    path = " + ".join(paths)
    decode = decoder(params["tokenizer"])
    found = find_row(paths, parse_row(row))
    color = chosen_quantity(found, params["color"], path)
    if where is not None:
        where.check(found.schema, path, "truth")
    print_response(console(), found, color, tokens_of(found, color, where, decode, path))


def _show_rows(paths: list[str], where: Query | None, count: int, as_json: bool) -> None:
    from entropyctl.show.console import console
    from entropyctl.show.listing import list_rows, print_rows

    facts = list_rows(paths, where, count)
    if as_json:
        _report(facts)
    else:
        print_rows(console(), facts)


def _show_top(paths: list[str], where: Query | None, count: int, tokenizer: str | None, as_json: bool) -> None:
    from entropyctl.contributions import top_tokens
    from entropyctl.show.console import console
    from entropyctl.show.contributions import print_top, with_text
    from entropyctl.show.tokenizer import decoder

    decode = decoder(tokenizer)
    facts = top_tokens(paths, where, count)
    if as_json:
        _report(facts | {"top": with_text(facts["top"], decode)})
    else:
        print_top(console(), facts, decode)


def _show_histograms(paths: list[str], where: Query | None, names: str, by: str | None, as_json: bool) -> None:
    from entropyctl.query import queries, query
    from entropyctl.show.bars import print_histogram
    from entropyctl.show.console import console
    from entropyctl.show.histogram import histograms

    apart = query("--by", by) if by is not None else None
    found = histograms(paths, where, queries("--histogram", names), apart)
    if as_json:
        _report({"histograms": found})
        return
    for facts in found:
        print_histogram(console(), facts, by)


def _report(summary: dict[str, Any]) -> None:
    from entropyctl.reporting import report

    report("inspect", summary, as_json=True, quiet=False, stdout_is_data=False)
