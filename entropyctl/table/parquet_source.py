"""Reading Parquet step by step: one file or many, ours or another program's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.errors import InputError
from entropyctl.table.columns import Array, row_column, row_values
from entropyctl.table.digest import TableDigest
from entropyctl.table.footer import footer_is_whole
from entropyctl.table.header import END_KEY, Header, read_header, read_json, seal
from entropyctl.table.paths import PARQUET_MAGIC, is_remote, open_input
from entropyctl.table.types import describe

# A directory may hold more files than a process may keep open; beyond this many, files are opened for each read.
MOST_OPEN_FILES = 200


class GroupedFile(Protocol):
    """A file whose rows lie in groups, each of which can be read alone."""

    path: str
    header: Header | None
    end: dict[str, Any]

    @property
    def schema(self) -> pa.Schema: ...
    @property
    def groups(self) -> int: ...
    def row_groups(self, indices: Sequence[int], columns: list[str]) -> pa.Table: ...
    def one_step(self, index: int) -> int | None: ...
    def close(self) -> None: ...


class ParquetFile:
    """One Parquet file whose footer has been read and proved.

    `header` is None when another program wrote it.
    """

    def __init__(self, path: str, file: pq.ParquetFile, header: Header | None, end: dict[str, Any]) -> None:
        self.path, self.header, self.end = path, header, end
        self._metadata = file.metadata
        self._schema: pa.Schema = file.schema_arrow.remove_metadata()
        describe(self._schema)  # a name that is no UTF-8 is found here
        self._file: pq.ParquetFile | None = file

    @property
    def schema(self) -> pa.Schema:
        """Columns and types, without metadata."""
        return self._schema

    @property
    def groups(self) -> int:
        """How many row groups there are."""
        return int(self._metadata.num_row_groups)

    def row_groups(self, indices: Sequence[int], columns: list[str]) -> pa.Table:
        """The rows of some row groups, each column in one piece.

        Raises:
            InputError: the bytes are damaged.
        """
        try:
            if self._file is not None:
                return _read(self._file, indices, columns)
            with _parquet_file(self.path, open_input(self.path), self._metadata) as file:
                return _read(file, indices, columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            raise damaged(self.path, error) from None

    def one_step(self, index: int) -> int | None:
        """The step of a row group's rows, where its statistics say that it is one."""
        group = self._metadata.row_group(index)
        for i in range(group.num_columns):
            chunk = group.column(i)
            if chunk.path_in_schema == "step":
                found = chunk.statistics
                if found is not None and found.has_min_max and found.null_count == 0 and found.min == found.max:
                    return int(found.min)
        return None

    def close(self) -> None:
        """Let go of the file; it is opened again for each read that follows."""
        if self._file is not None:
            self._file.close(force=True)
            self._file = None


def _read(file: pq.ParquetFile, indices: Sequence[int], columns: list[str]) -> pa.Table:
    rows = file.read_row_groups(list(indices), columns=columns, use_threads=False).replace_schema_metadata(None)
    rows.validate(full=True)
    return rows


