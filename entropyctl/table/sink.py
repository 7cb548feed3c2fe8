"""Writing tables: a file, a stream, or both; on success alone.

with read(inputs) as source, write("masked.parquet", "masked", record, source) as sink:
    for step in source:
        sink.put(step.number, mask(step.rows))
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa

from entropyctl.ending import ReaderGone, pipes_unwatched
from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.table.activity import Activity
from entropyctl.table.atomic import AtomicFile
from entropyctl.table.columns import buffer_view, everywhere, list_items, number_type, one_chunk
from entropyctl.table.conform import check_lengths
from entropyctl.table.header import Context, Header, Record, changed_fact, facts_since, with_facts, without
from entropyctl.table.parquet_sink import ParquetSink
from entropyctl.table.pipe_watch import PipeWatch, watch_standard_output
from entropyctl.table.provenance import finished, merge_chains, written
from entropyctl.table.schema import KEY, column_of, load_schema
from entropyctl.table.source import Source
from entropyctl.table.stream_sink import StreamSink
from entropyctl.table.types import is_list


class _Writer(Protocol):
    def learn(self, facts: Context) -> None: ...
    def put(self, number: int, rows: pa.Table) -> None: ...
    def settle(self, header: Header) -> None: ...
    def publish(self) -> None: ...
    def abort(self) -> None: ...


class Sink:
    """Where a stage's steps go. Leaving the `with` block without an exception commits; any exception aborts."""

    def __init__(
        self,
        output: str | None,
        table: str,
        record: Record,
        source: Source | None = None,
        *,
        context: Context | None = None,
        replaces: Sequence[str] = (),
        only: Sequence[str] | None = None,
        tee: str | None = None,
        stdout: BinaryIO | None = None,
        inputs: Sequence[dict[str, Any]] = (),
        chain: Sequence[Record] = (),
        activity: Activity | None = None,
        overlap: bool = False,
    ) -> None:
        """Prepare the output; `with` opens its files, so that a bad path is known before any work is done.

        Args:
            output: path of a Parquet file; None or "-" streams to standard output.
            table: name of the table that is written.
            record: this run's record of provenance.
            source: what the rows are made from; gives the chain, the context and the columns.
            context: facts of the sampling to add to the source's.
            replaces: fields of the source's context that say what this stage does anew, and are not passed on.
            only: write the key and these columns alone.
            tee: path of a Parquet file to keep while streaming on.
            stdout: the stream that "-" means; the process's standard output by default.
            inputs: what the record says of inputs that are not a source (prompts, for example).
            chain: the records of such inputs.
            activity: of a stage that reads no source.
            overlap: encode and write a step to files while the next is made.

        Raises:
            UsageError: the output would be binary data on a terminal, or -o and --tee are one file.
        """
        self._streams = output in (None, "-")
        self._stdout = stdout
        if self._streams and stdout is None and sys.stdout.isatty():
            raise UsageError("will not write binary data to a terminal; give -o FILE, or pipe into the next stage")
        self._paths = [path for path in (None if self._streams else output, tee) if path]
        if len({os.path.realpath(path) for path in self._paths}) < len(self._paths):
            raise UsageError(f"-o and --tee both name {tee}; give them different files, or leave one out")
        self._files: list[AtomicFile] = []
        self.table, self.record, self.source = table, record, source
        self._facts, self._replaces, self._overlap = context or {}, tuple(replaces), overlap
        self._told: Context = {}  # what a stream's reader knows
        self._only = None if only is None else [*KEY, *(n for n in only if n not in KEY)]
        self._inputs, self._chain = list(inputs), list(chain)
        self._writers: list[_Writer] | None = None
        self._watch: PipeWatch | None = None
        self._schema: pa.Schema | None = None
        self._summary: dict[str, Any] = {}
        if source is not None:
            source.activity.stage = record["stage"]
        # That a file is written is told of nowhere: it waits for nobody.
        self._activity = activity or (source.activity if source and self._streams else Activity())
        self.rows = 0
        self.rows_read = 0

    def put(self, number: int, rows: pa.Table, rows_read: int | None = None, *, facts: Context | None = None) -> None:
        """Write the rows of a step.

        Args:
            number: the step.
            rows: its rows; a column that is not of the contract passes through as it is.
            rows_read: how many rows of the source they were made from; as many as there are by default.
            facts: what this step adds to the context. What the source has learnt is passed on without being named.
        """
        self._facts = with_facts(self._facts, facts or {})
        if self._only is not None:
            rows = rows.select([n for n in self._only if n in rows.column_names])
        rows = rows.replace_schema_metadata(None)
        if self._writers is None:
            self._open(_writable(rows.schema, self.table))
        assert self._schema is not None and self._writers is not None
        if rows.schema != self._schema:
            rows = rows.select(self._schema.names).cast(self._schema)
        check_lengths(rows, f"{self.record['stage']}: its output")
        _refuse_nan(rows, self.record["stage"], self.table)
        self.rows += rows.num_rows
        self.rows_read += rows.num_rows if rows_read is None else rows_read
        self._tell()
        self._activity.doing("writes", step=number)
        for writer in self._writers:
            writer.put(number, rows)
        self._activity.doing("computes")

    @property
    def _context(self) -> Context:
        """What is known by now: what the source has learnt, and this stage's own facts."""
        inherited = self.source.context if self.source else {}
        return with_facts(without(inherited, self._replaces) if self._replaces else inherited, self._facts)

    def _tell(self) -> None:
        """Hand on what has been learnt since the header went out."""
        context = self._context
        facts = facts_since(self._told, context)
        if name := changed_fact(self._told, facts):
            raise EntropyctlError(f"{self.record['stage']}: takes back {name}; this is a bug, please report it")
        self._told = context
        for writer in (self._writers or []) if facts else []:
            writer.learn(facts)

    def summarise(self, **summary: Any) -> None:
        """Numbers for the record of provenance; for a stream they travel in its end record."""
        self._summary |= summary

    def _open_files(self) -> None:
        for path in self._paths[len(self._files) :]:
            self._files.append(AtomicFile(path))
            self._files[-1].open()

    def _open(self, schema: pa.Schema) -> None:
        self._open_files()
        self._schema = schema
        header = self._header(self.record)
        self._told = header.context
        self._writers = []
        for file in self._files:
            self._writers.append(ParquetSink(file, schema, header, overlap=self._overlap))
        if self._streams:
            self._writers.append(StreamSink(self._stdout or _raw_stdout(), schema, header))

    def _header(self, record: Record) -> Header:
        chain = self.source.chain if self.source else self._chain
        return Header(self.table, self._context, merge_chains([chain, [written(record)]]))

    def _commit(self) -> None:
        if self._writers is None:
            self._open(self._empty_schema())
        assert self._writers is not None
        self._tell()
        origins = self.source.origins(self.rows_read) if self.source else self._inputs
        if self.source and self.source.mismatches:
            self.record["allowed_mismatches"] = self.source.mismatches
        header = self._header(finished(self.record, origins, self.rows, self._summary))
        # Files settle before the stream ends, so that a full disk is found while the stream can still be left
        # without its end record; they appear after it, so that a reader that has gone leaves none.
        for writer in self._writers:
            writer.settle(header)
        for writer in self._writers:
            writer.publish()

    def _empty_schema(self) -> pa.Schema:
        """Columns of an output without rows: the source's, and what the table adds to them."""
        fields = {field.name: field for field in (self.source.schema if self.source else [])}
        made = self.record["stage"].split()[0]
        for column in load_schema(self.table).columns:
            if column.name not in fields and (not self.source or column.made_by.split()[0] == made):
                fields[column.name] = pa.field(column.name, column.arrow_type)
        return pa.schema([f for n, f in fields.items() if self._only is None or n in self._only])

    def _abort(self) -> None:
        with pipes_unwatched():
            for writer in self._writers or []:
                writer.abort()
            for file in self._files:
                file.abort()

    def __enter__(self) -> Sink:
        try:
            self._open_files()
        except BaseException:
            self._abort()
            raise
        if self._streams and self._stdout is None:
            self._watch = watch_standard_output()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._watch is not None:
            self._watch.stop()
        if kind is not None:
            self._abort()
            if isinstance(error, ReaderGone):
                raise BrokenPipeError("the reader of standard output has gone") from None  # what a write meets
            return
        try:
            self._commit()
        except BaseException:
            self._abort()
            raise


write = Sink


def _raw_stdout() -> BinaryIO:
    return sys.stdout.buffer


def _writable(schema: pa.Schema, table: str) -> pa.Schema:
    fields = []
    for field in schema:
        column = column_of(table, field.name)
        same = column is not None and (field.type == column.arrow_type or is_list(field.type))
        fields.append(pa.field(field.name, column.arrow_type if column is not None and same else field.type))
    return pa.schema(fields)


def _refuse_nan(rows: pa.Table, stage: str, table: str) -> None:
    """NaN is never written: a null list means "not computed", and anything else is a fault to report here."""
    for field in rows.schema:
        leaf = field.type.value_type if is_list(field.type) else field.type
        if column_of(table, field.name) is None or not pa.types.is_floating(leaf):
            continue
        array = one_chunk(rows[field.name])
        values = list_items(array) if is_list(field.type) else array.drop_null()
        if not everywhere(lambda part: ~np.isnan(part), buffer_view(values, number_type(leaf))):
            raise EntropyctlError(f"{stage}: computed NaN in column '{field.name}'; this is a bug, please report it")
