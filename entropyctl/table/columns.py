"""List columns as flat numpy arrays, and back, by buffers: no copies and no pandas.

`N` tokens of a step, `B` rows. Where pandas is installed, pyarrow imports it (half a second) for `pa.array`,
`pa.scalar`, `fill_null` and comparisons with a number; nothing here does any of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.table.types import list_of

Array = npt.NDArray[Any]

VALUES_AT_ONCE = 32_768


def number_type(kind: pa.DataType) -> np.dtype[Any]:
    """numpy's type for a number or boolean; `to_pandas_dtype` of pyarrow 17 fails where pandas is not installed."""
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    letter = "f" if pa.types.is_floating(kind) else "u" if pa.types.is_unsigned_integer(kind) else "i"
    return np.dtype(f"{letter}{kind.bit_width // 8}")


def buffer_view(array: pa.Array, dtype: Any) -> Array:
    """The values of a fixed-width array without nulls, `[len]`; `pyarrow.Array.to_numpy` would import pandas."""
    if pa.types.is_boolean(array.type):
        first, begin = array.offset // 8, array.offset % 8
        bits = np.frombuffer(array.buffers()[1] or b"", np.uint8)[first : (array.offset + len(array) + 7) // 8]
        return np.unpackbits(bits, bitorder="little")[begin : begin + len(array)].view(np.bool_)
    data = array.buffers()[1]
    if data is None:
        return np.empty(0, dtype)
    width = np.dtype(dtype).itemsize
    return np.frombuffer(data, dtype, len(array), array.offset * width)


def everywhere(test: Callable[[Array], Array], values: Array) -> bool:
    """Whether a test is true of every value, a cache's worth at a time: the answers of a step would go to memory."""
    places = range(0, len(values), VALUES_AT_ONCE)
    return all(test(values[start : start + VALUES_AT_ONCE]).all() for start in places)


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    # pyarrow 17 returns a ChunkedArray for an empty column, later ones an Array.
    return combined if isinstance(combined, pa.Array) else pa.nulls(0, column.type)


def filled(array: pa.Array, missing: Any = 0) -> Array:
    """The values of a fixed-width array with `missing` in the place of nulls, `[len]`."""
    values = buffer_view(array, number_type(array.type))
    if array.null_count:
        values = np.where(null_rows(array), values.dtype.type(missing), values)
    return values


def row_values(column: pa.ChunkedArray | pa.Array) -> Array:
    """A number or boolean per row, `[B]`."""
    array = one_chunk(column)
    return buffer_view(array, number_type(array.type))


def row_lengths(column: pa.ChunkedArray | pa.Array) -> Array:
    """Length of each row's list, `[B]` int64; 0 for a null list."""
    array = one_chunk(column)
    lengths = list_lengths(array)
    if array.null_count:
        lengths[null_rows(array)] = 0
    return lengths


def count_tokens(rows: pa.Table) -> int:
    """How many tokens the responses have; 0 where they are not in the table."""
    chunks = rows["tokens"].chunks if "tokens" in rows.column_names else []
    return sum(int(row_lengths(chunk).sum()) for chunk in chunks)


def list_lengths(array: pa.Array) -> Array:
    """Length of each list by its offsets, `[B]` int64; a null one has any."""
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        return filled(array.value_lengths()).astype(np.int64)
    if len(array) == 0:
        return np.zeros(0, np.int64)
    kind = np.dtype("<i8" if pa.types.is_large_list(array.type) else "<i4")
    offsets = np.frombuffer(array.buffers()[1], kind, len(array) + 1, array.offset * kind.itemsize)
    return np.diff(offsets).astype(np.int64)


def null_rows(column: pa.ChunkedArray | pa.Array) -> Array:
    """Where a column is null, `[B]` bool."""
    array = one_chunk(column)
    bitmap = array.buffers()[0] if array.null_count and not pa.types.is_null(array.type) else None
    if bitmap is None:
        return np.full(len(array), array.null_count > 0)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return ~bits[array.offset : array.offset + len(array)].view(np.bool_)


def flat_values(column: pa.ChunkedArray | pa.Array) -> Array:
    """All rows' lists behind one another, `[N]`."""
    values = list_items(one_chunk(column))
    return buffer_view(values, number_type(values.type))


def values_or(rows: pa.Table, name: str, missing: npt.ArrayLike) -> Array:
    """A column's number for every token, `[N]`; `missing` where a row's is null, and where there is no such column.

    Args:
        rows: with `loss_mask`, which says how many tokens a row has.
        name: a per-token column.
        missing: a number for each token, or one for all.
    """
    if name in rows.column_names and rows[name].null_count == 0:
        return flat_values(rows[name])
    lengths_B = row_lengths(rows["loss_mask"])
    found_N = np.array(np.broadcast_to(missing, lengths_B.sum()))
    if name in rows.column_names:
        found_N[np.repeat(~null_rows(rows[name]), lengths_B)] = flat_values(rows[name])
    return found_N


def list_items(array: pa.Array) -> pa.Array:
    """All lists' items behind one another; those that lie under a null list are left out."""
    if len(array) == 0 or not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        return array.flatten()
    if array.null_count and list_lengths(array)[null_rows(array)].any():
        return array.flatten()
    first, last = (_offset(array, i) for i in (0, len(array)))
    return array.values.slice(first, last - first)


def _offset(array: pa.Array, index: int) -> int:
    kind = np.dtype("<i8" if pa.types.is_large_list(array.type) else "<i4")
    return int(np.frombuffer(array.buffers()[1], kind, 1, (array.offset + index) * kind.itemsize)[0])


def row_of_token(lengths: Array) -> Array:
    """For each token the row that it belongs to, `[N]` int64."""
    return np.repeat(np.arange(len(lengths)), lengths)


def _to_arrow(values: Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):
        bits = np.packbits(values.astype(np.bool_), bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(bits)])
    data = np.ascontiguousarray(values, number_type(kind))
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def row_column(values: Array, kind: pa.DataType) -> pa.Array:
    """A column of one number or boolean per row out of `[B]`."""
    return _to_arrow(np.asarray(values), kind)


