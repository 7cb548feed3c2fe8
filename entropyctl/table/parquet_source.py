"""Reading Parquet step by step: one file or many, ours or another program's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.errors import InputError
from entropyctl.table.columns import row_column, row_values
from entropyctl.table.digest import TableDigest
from entropyctl.table.header import END_KEY, SCHEMA_KEY, Header, read_header, seal
from entropyctl.table.paths import PARQUET_MAGIC, open_input


@dataclass(frozen=True)
class ParquetFile:
    """One Parquet file whose footer has been read and proved."""

    path: str
    file: pq.ParquetFile
    header: Header | None  # None: another program wrote it
    end: dict[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """Columns and types, without metadata."""
        return self.file.schema_arrow.remove_metadata()

    def row_group(self, index: int, columns: list[str]) -> pa.Table:
        """One row group.

        Raises:
            InputError: the bytes are damaged.
        """
        try:
            return self.file.read_row_group(index, columns=columns, use_threads=False).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise damaged(self.path, error) from None


def damaged(path: str, error: object) -> InputError:
    """The one message for a file whose bytes are not what was written."""
    reason = str(error).partition("\n")[0].strip().rstrip(".")
    return InputError(f"{path}: is damaged ({reason}); make it again or restore a copy")


def open_parquet(path: str) -> ParquetFile:
    """Open a Parquet file and prove its footer.

    Raises:
        InputError: not Parquet, truncated, damaged, newer than this program, or without its end record.
    """
    raw = open_input(path)
    head = raw.read(4)
    if head != PARQUET_MAGIC:
        what = "is empty" if not head else "is not a Parquet file"
        raise InputError(f"{path}: {what}; name tables that entropyctl or another Parquet writer made")
    raw.seek(0)
    try:
        file = pq.ParquetFile(raw, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
    metadata = file.metadata.metadata or {}
    header = read_header(metadata, path)
    if header is None:
        return ParquetFile(path, file, None, {})
    if END_KEY not in metadata:
        raise InputError(f"{path}: has no end record, so its writer did not finish; make it again")
    opened = ParquetFile(path, file, header, _end_record(metadata, path))
    if opened.end.get("rows") != file.metadata.num_rows:
        raise damaged(path, f"{file.metadata.num_rows} rows where the end record has {opened.end.get('rows')}")
    if opened.end.get("seal") != seal(header, opened.schema, file.metadata.num_rows):
        raise damaged(path, "the footer does not match its seal")
    return opened


def _end_record(metadata: dict[bytes, bytes], path: str) -> dict[str, Any]:
    try:
        end = json.loads(metadata[END_KEY])
    except ValueError as error:
        raise damaged(path, error) from None
    if not isinstance(end, dict):
        raise damaged(path, "the end record is no object")
    return end


def is_foreign(file: pq.ParquetFile) -> bool:
    """Whether another program wrote the file."""
    return SCHEMA_KEY not in (file.metadata.metadata or {})


@dataclass(frozen=True)
class Piece:
    """A row group that holds rows of a step, alone (`whole`) or among others."""

    file: int
    group: int
    whole: bool


class ParquetSource:
    """Several Parquet files as one table, read step by step in ascending order of `step`."""

    def __init__(self, files: list[ParquetFile], columns: list[str]) -> None:
        self.files = files
        self.columns = columns
        self._plan = _plan(files)
        self._digests = [TableDigest() for _ in files]
        # Digests can be compared only when each file's row groups are read once and in order.
        self._read: list[list[int]] = [[] for _ in files]

    @property
    def step_numbers(self) -> list[int]:
        """Steps in the order in which they are read."""
        return list(self._plan)

    def step(self, number: int) -> pa.Table | None:
        """The rows of a step, or None when there are none."""
        pieces = self._plan.get(number)
        if pieces is None:
            return None
        wanted = self.columns if all(p.whole for p in pieces) else list(dict.fromkeys([*self.columns, "step"]))
        tables = []
        for piece in pieces:
            rows = self.files[piece.file].row_group(piece.group, wanted if not piece.whole else self.columns)
            if piece.group not in self._read[piece.file]:
                self._digests[piece.file].update(rows.select(self.columns))
                self._read[piece.file].append(piece.group)
            if not piece.whole:
                rows = rows.filter(row_column(row_values(rows["step"]) == number, pa.bool_())).select(self.columns)
            tables.append(rows)
        return pa.concat_tables(tables, promote_options="permissive")

    def steps(self) -> Iterator[tuple[int, pa.Table]]:
        """Every step with its rows; the files' digests are compared after the last one."""
        for number in self._plan:
            rows = self.step(number)
            if rows is not None:
                yield number, rows
        self.verify()

    def verify(self) -> None:
        """Compare the digests of the columns that were read with the end records.

        Raises:
            InputError: a value was read that is not the one that was written.
        """
        for file, digest, groups in zip(self.files, self._digests, self._read, strict=True):
            expected = file.end.get("columns")
            if expected is None or groups != list(range(file.file.num_row_groups)):
                continue
            for name, value in digest.columns().items():
                if expected.get(name) != value:
                    raise damaged(file.path, f"column '{name}' does not match its digest")

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.file.close()


def _plan(files: list[ParquetFile]) -> dict[int, list[Piece]]:
    """Which row groups hold which step, from the footers' statistics where they say it exactly."""
    plan: dict[int, list[Piece]] = {}
    for index, file in enumerate(files):
        column = file.schema.get_field_index("step")
        for group in range(file.file.num_row_groups):
            steps = _steps_of_group(file, group, column)
            for number in steps:
                plan.setdefault(number, []).append(Piece(index, group, whole=len(steps) == 1))
    return dict(sorted(plan.items()))


def _steps_of_group(file: ParquetFile, group: int, column: int) -> list[int]:
    if column < 0:
        return [0]  # a table without steps is one step
    statistics = _step_statistics(file.file, group)
    if statistics is not None and statistics[0] == statistics[1]:
        return [int(statistics[0])]
    steps = file.row_group(group, ["step"])["step"]
    if steps.null_count:
        raise InputError(f"{file.path}: column 'step' has nulls; give every row its step")
    return [int(number) for number in np.unique(row_values(steps.cast(pa.int64())))]


def _step_statistics(file: pq.ParquetFile, group: int) -> tuple[int, int] | None:
    metadata = file.metadata.row_group(group)
    for i in range(metadata.num_columns):
        chunk = metadata.column(i)
        if chunk.path_in_schema == "step":
            statistics = chunk.statistics
            if statistics is not None and statistics.has_min_max and statistics.null_count == 0:
                return statistics.min, statistics.max
    return None
