"""Digests of columns that do not depend on how the rows were cut into batches, steps or row groups.

A digest proves that two tables hold the same values in the same order, whether they lie in a Parquet
file or come through a pipe. It is written into every end record and compared by every reader.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from entropyctl.table.columns import VALUES_AT_ONCE, Array, filled, list_items, list_lengths, null_rows


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
        if len(array) == 0:
            return  # an empty batch, or a batch of empty lists, must leave no trace
        array = _plain(array)
        kind = array.type
        start = self._rows.get(path, 0)
        self._rows[path] = start + len(array)
        nulls = np.flatnonzero(null_rows(array)) if array.null_count else np.empty(0, np.int64)
        if len(nulls):
            self._add(f"{path}?", (nulls + start).astype("<i8").tobytes())
        if pa.types.is_struct(kind):
            for field, child in zip(kind, array.flatten(), strict=True):
                self._feed(f"{path}.{field.name}", child)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            self._add(f"{path}#", _list_lengths(array, nulls))
            self._feed(f"{path}[]", list_items(array))
        elif pa.types.is_boolean(kind):
            for start in range(0, len(array), VALUES_AT_ONCE):
                part = array.slice(start, VALUES_AT_ONCE)
                self._add(path, filled(part, False))
        elif _has_width(kind):
            self._add(path, _fixed_width_bytes(array, nulls))
        elif not pa.types.is_null(kind):
            self._add_binary(path, array, nulls)

    def _add_binary(self, path: str, array: pa.Array, nulls: Array) -> None:
        if array.type not in (pa.string(), pa.binary()) or len(nulls):
            array = array.cast(pa.large_binary())  # loads pyarrow.compute, which the usual columns need not wait for
        offsets = _offsets(array)
        lengths = np.diff(offsets)
        lengths[nulls] = 0
        self._add(f"{path}#", lengths.tobytes())
        array = array.drop_null() if len(nulls) else array
        data = array.buffers()[2]
        if data is not None and len(array):
            offsets = _offsets(array)
            self._add(path, memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _offsets(array: pa.Array) -> Array:
    """`[len + 1]` int64 where each string's bytes begin."""
    kind = np.dtype("<i4" if array.type in (pa.string(), pa.binary()) else "<i8")
    # By their number: of a damaged stream the buffer may be longer, and not by whole offsets.
    return np.frombuffer(array.buffers()[1], kind, len(array) + 1, array.offset * kind.itemsize).astype("<i8")


def _plain(array: pa.Array) -> pa.Array:
    """The same values without an encoding or a name around them."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_map(kind):
        return array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return array.cast(pa.large_list(kind.value_field))
    return array


def _has_width(kind: pa.DataType) -> bool:
    try:
        return bool(kind.bit_width % 8 == 0)
    except ValueError:
        return False


def _list_lengths(array: pa.Array, nulls: Array) -> bytes:
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size, "<i8")
    else:
        lengths = list_lengths(array)
    lengths[nulls] = 0
    return lengths.tobytes()


def _fixed_width_bytes(array: pa.Array, nulls: Array) -> Any:
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    if data is None:
        return b""
    values = memoryview(data)[array.offset * width : (array.offset + len(array)) * width]
    if not len(nulls):
        return values
    filled = np.frombuffer(values, np.uint8).reshape(len(array), width).copy()
    filled[nulls] = 0  # what lies under a null is left over from anything
    return filled.tobytes()


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
