"""The terminal, as rich knows it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Where no terminal says how wide it is, lines may be as long as they need: a pager or a file holds them.
WIDE = 200


def console(to_stderr: bool = False) -> Console:
    """Standard output (or error) for people: colours only on a terminal and without NO_COLOR, no markup in data."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 gets escapes, not a traceback
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def has_unicode(to: Console) -> bool:
    """Whether more than ASCII can be shown."""
    return to.encoding.lower().startswith("utf")


def print_table(
    to: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = (), title: str = ""
) -> None:
    """A plain table; the columns named in `left` are text, all others numbers.

    Args:
        to: where it goes.
        titles: the columns' titles.
        rows: cells, which must have gone through `visible` where they are data.
        left: titles of the columns that are set flush left.
        title: a line above.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in titles:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if title:
        to.print(title)
    to.print(table)
