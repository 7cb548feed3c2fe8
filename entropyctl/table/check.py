"""Proving tables whole: quickly by what their ends say, or fully by reading every value."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa

from entropyctl.errors import EntropyctlError, InputError, UsageError
from entropyctl.table.arrow_file import ArrowFile
from entropyctl.table.conform import check_keys, check_lengths, check_nulls_in_lists, check_values, conform
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.parquet_source import GroupedFile, ParquetSource, damaged, open_parquet
from entropyctl.table.paths import ARROW_FILE_MAGIC, STREAM_MAGIC, expand, is_remote, open_input
from entropyctl.table.schema import KEY, load_schema
from entropyctl.table.source import common_schema
from entropyctl.table.stream_source import StreamSource


def check(path: str, *, full: bool = False, stdin: BinaryIO | None = None) -> list[EntropyctlError]:
    """What is wrong with an input; an empty list when it is good.

    The quick check reads what proves a file without its pages: Parquet's footer and its digest, the end record,
    the seal, the number of rows, names and types of columns. The full check reads everything: page checksums,
    digests of all columns, lengths of per-token lists, NaN, unique keys, and that rows of a step and of a prompt
    stand together. A stream has its proofs along the way and is always read to its end.

    Args:
        path: a file, a directory or glob (one table of several files; of a directory also which shards of a rollout
            it lacks), or "-" for a stream on standard input.
        full: read everything.
        stdin: the stream that "-" means; the process's standard input by default.
    """
    try:
        if path == "-":
            return _check_standard_input(stdin, full)
        files = expand(path)
    except EntropyctlError as error:
        return [error]
    faults = [fault for file in files if (fault := _fault(file, full)) is not None]
    if len(files) > 1 and not faults and (fault := _fault_between(path, files, full)) is not None:
        faults.append(fault)
    if os.path.isdir(path) and not faults:
        faults += _missing_shards(path, files)
    return faults


def _missing_shards(path: str, files: list[str]) -> list[EntropyctlError]:
    """The parts of a rollout that its directory has not, by what the records of the others say."""
    present: dict[int, set[int]] = {}
    for file in files:
        opened = open_parquet(file, keep_open=False)
        for record in opened.header.chain if opened.header else []:
            shard = record.get("params", {}).get("shard") if record.get("stage") == "rollout" else None
            if isinstance(shard, str) and (found := re.fullmatch(r"(\d+)/(\d+)", shard)):
                present.setdefault(int(found[2]), set()).add(int(found[1]))
    return [
        InputError(f"{path}: shard {i}/{of} is missing; make it by `entropyctl rollout --shard {i}/{of}`")
        for of, indices in sorted(present.items())
        for i in sorted(set(range(of)) - indices)
    ]


def _check_standard_input(stdin: BinaryIO | None, full: bool) -> list[EntropyctlError]:
    if stdin is None and sys.stdin.isatty():
        raise UsageError("no input; name a file, or pipe a stream into it")
    _check_stream(StreamSource(stdin or sys.stdin.buffer, "standard input"), full)
    return []


def _fault(path: str, full: bool) -> EntropyctlError | None:
    try:
        _check_file(path, full)
    except EntropyctlError as error:
        return error
    return None


def _fault_between(path: str, files: list[str], full: bool) -> EntropyctlError | None:
    """What is wrong with files that are good one by one, as the tables that they make together."""
    opened: list[GroupedFile] = []
    try:
        for file in files:
            with open_input(file) as raw:
                if raw.read(4) == STREAM_MAGIC:
                    raise InputError(f"{file}: is a stream among files of a table; give streams one by one")
            opened.append(open_parquet(file, keep_open=False))
        # The files of a step lie side by side in a run: rollouts, scored, masked are tables of their own.
        for table in {file.header.table if file.header else None for file in opened}:
            parts = [file for file in opened if (file.header.table if file.header else None) == table]
            schema = common_schema(parts)
            if full and set(KEY) <= set(schema.names):
                for _, rows in ParquetSource(parts, list(KEY)).steps():
                    check_keys(rows, path)
    except EntropyctlError as error:
        return error
    return None


def _check_file(path: str, full: bool) -> None:
    with open_input(path) as raw:
        head = raw.read(6)
    if head.startswith(STREAM_MAGIC) and not is_remote(path):
        with open(path, "rb") as stream:
            _check_stream(StreamSource(stream, path), full)
        return
    file = ArrowFile(path) if head.startswith(ARROW_FILE_MAGIC) else open_parquet(path)
    try:
        table = file.header.table if file.header else None
        common_schema([file])
        schema = _check_columns(file.schema, table, path)
        if full:
            _check_groups(file, schema, table)
    finally:
        file.close()


def _check_stream(source: StreamSource, full: bool) -> None:
    schema = _check_columns(source.schema, source.header.table, source.path)
    rows = (rows for _, rows in source.steps())
    if full:
        _check_rows(rows, schema, source.header.table, source.path)
    else:
        for _ in rows:
            pass


def _check_columns(schema: pa.Schema, table: str | None, path: str) -> pa.Schema:
    """The types that the contract wants, where the columns have them or can be turned into them."""
    for column in load_schema(table).columns if table else ():
        if column.key and column.name not in schema.names:
            raise InputError(f"{path}: key column '{column.name}' is missing; every row of {table} needs its key")
    return pa.schema([conform(field, path, table) for field in schema])


def _check_groups(file: GroupedFile, schema: pa.Schema, table: str | None) -> None:
    digest = TableDigest()

    def rows() -> Iterable[pa.Table]:
        for index in range(file.groups):
            group = file.row_groups([index], schema.names)
            digest.update(group)
            yield group

    _check_rows(rows(), schema, table, file.path)
    found, said = digest.columns(), file.end.get("columns")
    if said is None or not file.groups:
        return
    for name, value in found.items():
        if not isinstance(said, dict) or said.get(name) != value:
            raise damaged(file.path, f"column '{name}' does not match its digest")
    if file.end.get("digest") != table_digest(found):
        raise damaged(file.path, "the rows do not match their digest")


def _check_rows(groups: Iterable[pa.Table], schema: pa.Schema, table: str | None, path: str) -> None:
    order = _Order(path)
    for rows in groups:
        check_nulls_in_lists(rows, path, table)
        try:
            rows = rows.cast(schema)
        except (pa.ArrowException, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: a value does not fit the type of its column ({reason})") from None
        check_keys(rows, path)
        check_lengths(rows, path)
        check_values(rows, (), path, table)
        if set(KEY) <= set(schema.names):
            order.add(rows)


class _Order:
    """Rows of a step stand together, rows of a prompt within it, and no key is there twice."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._step: int | None = None
        self._prompt: str | None = None
        self._past_steps: set[int | None] = set()
        self._past_prompts: set[str | None] = set()
        self._samples: set[int] = set()

    def add(self, rows: pa.Table) -> None:
        """Go on with the next rows."""
        for step, prompt, sample in zip(*(rows[name].to_pylist() for name in KEY), strict=True):
            if step != self._step:
                self._past_steps.add(self._step)
                self._step, self._prompt, self._past_prompts = step, None, set()
                if step in self._past_steps:
                    raise self._apart(f"step {step}", "of a step")
            if prompt != self._prompt:
                self._past_prompts.add(self._prompt)
                self._prompt, self._samples = prompt, set()
                if prompt in self._past_prompts:
                    raise self._apart(f"prompt {prompt} of step {step}", "of a prompt within its step")
            if sample in self._samples:
                name = f"step {step}, prompt {prompt}, sample {sample}"
                raise InputError(f"{self._path}: row {name} is there twice; every row needs a key of its own")
            self._samples.add(sample)

    def _apart(self, what: str, rule: str) -> InputError:
        return InputError(f"{self._path}: rows of {what} stand apart; rows {rule} must stand together, so sort them")
