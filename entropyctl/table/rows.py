"""Rows as they lie in a file: a group at a time for those who only look, or a small table whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.table.digest import TableDigest
from entropyctl.table.header import Header, Record, merge_contexts
from entropyctl.table.parquet_source import damaged
from entropyctl.table.paths import expand, open_input
from entropyctl.table.provenance import merge_chains, unknown_record
from entropyctl.table.source import Input, open_argument
from entropyctl.table.stream_source import StreamSource

TEXT_TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}


def groups(entry: Input) -> Iterator[pa.Table]:
    """The rows of an input, a row group or a step at a time, with the columns and types that they have.

    Raises:
        InputError: the bytes are damaged, or a column does not match its digest.
        StreamEndedEarly: a stream stopped before its end record.
    """
    if isinstance(entry.reader, StreamSource):
        yield from (rows for _, rows in entry.reader.steps())
        return
    for file in entry.reader.files:
        digest = TableDigest()
        for index in range(file.groups):
            rows = file.row_groups([index], entry.schema.names)
            digest.update(rows)
            yield rows
        expected = file.end.get("columns")
        for name, value in digest.columns().items():
            if isinstance(expected, dict) and expected.get(name) != value:
                raise damaged(file.path, f"column '{name}' does not match its digest")


class Rows(NamedTuple):
    """A small table, whole."""

    path: str
    rows: pa.Table
    header: Header  # its table is None when another program wrote it

    def origin(self) -> dict[str, Any]:
        """What a record of provenance says of this input."""
        return {"path": self.path, "records": [r["id"] for r in self.header.chain[-1:]], "rows": self.rows.num_rows}


def read_rows(path: str, allow: tuple[str, ...] = (), allowed: list[Record] | None = None) -> Rows:
    """Read a small table of any kind whole: Parquet, Arrow, CSV, TSV or JSON lines, a directory or glob of them.

    Args:
        path: the input; text tables are told by the end of their name, all others by their first bytes.
        allow: fields of the context, or groups of them, on which its files may disagree.
        allowed: receives each difference that was allowed.

    Raises:
        InputError: it is missing or damaged, or its files have different columns.
        MismatchError: its files disagree on another field.
        UsageError: standard input is a terminal.
    """
    if path == "-" and sys.stdin.isatty():
        raise UsageError("no input; name a file, or pipe a table into it")
    files = ["-"] if path == "-" else expand(path)
    parts = [_read_text(file) if _ending(file) else _read_binary(file) for file in files]
    chain = merge_chains([part.header.chain for part in parts])
    tables = {part.header.table for part in parts}
    if len(tables) > 1:
        raise InputError(f"{path}: holds tables of different kinds; name those of one kind")
    context = merge_contexts([(part.path, part.header.context) for part in parts], allow, allowed=allowed)
    try:
        rows = pa.concat_tables([part.rows for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: its files have columns of different types ({reason}); make them alike") from None
    return Rows(path, rows, Header(tables.pop(), context, chain))


def _read_binary(path: str) -> Rows:
    entry = open_argument(path)
    try:
        rows = pa.concat_tables([pa.Table.from_batches([], entry.schema), *groups(entry)], promote_options="permissive")
    finally:
        entry.reader.close()
    return Rows(path, rows, entry.header)


def _ending(path: str) -> str | None:
    return next((ending for ending in TEXT_TABLES if path.lower().endswith(ending)), None)


def _read_text(path: str) -> Rows:
    from pyarrow import csv, json

    ending = _ending(path) or ""
    try:
        with open_input(path) as raw:
            if delimiter := TEXT_TABLES[ending]:
                # "nan" is a number that went wrong, not a cell that was left empty.
                empty = csv.ConvertOptions(null_values=["", "NA", "N/A", "NULL", "null"])
                rows = csv.read_csv(raw, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=empty)
            else:
                rows = json.read_json(raw)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: is no table of {ending[1:]} ({reason}); mend it") from None
    return Rows(path, rows, Header(None, {}, [unknown_record(path)]))
