"""The statistics of the rows and tokens of which a condition is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.query import Query, Selection, has_tokens, reading, select
from entropyctl.show.describe import column_facts, span
from entropyctl.show.statistics import ColumnStatistics
from entropyctl.table.columns import filtered_lists, null_rows, one_chunk, row_column, row_lengths
from entropyctl.table.schema import known_column, load_schema
from entropyctl.table.types import is_list


def describe_selected(paths: Sequence[str], where: Query) -> dict[str, Any]:
    """Read inputs once, laid over one another by key, and say what a condition selects of them.

    Args:
        paths: files, directories, globs, or "-" for a stream on standard input.
        where: the condition.

    Returns:
        The facts of `describe` of the selected rows, and of the selected tokens alone in columns that have a value for
        each token; with `where`, and `of`, how many rows and tokens there are in all.

    Raises:
        InputError: a column that the condition names is missing, or the bytes are damaged.
    """
    rows = tokens = all_rows = all_tokens = 0
    steps = set[int]()
    with reading(paths, [where], None) as source:
        where.check(source.available, source.path, "truth")
        statistics = {field.name: ColumnStatistics(field.type) for field in source.schema}
        for step in source:
            found = select(where, step.rows, source.path)
            all_rows, all_tokens = all_rows + step.rows.num_rows, all_tokens + len(found.tokens)
            chosen = chosen_part(step.rows, found)
            rows, tokens = rows + chosen.num_rows, tokens + int(found.tokens.sum())
            for name, column in statistics.items():
                column.add(chosen[name])
            if chosen.num_rows:
                steps.add(step.number)
        return {
            "path": source.path,
            "where": where.text,
            "of": {"rows": all_rows, "tokens": all_tokens},
            "table": load_schema(source.table).id if source.table else None,
            "rows": rows,
            "steps": span(steps) if "step" in statistics else None,
            "tokens": tokens if has_tokens(source.schema) else None,
            "context": source.context,
            "columns": [column_facts(field, source.table, statistics[field.name]) for field in source.schema],
            "provenance": source.chain,
        }


def chosen_part(rows: pa.Table, found: Selection) -> pa.Table:
    """The selected rows, and in columns that have a value for each token those of the selected tokens."""
    if found.rows.all() and found.tokens.all():
        return rows
    for index, field in enumerate(rows.schema):
        known = known_column(field.name)
        if not is_list(field.type) or (known is not None and known.per != "token"):
            continue
        column = one_chunk(rows[field.name])
        null_B = null_rows(column)
        if ((row_lengths(column) == found.lengths) | null_B).all():
            keep_N = found.tokens[np.repeat(~null_B, found.lengths)]
            rows = rows.set_column(index, field.name, filtered_lists(column, keep_N))
    return rows.filter(row_column(found.rows, pa.bool_()))
