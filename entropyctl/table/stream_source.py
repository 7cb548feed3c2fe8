"""Reading an Arrow IPC stream step by step, from a pipe or a file, and knowing when it was cut short."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa

from entropyctl.errors import InputError, StreamEndedEarly
from entropyctl.table.columns import row_values
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.header import (
    CONTEXT_KEY,
    END_KEY,
    PROVENANCE_KEY,
    STEP_KEY,
    Header,
    changed_fact,
    read_chain,
    read_header,
    read_json,
    seal,
    step_digest,
    with_facts,
)
from entropyctl.table.parquet_source import damaged
from entropyctl.table.paths import ARROW_FILE_MAGIC, PARQUET_MAGIC, STREAM_MAGIC
from entropyctl.table.pipe_watch import PipeWatch, watch_standard_input
from entropyctl.table.types import describe

CHUNK = 1 << 24


class _Prefixed(io.RawIOBase):
    """A byte stream with the few bytes put back that were read to recognise it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            data, self._head = self._head + self._rest.read(), b""
            return data
        parts, self._head = [self._head[:size]], self._head[size:]
        left = size - len(parts[0])
        while left > 0:
            # In chunks, because a damaged length must not make us ask for more memory than there are bytes.
            part = self._rest.read(min(left, CHUNK))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class StreamSource:
    """A stream of steps. `header` is complete, with durations and summaries, once `steps` is exhausted.

    When a step is handed out, the header's context has the facts that came with its end.
    """

    def __init__(self, raw: BinaryIO, path: str, *, owned: bool = False) -> None:
        self.path = path
        self._raw = raw
        self._owned = owned
        self._reading = True  # whether bytes are being waited for, or no more are needed
        self._watch: PipeWatch | None = None
        try:
            self._open(raw, path)
        except BaseException:
            self.close()
            raise

    def _open(self, raw: BinaryIO, path: str) -> None:
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
            schema: pa.Schema = self._reader.schema
            self.schema = schema.remove_metadata()
            describe(self.schema)  # a name that is no UTF-8 is found here
            header = read_header(schema.metadata, path)
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            raise (self._ended_early(0) if _cut_short(error) else damaged(path, error)) from None
        if header is None:
            raise InputError(f"{path}: the stream lacks entropyctl's metadata; see `entropyctl schema --format`")
        self.header: Header = header
        self.end: dict[str, Any] = {}

    def steps(self) -> Iterator[tuple[int, pa.Table]]:
        """Every step with its rows, each proved before it is handed out.

        Raises:
            StreamEndedEarly: the stream stopped before its end record.
            InputError: the bytes are damaged, or a mark does not match them.
        """
        digest, total, pending = TableDigest(), 0, list[pa.RecordBatch]()
        while True:
            batch, marks = self._next(total)
            if CONTEXT_KEY in marks:
                self._learn(marks[CONTEXT_KEY])
            if STEP_KEY in marks:
                rows = pa.Table.from_batches(pending, self.schema)
                pending = []
                digest.update(rows)
                total += rows.num_rows
                number = self._prove(marks[STEP_KEY], rows, digest, total)
                self._reading = False
                yield number, rows
                self._reading = True
            elif END_KEY in marks:
                if pending:
                    raise damaged(self.path, "rows after the end of the last step")
                self._finish(marks, digest, total)
                return
            else:
                pending.append(batch.replace_schema_metadata(None))

    def _learn(self, text: bytes) -> None:
        """Add the facts that a mark brings, which the writer did not know when it began."""
        facts = read_json(text, dict, self.path)
        if name := changed_fact(self.header.context, facts):
            raise damaged(self.path, f"a mark changes {name}, which was said before")
        self.header = replace(self.header, context=with_facts(self.header.context, facts))

    def _prove(self, text: bytes, rows: pa.Table, digest: TableDigest, total: int) -> int:
        mark = read_json(text, dict, self.path)
        number = mark.get("step")
        if not isinstance(number, int):
            raise damaged(self.path, "the end of a step without its number")
        if rows.num_rows != mark.get("rows"):
            raise damaged(self.path, f"step {number} has {rows.num_rows} rows of {mark.get('rows')}")
        # A program in another language may leave digests and the seal out; ours never do.
        if "digest" in mark:
            if mark["digest"] != step_digest(number, digest.columns(), seal(self.header, self.schema, total)):
                raise damaged(self.path, f"the rows of step {number} do not match their digest")
        elif rows.num_rows and "step" in rows.column_names and not (row_values(rows["step"]) == number).all():
            raise damaged(self.path, f"rows of other steps where step {number} should be")
        return number

    def _next(self, total: int) -> tuple[pa.RecordBatch, dict[bytes, bytes]]:
        try:
            batch, metadata = self._reader.read_next_batch_with_custom_metadata()
            batch.validate(full=True)
        except StopIteration:
            raise self._ended_early(total) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
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
        self.end = read_json(marks[END_KEY], dict, self.path)
        if PROVENANCE_KEY in marks:
            self.header = replace(self.header, chain=read_chain(marks[PROVENANCE_KEY], self.path))
        if self.end.get("status") != "complete":
            raise self._ended_early(total)
        if self.end.get("rows") != total:
            raise damaged(self.path, f"{total} rows where the end record has {self.end.get('rows')}")
        if "digest" in self.end and self.end["digest"] != table_digest(digest.columns()):
            raise damaged(self.path, "the rows do not match their digest")
        if "seal" in self.end and self.end["seal"] != seal(self.header, self.schema, total):
            raise damaged(self.path, "the header does not match its seal")
        self._drain()

    def _drain(self) -> None:
        """Read on to the end of the bytes: the writer still has its closing mark to write, and no second table."""
        try:
            self._reader.read_next_batch()
        except (StopIteration, pa.ArrowException, OSError, UnicodeDecodeError, MemoryError):
            if not self._raw.read(1):
                return
        raise InputError(
            f"{self.path}: goes on after its end record; a stream holds one table, so pipe in one output of one stage"
        )

    def watch(self) -> None:
        """From now on a writer that dies ends what is done with its steps, by WriterGone, until `close`."""
        self._watch = watch_standard_input(self._raw, lambda: self._reading)

    def close(self) -> None:
        """Close a file that was opened for this; a pipe belongs to the process."""
        if self._watch is not None:
            self._watch.stop()
        if self._owned:
            self._raw.close()


def _cut_short(error: Exception) -> bool:
    """Whether Arrow met the end of the bytes inside a message, as when the producer is killed while writing."""
    return str(error).startswith("Expected to")
