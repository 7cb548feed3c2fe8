"""Writing Parquet: encodings that suit lists of floats, checksums, row groups within steps, an end record."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from entropyctl.table.atomic import AtomicFile, cannot_write
from entropyctl.table.columns import row_lengths
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.header import END_KEY, SCHEMA_KEY, Header, end_record
from entropyctl.table.types import is_list

# A row group is what a reader holds in memory: cut by tokens, since rows differ a thousandfold in length.
TOKENS_PER_ROW_GROUP = 500_000


class ParquetSink:
    """One Parquet file, visible once `commit` has returned."""

    def __init__(self, path: str, schema: pa.Schema, header: Header) -> None:
        self.path = path
        self._schema = schema
        self._digest = TableDigest()
        self._rows = 0
        self._file = AtomicFile(path)
        leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
        # The schema's name goes in at once and the end record last: a writer that an exception closed
        # leaves a valid Parquet file, which must not pass for a whole table.
        marked = schema.with_metadata({SCHEMA_KEY: header.to_metadata()[SCHEMA_KEY]})
        self._writer = pq.ParquetWriter(
            self._file.file,
            marked,
            compression="zstd",
            compression_level=1,
            use_dictionary=[path for path, kind in leaves if not _is_number(kind)],
            use_byte_stream_split=[path for path, kind in leaves if pa.types.is_floating(kind)],
            write_statistics=[path for path, _ in leaves if "." not in path],
            write_page_checksum=True,
            store_schema=True,
        )

    def put(self, number: int, rows: pa.Table) -> None:
        """Write the rows of a step.

        Raises:
            OutputError: the file system refuses.
        """
        self._digest.update(rows)
        self._rows += rows.num_rows
        try:
            for part in _parts(rows):
                self._writer.write_table(part, row_group_size=max(part.num_rows, 1))
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def commit(self, header: Header) -> None:
        """Write the end record and make the file visible."""
        columns = self._digest.columns()
        end = end_record(header, self._schema, self._rows, table_digest(columns), columns)
        metadata = {k: v for k, v in header.to_metadata().items() if k != SCHEMA_KEY}
        try:
            self._writer.add_key_value_metadata({**metadata, END_KEY: end})
            self._writer.close()
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._file.commit()

    def abort(self) -> None:
        """Leave nothing behind."""
        try:
            self._writer.close()
        except (OSError, pa.ArrowException):
            pass  # the disk that is full, again
        self._file.abort()


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
    """The rows, cut so that no part has many more tokens than a row group should."""
    tokens = np.ones(rows.num_rows, np.int64)
    for field in rows.schema:
        if is_list(field.type):
            tokens = np.maximum(tokens, row_lengths(rows[field.name]))
    cuts = np.cumsum(tokens) // TOKENS_PER_ROW_GROUP
    starts = [0, *(np.flatnonzero(np.diff(cuts)) + 1).tolist(), rows.num_rows]
    for start, stop in zip(starts, starts[1:], strict=False):
        if stop > start:
            yield rows.slice(start, stop - start)
