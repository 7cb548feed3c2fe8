"""Prove files whole: silent when they are good."""

from __future__ import annotations

from typing import Annotated

import typer

from entropyctl import commands

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE...", help="Tables: files, directories or globs; '-' or nothing is a stream on stdin."),
]
Full = Annotated[bool, typer.Option("--full", help="Read every value: checksums, digests, list lengths, keys, NaN.")]


def run(argv: list[str]) -> int:
    """The `entropyctl check` command."""
    return commands.run("check", check, argv)


def check(files: Files = None, full: Full = False) -> int:
    """Prove files whole; silent, with status 0, when they are.

    Without --full it reads what proves a file without its pages: footer, end record, seal, number of rows, types
    of columns; and of a directory, which shards of a rollout are missing. Each bad file gives one line on stderr; the
    status is then 3, or 4 when all that is wrong is that streams ended without their end record.
    """
    import sys

    from entropyctl.errors import one_line
    from entropyctl.table.check import check

    faults = [fault for path in files or ["-"] for fault in check(path, full=full)]
    for fault in faults:
        print(f"entropyctl check: {one_line(str(fault))}", file=sys.stderr)
    return min((fault.exit_code for fault in faults), default=0)
