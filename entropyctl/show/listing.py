"""A list of rows, from which one finds the way to a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from entropyctl.query import Query, Selection, has_tokens, reading, select
from entropyctl.show.console import print_table
from entropyctl.show.row_names import shown_name
from entropyctl.show.text import number, shorten
from entropyctl.table.columns import filled, list_items, one_chunk
from entropyctl.table.schema import KEY

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {"reward": "reward", "outcome": "outcome", "tokens": "tokens", "entropy": "mean H", "selected": "selected"}


def list_rows(paths: Sequence[str], where: Query | None, count: int) -> dict[str, Any]:
    """The first rows of which a condition is true.

    Args:
        paths: files, directories, globs, or "-" for a stream on standard input.
        where: the condition; None lists any rows.
        count: most rows that are listed.

    Returns:
        rows and tokens that there are, those selected, and the list: each row's key (its number where the table has no
        key), reward, outcome, tokens, mean entropy of all its tokens, and how many of them are selected.
    """
    facts = {"rows": 0, "tokens": 0, "selected_rows": 0, "selected_tokens": 0}
    listed: list[dict[str, Any]] = []
    with reading(paths, [where], [*KEY, "reward", "outcome", "entropies"]) as source:
        if where is not None:
            where.check(source.available, source.path, "truth")
        for step in source:
            found = select(where, step.rows, source.path)
            for row in np.flatnonzero(found.rows)[: count - len(listed)].tolist():
                listed.append(_row(step.rows, row, facts["rows"] + row, found))
            facts["rows"] += step.rows.num_rows
            facts["tokens"] += len(found.tokens)
            facts["selected_rows"] += int(found.rows.sum())
            facts["selected_tokens"] += int(found.tokens.sum())
        return {"path": source.path, "where": where and where.text, **facts, "listed": listed}


def _row(rows: pa.Table, row: int, row_number: int, found: Selection) -> dict[str, Any]:
    here = rows.slice(row, 1)
    values = {
        name: here[name][0].as_py() if name in rows.column_names else None for name in (*KEY, "reward", "outcome")
    }
    entropy = None
    if "entropies" in rows.column_names and not here["entropies"].null_count and found.lengths[row]:
        entropy = float(filled(list_items(one_chunk(here["entropies"]))).mean(dtype=np.float64))
    known = has_tokens(rows.schema)
    end, tokens = int(found.lengths[: row + 1].sum()), int(found.lengths[row])
    counts = {"tokens": tokens, "entropy": entropy, "selected": int(found.tokens[end - tokens : end].sum())}
    return {"number": row_number, **values, **(counts if known else dict.fromkeys(counts))}


def print_rows(to: Console, facts: dict[str, Any]) -> None:
    """Print what `list_rows` found; the first column is what --row takes, and those that no row has are left out."""
    listed, selected = facts["listed"], facts["selected_rows"]
    which = f", {facts['selected_tokens']} of {facts['tokens']} tokens" if facts["where"] and facts["tokens"] else ""
    first = f"; the first {len(listed)}:" if len(listed) < selected else ""
    to.print(f"{selected} of {facts['rows']} rows{which}{first}", soft_wrap=True)
    shown = [name for name in TITLES if any(row[name] is not None for row in listed)]
    if not facts["where"] and "selected" in shown:
        shown.remove("selected")
    cells = [[shown_name(row), *(_cell(row[name]) for name in shown)] for row in listed]
    if cells:
        print_table(to, ["--row", *(TITLES[name] for name in shown)], cells, left=["--row", TITLES["outcome"]])


def _cell(value: str | float | None) -> str:
    return shorten(value, 20) if isinstance(value, str) else number(value)
