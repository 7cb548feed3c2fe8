"""Prompts from files: Parquet, Arrow, a stream, JSON lines, or a JSON array; told apart by their first bytes."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table.arrow_file import ArrowFile
from entropyctl.table.parquet_source import GroupedFile, open_parquet
from entropyctl.table.paths import ARROW_FILE_MAGIC, PARQUET_MAGIC, STREAM_MAGIC, expand, open_input
from entropyctl.table.rows import read_rows

Row = dict[str, Any]


def rows(source: str) -> list[Row]:
    """Every row of a file, of all files of a directory or glob, or of a stream on standard input ("-").

    Raises:
        InputError: no such file, or its bytes make no table.
        StreamEndedEarly: a stream has no end.
    """
    if source == "-":
        return _stream_rows(source)
    return [row for path in expand(source) for row in _rows_of_file(path)]


def _rows_of_file(path: str) -> list[Row]:
    with open_input(path) as raw:
        head = raw.read(6)
    if head.startswith(PARQUET_MAGIC):
        return _grouped_rows(open_parquet(path))
    if head.startswith(ARROW_FILE_MAGIC):
        return _grouped_rows(ArrowFile(path))
    if head.startswith(STREAM_MAGIC):
        return _stream_rows(path)
    return _json_rows(path)


def _stream_rows(path: str) -> list[Row]:
    found: list[Row] = read_rows(path).rows.to_pylist()
    return found


def _grouped_rows(file: GroupedFile) -> list[Row]:
    names = file.schema.names
    try:
        return [row for i in range(file.groups) for row in file.row_groups([i], names).to_pylist()]
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{file.path}: has values that cannot be read ({error}); make it again") from None
    finally:
        file.close()


def _json_rows(path: str) -> list[Row]:
    with open_input(path) as raw:
        data = bytes(raw.read())
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is neither Parquet nor UTF-8 text (byte {error.start}); name a prompt file"
        ) from None
    if text.lstrip().startswith("["):
        found = _parse(text, path, "the array")
        where = "entry"
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        found = [_parse(line, path, f"line {number}") for number, line in lines]
        where = "row"
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: {where} {number} is no JSON object; write one object for each problem")
    return found


def _parse(text: str, path: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or a number too long"
        raise InputError(f"{path}: {where} is not JSON ({reason}); mend it") from None
