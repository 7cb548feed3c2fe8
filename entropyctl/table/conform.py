"""Columns of other programs in the types of the contract, and lists that must be of one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table.columns import (
    codes,
    everywhere,
    filled,
    list_items,
    null_rows,
    one_chunk,
    row_lengths,
    row_of_token,
    row_values,
)
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


def check_names(schema: pa.Schema, path: str) -> None:
    """Stop where two columns have one name.

    Raises:
        InputError: names it.
    """
    for name in schema.names:
        if len(schema.get_all_field_indices(name)) != 1:
            raise InputError(f"{path}: has two columns of the name '{name}'; rename or drop one")


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
        lengths, null = row_lengths(rows[name]), null_rows(rows[name])
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


def check_values(rows: pa.Table, needs: Sequence[str], path: str, table: str | None = None) -> None:
    """Stop where a value could not be computed with: a null or an infinity in a column that is needed, NaN anywhere.

    Raises:
        InputError: names the row, the column and, where a stage makes it, the stage.
    """
    for field in rows.schema:
        column = column_of(table, field.name)
        array = one_chunk(rows[field.name])
        needed = field.name in needs and not (column is not None and column.nullable)
        if array.null_count and needed:
            row = int(np.flatnonzero(null_rows(array))[0])
            remedy = f"; run `entropyctl {column.made_by}` on it" if column else ""
            raise InputError(f"{path}: row {row_name(rows, row)}: '{field.name}' is null, not computed{remedy}")
        leaf = field.type.value_type if is_list(field.type) else field.type
        if column is None or not pa.types.is_floating(leaf):
            continue
        values = list_items(array) if is_list(field.type) else array
        number_N = filled(values)
        good = np.isfinite if needed else _is_number
        if not everywhere(good, number_N):
            at = int(np.flatnonzero(~good(number_N))[0])
            row = int(row_of_token(row_lengths(array))[at]) if is_list(field.type) else at
            found = f"'{field.name}' holds {number_N[at]}"
            raise InputError(f"{path}: row {row_name(rows, row)}: {found}; write null for what is unknown")


def _is_number(values: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isnan(values))


def check_nulls_in_lists(rows: pa.Table, path: str, table: str | None = None) -> None:
    """Stop where a list of the contract has a null among its entries, which another program can write.

    Raises:
        InputError: names the row and the column.
    """
    for field in rows.schema:
        if column_of(table, field.name) is None or not is_list(field.type):
            continue
        array = one_chunk(rows[field.name])
        if (items := list_items(array)).null_count:
            row = int(row_of_token(row_lengths(array))[np.flatnonzero(null_rows(items))[0]])
            raise InputError(
                f"{path}: row {row_name(rows, row)}: '{field.name}' has a null entry; its lists need numbers"
            )


def check_keys(rows: pa.Table, path: str) -> None:
    """Stop where a row has no key, or two rows of a step have one, as when a shard lies in a directory twice.

    Raises:
        InputError: names the key.
    """
    for name in KEY:
        if name in rows.column_names and rows[name].null_count:
            row = int(np.flatnonzero(null_rows(rows[name]))[0])
            raise InputError(f"{path}: row {row_name(rows, row)}: '{name}' is null; every row needs a key of its own")
    if not set(KEY) <= set(rows.column_names) or rows.num_rows < 2:
        return
    prompt_B = codes(rows["prompt_id"])
    step_B, sample_B = row_values(rows["step"]), row_values(rows["sample"])
    order = np.lexsort((sample_B, prompt_B, step_B))
    same = np.ones(rows.num_rows - 1, bool)
    for key_B in (step_B, prompt_B, sample_B):
        same &= np.diff(key_B[order]) == 0
    if same.any():
        row = int(order[np.flatnonzero(same)[0]])
        raise InputError(f"{path}: row {row_name(rows, row)} is there twice; every row needs a key of its own")


def row_name(rows: pa.Table, row: int) -> str:
    """A row's key, for messages: `step 3, prompt p7, sample 0`."""
    parts = []
    for name in KEY:
        if name in rows.column_names:
            value = rows[name][row].as_py()
            word = "prompt" if name == "prompt_id" else name
            parts.append(f"{word} {value}")
    return ", ".join(parts) or f"number {row}"
