"""Writing Parquet: encodings that suit lists of floats, checksums, row groups within steps, an end record."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.errors import InputError
from entropyctl.table.atomic import AtomicFile, cannot_write
from entropyctl.table.columns import row_lengths
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.footer import GuardedFile
from entropyctl.table.header import END_KEY, SCHEMA_KEY, Context, Header, end_record
from entropyctl.table.types import is_list

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# A row group is what a reader holds in memory: cut by tokens, since rows differ a thousandfold in length.
TOKENS_PER_ROW_GROUP = 500_000


class ParquetSink:
    """One Parquet file, durable once `settle` and visible once `publish` has returned."""

    def __init__(self, file: AtomicFile, schema: pa.Schema, header: Header, *, overlap: bool = False) -> None:
        """Begin the file.

        Args:
            file: what it is written to.
            schema: of its rows.
            header: what stands at its beginning.
            overlap: encode and write a step while the next is made; a fault of it is told with the next one.
        """
        self.path = file.path
        self._thread = _thread() if overlap else None
        self._later: Future[None] | None = None
        self._schema = stored_schema(schema, self.path)
        self._digest = TableDigest()
        self._rows = 0
        self._file = file
        leaves = [leaf for field in self._schema for leaf in _leaves(field.name, field.type)]
        # The schema's name goes in at once and the end record last: a writer that an exception closed
        # leaves a valid Parquet file, which must not pass for a whole table.
        marked = self._schema.with_metadata({SCHEMA_KEY: header.to_metadata()[SCHEMA_KEY]})
        self._guarded = GuardedFile(file.file)
        self._writer = pq.ParquetWriter(
            self._guarded,
            marked,
            compression="zstd",
            compression_level=1,
            use_dictionary=[path for path, kind in leaves if not _is_number(kind)],
            use_byte_stream_split=[path for path, kind in leaves if pa.types.is_floating(kind)],
            write_statistics=[path for path, _ in leaves if "." not in path],
            write_page_checksum=True,
            store_schema=True,
        )

    def learn(self, facts: Context) -> None:
        """Nothing to do: the footer gets the whole context at the end."""

    def put(self, number: int, rows: pa.Table) -> None:
        """Write the rows of a step.

        Raises:
            OutputError: the file system refuses.
        """
        if rows.schema != self._schema:
            try:
                rows = rows.cast(self._schema)
            except pa.ArrowException as error:
                raise InputError(f"{self.path}: a value does not fit into Parquet ({error}); drop its column") from None
        self._rows += rows.num_rows
        self._finish()
        if self._thread is None:
            self._write(rows)
        else:
            self._later = self._thread.submit(self._write, rows)

    def _finish(self) -> None:
        """Wait for what is being written."""
        later, self._later = self._later, None
        if later is not None:
            later.result()

    def _write(self, rows: pa.Table) -> None:
        self._digest.update(rows)
        try:
            for part in _parts(rows):
                self._writer.write_table(part, row_group_size=max(part.num_rows, 1))
        except OSError as error:
            raise cannot_write(self.path, error) from None
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: Parquet cannot hold a column ({error}); drop or cast it") from None

    def settle(self, header: Header) -> None:
        """Write the end record and make the bytes durable."""
        self._finish()
        if self._thread is not None:
            self._thread.shutdown()
        columns = self._digest.columns()
        end = end_record(header, self._schema, self._rows, table_digest(columns), columns)
        metadata = {k: v for k, v in header.to_metadata().items() if k != SCHEMA_KEY}
        try:
            self._writer.add_key_value_metadata({**metadata, END_KEY: end})
            self._guarded.hold()
            self._writer.close()
            self._guarded.release()
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._file.settle()

    def publish(self) -> None:
        """Make the file visible."""
        self._file.publish()

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._thread is not None:
            self._thread.shutdown()
        with suppress(OSError, pa.ArrowException):  # the disk that is full, again
            self._writer.close()
        self._file.abort()


def _thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "writer")


def stored_schema(schema: pa.Schema, path: str) -> pa.Schema:
    """The schema as Parquet gives it back: seconds become milliseconds, for example.

    Raises:
        InputError: a column is of a type that Parquet cannot hold.
    """
    fields = []
    for field in schema:
        buffer = io.BytesIO()
        try:
            pq.ParquetWriter(buffer, pa.schema([field]), store_schema=True).close()
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path}: column '{field.name}' is {field.type}, which Parquet cannot hold ({reason}); drop or cast it"
            ) from None
        fields.append(pa.field(field.name, pq.ParquetFile(buffer).schema_arrow.field(0).type))
    return pa.schema(fields)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's names of a column's leaves, with their types."""
    if is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    else:
        yield path, kind


def _parts(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows, cut so that no part has more tokens than a row group should, where it has more than one row."""
    tokens = np.ones(rows.num_rows, np.int64)
    for field in rows.schema:
        if is_list(field.type):
            tokens = np.maximum(tokens, row_lengths(rows[field.name]))
    start, held = 0, 0
    for row, count in enumerate(tokens.tolist()):
        if row > start and held + count > TOKENS_PER_ROW_GROUP:
            yield rows.slice(start, row - start)
            start, held = row, 0
        held += count
    if rows.num_rows > start:
        yield rows.slice(start)
