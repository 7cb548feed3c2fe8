"""Say what a file is: columns, statistics, history, single responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from entropyctl import commands
from entropyctl.commands import Json

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE...", help="Tables: files, directories or globs; '-' or nothing is a stream on stdin."),
]
Provenance = Annotated[bool, typer.Option("--provenance", help="How it was made, as commands to paste.")]
Row = Annotated[
    str | None,
    typer.Option(
        metavar="STEP:PROMPT_ID:SAMPLE|N", help="Show one response; several files are laid over one another by key."
    ),
]
Color = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="With --row: the per-token numbers to show; entropies when not given."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="With --row: directory of a tokenizer.json, to show the tokens as text."),
]


def run(argv: list[str]) -> int:
    """The `entropyctl inspect` command."""
    return commands.run("inspect", inspect, argv)


def inspect(
    files: Files = None,
    provenance: Provenance = False,
    row: Row = None,
    color: Color = None,
    tokenizer: Tokenizer = None,
    json: Json = False,
) -> None:
    """Say what a file is: its table, rows, context, columns and statistics.

    Reads everything once, a group of rows at a time, and compares digests on the way. Control characters of the
    data are shown as escapes such as \\x1b.
    """
    from entropyctl.errors import UsageError

    if (color or tokenizer) and row is None:
        raise UsageError("--color and --tokenizer show a response; choose one with --row")
    if row is not None and (provenance or json):
        raise UsageError("--row shows one response; leave --provenance and --json out")
    paths = files or ["-"]
    if row is not None:
        _show_row(paths, row, color, tokenizer)
    else:
        _show_files(paths, provenance, json)


def _show_files(paths: list[str], provenance: bool, as_json: bool) -> None:
    from entropyctl.reporting import report
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
        report("inspect", {"inputs": found}, as_json=True, quiet=False, stdout_is_data=False)


def _show_row(paths: list[str], row: str, color: str | None, tokenizer: str | None) -> None:
    from entropyctl.show.console import console
    from entropyctl.show.find import find_row, parse_row
    from entropyctl.show.response import chosen_column, print_response

    decode = _decoder(tokenizer) if tokenizer else None
    found = find_row(paths, parse_row(row))
    print_response(console(), found, chosen_column(found, color, " + ".join(paths)), decode)


def _decoder(directory: str) -> Callable[[Sequence[int]], str] | None:
    """Text of token ids, by the tokenizer of a checkpoint; None, with a notice, where the library is not installed."""
    from pathlib import Path

    from entropyctl.errors import InputError
    from entropyctl.table import notice

    path = Path(directory, "tokenizer.json")
    if not path.is_file():
        raise InputError(f"{directory}: holds no tokenizer.json; name the directory of a checkpoint that has one")
    try:
        from tokenizers import Tokenizer as Fast
    except ImportError:
        notice("the tokenizers library is not installed, so tokens are shown as numbers; install entropyctl[model]")
        return None
    try:
        fast = Fast.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"{path}: is no tokenizer ({error}); take another checkpoint") from None
    return lambda ids: str(fast.decode(list(ids), skip_special_tokens=False))
