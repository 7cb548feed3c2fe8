"""What an input is: its table, size, context, columns and statistics, as plain values."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from entropyctl.show.statistics import ColumnStatistics
from entropyctl.table.columns import filled, one_chunk, row_lengths
from entropyctl.table.parquet_source import ParquetSource
from entropyctl.table.paths import expand, open_input
from entropyctl.table.rows import groups
from entropyctl.table.schema import Column, column_of
from entropyctl.table.source import Input, open_argument
from entropyctl.table.stream_source import StreamSource
from entropyctl.table.types import is_list, type_name


def describe(path: str) -> dict[str, Any]:
    """Read an input once, group by group, and say what it is.

    Args:
        path: a file, a directory, a glob, or "-" for a stream on standard input.

    Returns:
        path, table, rows, steps, tokens, size, context, columns with type, unit, meaning and statistics, and the
        chain of provenance.

    Raises:
        InputError: the bytes are damaged, or do not match their digests.
        StreamEndedEarly: a stream stopped before its end record.
    """
    entry = open_argument(path)
    try:
        return _describe(entry)
    finally:
        entry.reader.close()


def history(path: str) -> dict[str, Any]:
    """The chain of provenance of an input; a stream is read to its end, where the chain is complete."""
    entry = open_argument(path)
    try:
        if isinstance(entry.reader, StreamSource):
            for _ in entry.reader.steps():
                pass
        return {"path": path, "provenance": entry.header.chain}
    finally:
        entry.reader.close()


def _describe(entry: Input) -> dict[str, Any]:
    statistics = {field.name: ColumnStatistics(field.type) for field in entry.schema}
    steps, rows, tokens, parts = set[int](), 0, 0, 0
    for part in groups(entry):
        rows, parts = rows + part.num_rows, parts + 1
        for name, column in statistics.items():
            column.add(part[name])
        if "step" in statistics and statistics["step"].is_number and not statistics["step"].is_list:
            steps.update(filled(one_chunk(part["step"])).tolist())
        if "tokens" in statistics and statistics["tokens"].is_list:
            tokens += int(row_lengths(part["tokens"]).sum())
    header, table = entry.header, entry.header.table
    return {
        "path": entry.path,
        "format": _format(entry),
        "table": _schema_id(entry),
        "rows": rows,
        "steps": span(steps),
        "tokens": tokens if "tokens" in statistics and statistics["tokens"].is_list else None,
        "files": 1 if isinstance(entry.reader, StreamSource) else len(entry.reader.files),
        "groups": parts,
        "bytes": _size(entry),
        "context": header.context,
        "columns": [column_facts(field, table, statistics[field.name]) for field in entry.schema],
        "provenance": header.chain,
    }


def _schema_id(entry: Input) -> str | None:
    headers = (
        [file.header for file in entry.reader.files] if isinstance(entry.reader, ParquetSource) else [entry.header]
    )
    return next((header.schema_id for header in headers if header), None)


def _format(entry: Input) -> str:
    if isinstance(entry.reader, StreamSource):
        return "Arrow stream"
    return "Parquet" if type(entry.reader.files[0]).__name__ == "ParquetFile" else "Arrow file"


def _size(entry: Input) -> int | None:
    if entry.path == "-":
        return None
    if isinstance(entry.reader, StreamSource):
        return os.path.getsize(expand(entry.path)[0])
    total = 0
    for file in entry.reader.files:
        with open_input(file.path) as raw:
            total += raw.size()
    return total


def span(steps: set[int]) -> dict[str, int] | None:
    """How many steps, the first and the last; None where there is none."""
    return {"count": len(steps), "first": min(steps), "last": max(steps)} if steps else None


def column_facts(field: pa.Field, table: str | None, statistics: ColumnStatistics) -> dict[str, Any]:
    """What there is to say of a column."""
    known: Column | None = column_of(table, field.name)
    per = "token" if is_list(field.type) and (known is None or known.per == "token") else "row"
    facts = {"unit": known.unit, "doc": known.doc, "made_by": known.made_by} if known else {}
    return {"name": field.name, "type": type_name(field.type), "per": per, **facts, **statistics.as_dict()}
