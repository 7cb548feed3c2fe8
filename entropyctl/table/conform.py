"""Columns of other programs in the types of the contract, and lists that must be of one length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table.columns import buffer_view, one_chunk, row_lengths
from entropyctl.table.schema import KEY, column_of, known_column
from entropyctl.table.types import is_list


def conform(field: pa.Field, path: str, table: str | None = None) -> pa.Field:
    """The field as the contract has it in `table`; fields that the contract does not know stay as they are.

    Raises:
        InputError: the column's type cannot mean what the contract says.
    """
    column = column_of(table, field.name)
    if column is None:
        return pa.field(field.name, field.type)
    wanted = column.arrow_type
    if not _castable(field.type, wanted):
        raise InputError(f"{path}: column '{field.name}' is {field.type}; it must be {column.type}")
    return pa.field(field.name, wanted)


def _castable(have: pa.DataType, wanted: pa.DataType) -> bool:
    if is_list(have) and is_list(wanted):
        return _castable(have.value_type, wanted.value_type)
    if have == wanted or pa.types.is_null(have):
        return True
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(have) or pa.types.is_integer(have))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(have))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(have) or pa.types.is_large_string(have) or pa.types.is_dictionary(have))
    return False


def check_lengths(rows: pa.Table, path: str) -> None:
    """Stop where two per-token lists of a row are not of one length.

    Raises:
        InputError: names the row and both columns.
    """
    first: tuple[str, np.ndarray, np.ndarray] | None = None
    for name in sorted(rows.column_names, key=lambda n: n != "tokens"):
        column = known_column(name)
        if column is None or column.per != "token" or not is_list(rows.schema.field(name).type):
            continue
        lengths, null = row_lengths(rows[name]), buffer_view(one_chunk(rows[name]).is_null(), np.bool_)
        if first is None:
            first = (name, lengths, null)
            continue
        # A null list means "not computed", which is no fault of length.
        odd = np.flatnonzero((lengths != first[1]) & ~null & ~first[2])
        if len(odd):
            row = int(odd[0])
            raise InputError(
                f"{path}: row {row_name(rows, row)}: '{name}' has {lengths[row]} entries where "
                f"'{first[0]}' has {first[1][row]}; every per-token list needs one entry for each token"
            )


def row_name(rows: pa.Table, row: int) -> str:
    """A row's key, for messages: `step 3, prompt p7, sample 0`."""
    parts = []
    for name in KEY:
        if name in rows.column_names:
            value = rows[name][row].as_py()
            word = "prompt" if name == "prompt_id" else name
            parts.append(f"{word} {value}")
    return ", ".join(parts) or f"number {row}"
