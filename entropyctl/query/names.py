"""What a name in a query stands for: a column, or a quantity that is made from columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, naming
from entropyctl.forecast import columns_for, predicted_changes
from entropyctl.masks._apply import COLUMNS as LAID
from entropyctl.masks._laid import laid_on
from entropyctl.query.language import Name
from entropyctl.query.value import Kind, Level, Value, numbers, texts, truths
from entropyctl.table import check_needs
from entropyctl.table.columns import filled, flat_values, null_rows, one_chunk, row_lengths
from entropyctl.table.conform import row_name
from entropyctl.table.schema import known_column
from entropyctl.table.types import is_list, type_name


class Made(NamedTuple):
    """A quantity that is made from columns: its unit, which it needs, which it reads if they are there, and how."""

    unit: str
    kind: Kind
    needs: tuple[str, ...]
    optional: tuple[str, ...]
    make: Callable[[pa.Table], Value]


# What a forecast needs, and all that it reads.
_FORECAST = columns_for({})


def _difference(one: str, other: str) -> Callable[[pa.Table], Value]:
    def make(rows: pa.Table) -> Value:
        a, b = of_column(rows, one), of_column(rows, other)
        return numbers(np.float64(a.data) - b.data, a.null | b.null, Level.TOKEN)

    return make


def _probability(rows: pa.Table) -> Value:
    logprobs = of_column(rows, "logprobs")
    return numbers(np.exp(np.float64(logprobs.data)), logprobs.null, Level.TOKEN)


def _position(rows: pa.Table) -> Value:
    lengths_B = token_lengths(rows)
    first_B = np.cumsum(lengths_B) - lengths_B
    return numbers(np.arange(lengths_B.sum()) - np.repeat(first_B, lengths_B), level=Level.TOKEN)


def _change(rows: pa.Table) -> Value:
    _check_computed(rows, _FORECAST[0])
    return numbers(predicted_changes(rows), level=Level.TOKEN)


def _kept(rows: pa.Table) -> Value:
    _check_computed(rows, ["loss_mask"])
    return truths(laid_on(rows).pulling(), level=Level.TOKEN)


def _check_computed(rows: pa.Table, names: list[str]) -> None:
    """Stop where a row lacks what its quantity is made from, which has no null of its own."""
    for name in names:
        if rows[name].null_count:
            row = row_name(rows, int(null_rows(rows[name]).argmax()))
            raise InputError(f"row {row}: '{name}' is null, not computed; take rows that have it")


def _length(rows: pa.Table) -> Value:
    return numbers(token_lengths(rows), level=Level.ROW)


_NUMBER, _TRUTH = Kind("number", Level.TOKEN), Kind("truth", Level.TOKEN)
_SCORES, _LOGPROBS = ("s_star", "expected_s"), ("logprobs", "rollout_logprobs")
# `entropyctl inspect --help` says what each is.
MADE = {
    "centred_s": Made("nat", _NUMBER, _SCORES, (), _difference(*_SCORES)),
    "mismatch": Made("nat", _NUMBER, _LOGPROBS, (), _difference(*_LOGPROBS)),
    "probability": Made("1", _NUMBER, ("logprobs",), (), _probability),
    "change": Made("nat", _NUMBER, tuple(_FORECAST[0]), tuple(_FORECAST[1]), _change),
    "kept": Made("", _TRUTH, ("loss_mask",), LAID, _kept),
    "position": Made("", _NUMBER, ("tokens",), (), _position),
    "length": Made("token", Kind("number", Level.ROW), ("tokens",), (), _length),
}


def value_of_name(name: Name, rows: pa.Table, path: str) -> Value:
    """What a name of a query is for the rows of a step.

    Raises:
        InputError: a column cannot be used in one of these rows.
    """
    with naming(path):
        if name.quoted or name.name not in MADE:
            return of_column(rows, name.name)
        return MADE[name.name].make(rows)


def kind_of_column(field: pa.Field) -> Kind | None:
    """What a column holds for each row or each token; None for what is neither number, truth nor text."""
    known = known_column(field.name)
    per_token = is_list(field.type) and (known is None or known.per == "token")
    leaf = field.type.value_type if per_token else field.type
    level = Level.TOKEN if per_token else Level.ROW
    if pa.types.is_boolean(leaf):
        return Kind("truth", level)
    if pa.types.is_integer(leaf) or pa.types.is_floating(leaf):
        return Kind("number", level)
    return Kind("text", level) if not per_token and _is_text(leaf) else None


def kind_of_name(one: Name, schema: pa.Schema, path: str) -> Kind:
    """What a name of a query stands for in a table with these columns.

    Raises:
        InputError: nothing, or a column that no query can use; names those that there are.
    """
    name = one.name
    if not one.quoted and name in MADE:
        check_needs(path, schema.names, MADE[name].needs)
        return MADE[name].kind
    if name not in schema.names:
        if known_column(name) is not None:
            check_needs(path, schema.names, [name])
        known = ", ".join(field.name for field in schema if kind_of_column(field) is not None)
        raise InputError(f"{path}: there is no column '{name}'; known: {known}; made from columns: {', '.join(MADE)}")
    field = schema.field(name)
    kind = kind_of_column(field)
    if kind is None:
        raise InputError(
            f"{path}: column '{name}' is {type_name(field.type)}; name one of numbers, truths or texts, by row or token"
        )
    return kind


def of_column(rows: pa.Table, name: str) -> Value:
    """A column's values: `[B]`, or `[N]` with the tokens of all rows behind one another.

    Raises:
        InputError: a row's list is not as long as its response.
    """
    column = one_chunk(rows[name])
    kind = kind_of_column(rows.schema.field(name))
    assert kind is not None
    if kind.type == "text":
        words = column.to_pylist()
        return texts(np.array(words, object), np.array([word is None for word in words], bool), Level.ROW)
    make = truths if kind.type == "truth" else numbers
    if kind.level is Level.ROW:
        return make(filled(column), null_rows(column) if column.null_count else np.False_, Level.ROW)
    lengths_B, own_B = token_lengths(rows), row_lengths(column)
    null_B = null_rows(column) if column.null_count else np.False_
    if odd := np.flatnonzero((own_B != lengths_B) & ~null_B).tolist():
        row = odd[0]
        raise InputError(
            f"row {row_name(rows, row)}: '{name}' has {own_B[row]} entries for {lengths_B[row]} tokens; "
            "a query wants one for each"
        )
    if not np.any(null_B):
        return make(flat_values(column), np.False_, Level.TOKEN)
    null_N = np.repeat(null_B, lengths_B)
    found_N = np.zeros(len(null_N), flat_values(column).dtype)
    found_N[~null_N] = flat_values(column)
    return make(found_N, null_N, Level.TOKEN)


def token_lengths(rows: pa.Table) -> np.ndarray:
    """`[B]` tokens of each response, by the longest list that has an entry for each; a null list says nothing."""
    lists = [field.name for field in rows.schema if is_list(field.type)]
    known = [name for name in lists if (column := known_column(name)) is not None and column.per == "token"]
    foreign = [name for name in lists if known_column(name) is None]
    found = [row_lengths(rows[name]) for name in known or foreign]
    return np.maximum.reduce(found) if found else np.zeros(rows.num_rows, np.int64)


def has_tokens(schema: pa.Schema) -> bool:
    """Whether the columns say how many tokens a row has."""
    return any(name in schema.names and is_list(schema.field(name).type) for name in ("loss_mask", "tokens"))


def columns_of(names: Iterable[Name]) -> list[str]:
    """Columns that names of a query read, where they are there."""
    found = list[str]()
    for one in names:
        if one.quoted or one.name not in MADE:
            found.append(one.name)
        else:
            found += (*MADE[one.name].needs, *MADE[one.name].optional)
    return found


def _is_text(kind: pa.DataType) -> bool:
    leaf = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(leaf) or pa.types.is_large_string(leaf))
