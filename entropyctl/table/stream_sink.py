"""Writing an Arrow IPC stream: every step ends with a mark, and the stream ends with one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

import pyarrow as pa

from entropyctl.table.atomic import cannot_write
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.header import (
    CONTEXT_KEY,
    END_KEY,
    PROVENANCE_KEY,
    STEP_KEY,
    Context,
    Header,
    end_record,
    seal,
    step_digest,
    with_facts,
)

ROWS_PER_BATCH = 1024


class StreamSink:
    """A stream of steps into a pipe. The header goes out at once, so that the next stage can begin."""

    def __init__(self, raw: BinaryIO, schema: pa.Schema, header: Header) -> None:
        self._raw = raw
        self._schema = schema
        self._header = header
        self._digest = TableDigest()
        self._rows = 0
        self._learnt: dict[bytes, bytes] = {}  # facts that the next mark brings
        self._empty = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
        with _writing():
            marked = schema.with_metadata(header.to_metadata())
            self._writer = pa.ipc.new_stream(pa.PythonFile(raw, mode="w"), marked)
            self._raw.flush()

    def learn(self, facts: Context) -> None:
        """Add facts to the context; the reader gets them with the next mark."""
        self._header = replace(self._header, context=with_facts(self._header.context, facts))
        self._learnt = {CONTEXT_KEY: json.dumps(facts).encode()}

    def put(self, number: int, rows: pa.Table) -> None:
        """Write the rows of a step, and its end.

        Raises:
            OutputError: the file behind the stream cannot be written.
            BrokenPipeError: the reader has gone.
        """
        self._digest.update(rows)
        self._rows += rows.num_rows
        proof = step_digest(number, self._digest.columns(), seal(self._header, self._schema, self._rows))
        with _writing():
            for batch in rows.to_batches(max_chunksize=ROWS_PER_BATCH):
                self._writer.write_batch(batch)
            self._mark({STEP_KEY: json.dumps({"step": number, "rows": rows.num_rows, "digest": proof}).encode()})
            self._raw.flush()

    def settle(self, header: Header) -> None:
        """Write the end record, with the chain of provenance as it stands at the end."""
        columns = self._digest.columns()
        end = end_record(header, self._schema, self._rows, table_digest(columns), columns)
        with _writing():
            self._mark({END_KEY: end, PROVENANCE_KEY: header.to_metadata()[PROVENANCE_KEY]})
            self._writer.close()
            self._raw.flush()

    def publish(self) -> None:
        """Nothing to do: the reader has it already."""

    def abort(self) -> None:
        """Say nothing more: a stream without its end record tells the next stage that this one failed."""

    def _mark(self, metadata: dict[bytes, bytes]) -> None:
        self._writer.write_batch(self._empty, custom_metadata=metadata | self._learnt)
        self._learnt = {}


@contextmanager
def _writing() -> Iterator[None]:
    """A pipe whose reader has gone is no fault; a full disk behind `> FILE` is one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write("standard output", error) from None