def column_from(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column out of Python values, None for null: numbers, booleans, strings, lists and structs of these."""
    valid = np.array([value is not None for value in values], bool)
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if pa.types.is_struct(kind):
        fields = [column_from([None if v is None else v[f.name] for v in values], f.type) for f in kind]
        return pa.Array.from_buffers(kind, len(values), [bitmap], children=fields)
    if pa.types.is_list(kind):
        items = column_from([item for value in values for item in value or ()], kind.value_type)
        offsets = _offsets([len(value or ()) for value in values])
        return pa.Array.from_buffers(kind, len(values), [bitmap, offsets], children=[items])
    if pa.types.is_string(kind):
        words = [(value or "").encode(errors="replace") for value in values]  # JSON may hold half a surrogate pair
        buffers = [bitmap, _offsets([len(word) for word in words]), pa.py_buffer(b"".join(words))]
        return pa.Array.from_buffers(kind, len(values), buffers)
    column = _to_arrow(np.array([0 if value is None else value for value in values]), kind)
    return pa.Array.from_buffers(kind, len(values), [bitmap, column.buffers()[1]])


def _offsets(lengths: Sequence[int] | Array) -> pa.Buffer:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.py_buffer(offsets)


def list_column(values: Array, lengths: Array, element: pa.DataType, valid: Array | None = None) -> pa.Array:
    """A list column out of its flat values `[N]` and the rows' lengths `[B]`; null where `valid` `[B]` is false."""
    if len(values) != lengths.sum():
        raise ValueError(f"{len(values)} values do not fill rows of {lengths.sum()} in total")
    items = _to_arrow(values, element)
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(list_of(element), len(lengths), [bitmap, _offsets(lengths)], children=[items])


def nested_column(values: Array, lengths: Array, element: pa.DataType) -> pa.Array:
    """A column of lists of K numbers for each token, out of `[N, K]` values and the rows' lengths `[B]`."""
    inner = list_column(values.reshape(-1), np.full(len(values), values.shape[1], np.int64), element)
    kind = list_of(list_of(element))
    return pa.Array.from_buffers(kind, len(lengths), [None, _offsets(lengths)], children=[inner])


def codes(column: pa.ChunkedArray | pa.Array) -> Array:
    """`[B]` int64 the same number for equal values, in order of first appearance."""
    encoded = one_chunk(column).dictionary_encode(null_encoding="encode")
    return filled(encoded.indices).astype(np.int64)


def with_column(rows: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with a column added, or replaced in its place."""
    index = rows.schema.get_field_index(name)
    if index < 0:
        return rows.append_column(name, column)
    return rows.set_column(index, name, column)


def filtered_lists(column: pa.ChunkedArray | pa.Array, keep_N: Array) -> pa.Array:
    """The column with some items of its lists alone; a null list stays null.

    Args:
        column: lists, of whatever.
        keep_N: which items stay, over the items of all lists behind one another.
    """
    array = one_chunk(column)
    kept_N = np.concatenate([[0], np.cumsum(keep_N)])
    places_B = np.concatenate([[0], np.cumsum(row_lengths(array))])
    items = list_items(array).filter(row_column(keep_N, pa.bool_()))
    bitmap = pa.py_buffer(np.packbits(~null_rows(array), bitorder="little")) if array.null_count else None
    buffers = [bitmap, _offsets(np.diff(kept_N[places_B]))]
    return pa.Array.from_buffers(pa.list_(array.type.value_field), len(array), buffers, children=[items])