def _parquet_file(path: str, raw: Any, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    # Reading ahead hides the latency of a store; of a local file it costs a copy of every row group.
    return pq.ParquetFile(raw, metadata=metadata, pre_buffer=is_remote(path), page_checksum_verification=True)


def damaged(path: str, error: object) -> InputError:
    """The one message for a file whose bytes are not what was written."""
    reason = str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__
    return InputError(f"{path}: is damaged ({reason}); make it again or restore a copy")


def _changed(path: str, what: str) -> InputError:
    """The message for a table that is not the one that its end record tells of."""
    return InputError(
        f"{path}: is damaged, or another program changed it ({what}); restore a copy, or drop its entropyctl.* metadata"
    )


def open_parquet(path: str, *, keep_open: bool = True) -> ParquetFile:
    """Open a Parquet file and prove its footer.

    Raises:
        InputError: not Parquet, truncated, damaged, newer than this program, or without its end record.
    """
    raw = open_input(path)
    head = raw.read(4)
    if head != PARQUET_MAGIC:
        what = "is empty" if not head else "is not a Parquet file"
        raise InputError(f"{path}: {what}; name tables that entropyctl or another Parquet writer made")
    try:
        if not footer_is_whole(raw):
            raise damaged(path, "the footer does not match its digest")
        raw.seek(0)
        file = _parquet_file(path, raw)
        metadata = file.metadata.metadata or {}
        rows = file.metadata.num_rows
        header = read_header(metadata, path)
        end = read_json(metadata[END_KEY], dict, path) if END_KEY in metadata else {}
        opened = ParquetFile(path, file, header, end)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise damaged(path, error) from None
    if header is not None:
        if END_KEY not in metadata:
            raise InputError(
                f"{path}: has no end record, so its writer did not finish, or another program rewrote it; "
                "make it again, or drop its entropyctl.* metadata"
            )
        if end.get("rows") != rows:
            raise _changed(path, f"{rows} rows where the end record has {end.get('rows')}")
        if end.get("seal") != seal(header, opened.schema, rows):
            raise _changed(path, "the footer does not match its seal")
    if not keep_open:
        opened.close()
    return opened


@dataclass
class Piece:
    """Row groups of a file that hold rows of a step: all that hold nothing else (`whole`), or one with others' too."""

    file: int
    groups: list[int]
    whole: bool


class ParquetSource:
    """Several files as one table, read step by step.

    The steps of one file come in the file's order; those of several files in ascending order, so that shards
    which each hold steps 1 to n become one table.
    """

    def __init__(self, files: Sequence[GroupedFile], columns: list[str]) -> None:
        self.files = files
        self.columns = columns
        self._plan = _plan(files)
        self._digests = [TableDigest() for _ in files]
        # Digests can be compared only when each file's row groups are read once and in order.
        self._read: list[list[int]] = [[] for _ in files]
        # Of a file that mixes steps within a row group, the group that was read last.
        self._mixed: dict[int, tuple[int, pa.Table]] = {}

    @property
    def step_numbers(self) -> list[int]:
        """Steps in the order in which they are read."""
        return list(self._plan)

    def step(self, number: int) -> pa.Table | None:
        """The rows of a step, or None when there are none.

        Raises:
            InputError: the bytes are damaged, or files disagree on a column's type.
        """
        if number not in self._plan:
            return None
        tables = [self._piece(piece, number) for piece in self._plan[number]]
        if len(tables) == 1 and all(column.num_chunks <= 1 for column in tables[0].columns):
            return tables[0]
        try:
            # As one piece, once: every look at a column would put its pieces together again.
            return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        except pa.ArrowException as error:
            paths = " and ".join(dict.fromkeys(self.files[p.file].path for p in self._plan[number]))
            reason = str(error).partition("\n")[0]
            raise InputError(f"{paths}: have columns of different types ({reason}); make them alike") from None

    def _piece(self, piece: Piece, number: int) -> pa.Table:
        if piece.whole:
            rows = self._groups(piece, self.columns)
            if "step" in rows.column_names and not (row_values(_int64(rows["step"])) == number).all():
                raise damaged(self.files[piece.file].path, f"rows of other steps where step {number} should be")
            return rows
        held = self._mixed.get(piece.file)
        if held is None or held[0] != piece.groups[0]:
            held = (piece.groups[0], self._groups(piece, list(dict.fromkeys([*self.columns, "step"]))))
            self._mixed[piece.file] = held
        rows = held[1]
        here = row_column(row_values(_int64(rows["step"])) == number, pa.bool_())
        return rows.filter(here).select(self.columns)

    def _groups(self, piece: Piece, columns: list[str]) -> pa.Table:
        rows = self.files[piece.file].row_groups(piece.groups, columns)
        if piece.groups != self._read[piece.file][-len(piece.groups) :]:
            self._digests[piece.file].update(rows.select(self.columns))
            self._read[piece.file] += piece.groups
        return rows

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
            if not isinstance(expected, dict) or not groups:
                continue
            if groups != list(range(file.groups)):
                digest = self._digest_in_order(file)
            for name, value in digest.columns().items():
                if expected.get(name) != value:
                    raise _changed(file.path, f"column '{name}' does not match its digest")

    def _digest_in_order(self, file: GroupedFile) -> TableDigest:
        """Steps that do not ascend, or that were skipped: the file is read once more, in its own order."""
        digest = TableDigest()
        for group in range(file.groups):
            digest.update(file.row_groups([group], self.columns))
        return digest

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def _int64(steps: pa.ChunkedArray) -> pa.ChunkedArray:
    return steps if steps.type == pa.int64() else steps.cast(pa.int64())


def _plan(files: Sequence[GroupedFile]) -> dict[int, list[Piece]]:
    """Which row groups hold which step, from the footers' statistics where they say it exactly."""
    plan: dict[int, list[Piece]] = {}
    for index, file in enumerate(files):
        for group in range(file.groups):
            steps = _steps_of_group(file, group)
            for number in steps:
                pieces = plan.setdefault(number, [])
                if len(steps) == 1 and pieces and pieces[-1].whole and pieces[-1].file == index:
                    pieces[-1].groups.append(group)  # read at once, they need not be put together
                else:
                    pieces.append(Piece(index, [group], whole=len(steps) == 1))
    return plan if len(files) == 1 else dict(sorted(plan.items()))


def _steps_of_group(file: GroupedFile, group: int) -> list[int]:
    if "step" not in file.schema.names:
        return [0]  # a table without steps is one step
    known = file.one_step(group)
    if known is not None:
        return [known]
    steps = file.row_groups([group], ["step"])["step"]
    if steps.null_count:
        raise InputError(f"{file.path}: column 'step' has nulls; give every row its step")
    try:
        number_B: Array = row_values(_int64(steps))
    except pa.ArrowException:
        raise InputError(f"{file.path}: column 'step' is {steps.type}; it must be int64") from None
    return _in_order(number_B)


def _in_order(number_B: Array) -> list[int]:
    """The distinct numbers in order of first appearance."""
    numbers, first = np.unique(number_B, return_index=True)
    return [int(n) for n in numbers[np.argsort(first)]]
