"""Reading an Arrow IPC stream step by step, from a pipe or a file, and knowing when it was cut short."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from entropyctl.errors import InputError, StreamEndedEarly
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.header import END_KEY, PROVENANCE_KEY, STEP_KEY, Header, read_header, seal
from entropyctl.table.parquet_source import damaged
from entropyctl.table.paths import ARROW_FILE_MAGIC, PARQUET_MAGIC, STREAM_MAGIC


class _Prefixed(io.RawIOBase):
    """A byte stream with the few bytes put back that were read to recognise it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            data, self._head = self._head + self._rest.read(), b""
            return data
        taken, self._head = self._head[:size], self._head[size:]
        return taken if len(taken) == size else taken + self._rest.read(size - len(taken))


class StreamSource:
    """A stream of steps. `header` is complete, with durations and summaries, once `steps` is exhausted."""

    def __init__(self, raw: BinaryIO, path: str) -> None:
        self.path = path
        head = raw.read(6)
        if not head:
            raise StreamEndedEarly(f"{path}: holds nothing at all; the stage before this one failed")
        if head.startswith(PARQUET_MAGIC):
            raise InputError(f"{path}: is Parquet, which no pipe can carry; give the file's path as an argument")
        if head.startswith(ARROW_FILE_MAGIC):
            raise InputError(f"{path}: is an Arrow file, not a stream; give the file's path as an argument")
        if not head.startswith(STREAM_MAGIC):
            raise InputError(f"{path}: is no Arrow stream; pipe the output of an entropyctl stage into this one")
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(_Prefixed(head, raw), mode="r"))
        except (pa.ArrowException, OSError) as error:
            raise (self._ended_early(0) if _cut_short(error) else damaged(path, error)) from None
        header = read_header(self._reader.schema.metadata, path)
        if header is None:
            raise InputError(f"{path}: the stream lacks entropyctl's metadata; see `entropyctl schema --format`")
        self.header: Header = header
        self.schema: pa.Schema = self._reader.schema.remove_metadata()
        self.end: dict[str, Any] = {}

    def steps(self) -> Iterator[tuple[int, pa.Table]]:
        """Every step with its rows.

        Raises:
            StreamEndedEarly: the stream stopped before its end record.
            InputError: the bytes are damaged, or the end record does not match them.
        """
        digest, total, pending = TableDigest(), 0, list[pa.RecordBatch]()
        while True:
            batch, marks = self._next(total)
            if STEP_KEY in marks:
                rows = pa.Table.from_batches(pending, self.schema)
                pending = []
                mark = json.loads(marks[STEP_KEY])
                if rows.num_rows != mark["rows"]:
                    raise damaged(self.path, f"step {mark['step']} has {rows.num_rows} rows of {mark['rows']}")
                digest.update(rows)
                total += rows.num_rows
                yield mark["step"], rows
            elif END_KEY in marks:
                self._finish(marks, digest, total)
                return
            else:
                pending.append(batch.replace_schema_metadata(None))

    def _next(self, total: int) -> tuple[pa.RecordBatch, dict[bytes, bytes]]:
        try:
            batch, metadata = self._reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            raise self._ended_early(total) from None
        except (pa.ArrowException, OSError) as error:
            if _cut_short(error):
                raise self._ended_early(total) from None
            raise damaged(self.path, error) from None
        return batch, dict(metadata or {})

    def _ended_early(self, total: int) -> StreamEndedEarly:
        return StreamEndedEarly(
            f"{self.path}: the stream ended after {total} rows without its end record; "
            "the stage before this one died, see its message"
        )

    def _finish(self, marks: dict[bytes, bytes], digest: TableDigest, total: int) -> None:
        try:
            self.end = json.loads(marks[END_KEY])
            chain = json.loads(marks.get(PROVENANCE_KEY, b"null"))
        except ValueError as error:
            raise damaged(self.path, error) from None
        if chain is not None:
            self.header = Header(self.header.table, self.header.context, chain)
        if self.end.get("status") != "complete":
            raise self._ended_early(total)
        if self.end.get("rows") != total:
            raise damaged(self.path, f"{total} rows where the end record has {self.end.get('rows')}")
        # A program in another language may leave the digest and the seal out; ours never do.
        if total and "digest" in self.end and self.end["digest"] != table_digest(digest.columns()):
            raise damaged(self.path, "the rows do not match their digest")
        if "seal" in self.end and self.end["seal"] != seal(self.header, self.schema, total):
            raise damaged(self.path, "the header does not match its seal")

    def close(self) -> None:
        """Nothing to close: the pipe belongs to the process."""


def _cut_short(error: Exception) -> bool:
    """Whether Arrow met the end of the bytes inside a message, as when the producer is killed while writing."""
    return str(error).startswith("Expected to")
