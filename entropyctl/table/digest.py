"""Digests of columns that do not depend on how the rows were cut into batches, steps or row groups.

A digest proves that two tables hold the same values in the same order, whether they lie in a Parquet
file or come through a pipe. It is written into every end record and compared by every reader.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from entropyctl.table.columns import buffer_view


class ColumnDigest:
    """Running digest of one column: feed it the chunks in order, then ask for `hexdigest`.

    What enters: each array's values as little-endian bytes with nulls as zero, the lengths of lists and
    strings as int64, and the position of every null. Nested arrays are digested leaf by leaf.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}
        self._rows: dict[str, int] = {}

    def update(self, array: pa.Array | pa.ChunkedArray) -> None:
        """Add the next rows."""
        for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
            self._feed("", chunk)

    def hexdigest(self) -> str:
        """The digest of all rows so far, 32 hexadecimal digits."""
        parts = "".join(f"{path}={h.hexdigest()};" for path, h in sorted(self._hashes.items()))
        return xxhash.xxh3_128_hexdigest(parts.encode())

    def _add(self, path: str, data: Any) -> None:
        if path not in self._hashes:
            self._hashes[path] = xxhash.xxh3_128()
        self._hashes[path].update(data)

    def _feed(self, path: str, array: pa.Array) -> None:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        kind = array.type
        start = self._rows.get(path, 0)
        self._rows[path] = start + len(array)
        if array.null_count:
            nulls = np.flatnonzero(buffer_view(array.is_null(), np.bool_))
            self._add(f"{path}?", (nulls + start).astype("<i8").tobytes())
        if pa.types.is_struct(kind):
            for field, child in zip(kind, array.flatten(), strict=True):
                self._feed(f"{path}.{field.name}", child)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            self._add(f"{path}#", _list_lengths(array))
            self._feed(f"{path}[]", array.flatten())
        elif pa.types.is_map(kind):
            self._feed(path, array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
        elif pa.types.is_null(kind):
            pass
        elif pa.types.is_primitive(kind) or pa.types.is_boolean(kind):
            self._add(path, _fixed_width_bytes(array))
        else:
            self._add_binary(path, array)

    def _add_binary(self, path: str, array: pa.Array) -> None:
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.string())
        array = array.cast(pa.large_binary())
        if array.null_count:
            array = array.fill_null(b"")
        offsets = np.frombuffer(array.buffers()[1], "<i8")[array.offset : array.offset + len(array) + 1]
        self._add(f"{path}#", np.diff(offsets).tobytes())
        data = array.buffers()[2]
        if data is not None and len(array):
            self._add(path, memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _list_lengths(array: pa.Array) -> bytes:
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size, "<i8").tobytes()
    lengths = array.value_lengths()
    if lengths.null_count:
        lengths = lengths.fill_null(0)
    return buffer_view(lengths.cast(pa.int64()), np.int64).tobytes()


def _fixed_width_bytes(array: pa.Array) -> Any:
    if array.null_count:
        zero = pa.scalar(0, pa.int64()).cast(array.type) if not pa.types.is_boolean(array.type) else pa.scalar(False)
        array = array.fill_null(zero)
    if pa.types.is_boolean(array.type):
        return buffer_view(array, np.bool_).tobytes()
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    if data is None:
        return b""
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]


class TableDigest:
    """Running digests of a table's columns, by name."""

    def __init__(self) -> None:
        self._columns: dict[str, ColumnDigest] = {}

    def update(self, rows: pa.Table) -> None:
        """Add the next rows; every call must bring the same columns."""
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            self._columns.setdefault(name, ColumnDigest()).update(column)

    def columns(self) -> dict[str, str]:
        """Digest of each column."""
        return {name: digest.hexdigest() for name, digest in self._columns.items()}


def table_digest(columns: dict[str, str]) -> str:
    """One digest out of the columns' digests; it does not depend on the order of the columns."""
    text = ";".join(f"{name}={digest}" for name, digest in sorted(columns.items()))
    return xxhash.xxh3_128_hexdigest(text.encode())
