"""A query on a table: checked against its columns before any row is read, then asked step by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.errors import UsageError
from entropyctl.query.evaluate import WORDS, evaluate, kind_of, names_in
from entropyctl.query.language import Name, Tree, parse, parse_list
from entropyctl.query.names import columns_of, kind_of_name, token_lengths, value_of_name
from entropyctl.query.value import Array, Kind, Level, Type, Value, spread


class Selection(NamedTuple):
    """Which rows of a step are selected, and which of their tokens."""

    rows: Array  # [B] bool
    tokens: Array  # [N] bool, the rows behind one another
    lengths: Array  # [B] tokens of each row

    def counts(self) -> Array:
        """`[B]` selected tokens of each row."""
        ends_B = np.cumsum(self.lengths)
        sums = np.concatenate([[0], np.cumsum(self.tokens)])
        return sums[ends_B] - sums[ends_B - self.lengths]


class Query(NamedTuple):
    """A condition or a quantity over columns."""

    flag: str
    text: str  # as it was typed
    tree: Tree

    @property
    def columns(self) -> list[str]:
        """Columns that it reads, where they are there."""
        return columns_of(names_in(self.tree))

    def kind(self, schema: pa.Schema, path: str) -> Kind:
        """What it stands for in a table with these columns.

        Raises:
            InputError: a column is missing, or holds what no query can use.
            UsageError: an operator stands between things that it does not take.
        """
        return kind_of(self.tree, lambda name: kind_of_name(name, schema, path), self.flag)

    def values(self, rows: pa.Table, path: str) -> Value:
        """What it is for the rows of a step; may be one value for all, `[B]` or `[N]`."""
        return evaluate(self.tree, lambda name: value_of_name(name, rows, path), token_lengths(rows))

    def check(self, schema: pa.Schema, path: str, *types: Type) -> Kind:
        """Stop unless it stands for one of these in a table with these columns.

        Raises:
            InputError: a column is missing, or holds what no query can use.
            UsageError: it stands for something else.
        """
        kind = self.kind(schema, path)
        if kind.type not in types:
            wanted = " or ".join(WORDS[kind] for kind in types)
            raise UsageError(f"{self.flag} {self.text}: is {WORDS[kind.type]}, and must be {wanted}")
        return kind


def query(flag: str, text: str) -> Query:
    """A condition or a quantity.

    Raises:
        UsageError: the text does not follow the grammar.
    """
    return Query(flag, text, parse(flag, text))


def column(flag: str, name: str) -> Query:
    """A column, whatever characters its name has."""
    return Query(flag, name, Name(name, True, name))


def queries(flag: str, text: str) -> list[Query]:
    """Quantities with commas between them.

    Raises:
        UsageError: the text does not follow the grammar.
    """
    return [Query(flag, tree.text, tree) for tree in parse_list(flag, text)]


def select(where: Query | None, rows: pa.Table, path: str) -> Selection:
    """The rows and tokens of a step of which a condition is true; all of them without one.

    A condition that names nothing of tokens selects rows with all their tokens. Any other is asked of each token, a
    row's number counting for each of its tokens; it selects tokens, and the rows of which it selects one.
    """
    lengths_B = token_lengths(rows)
    if where is None:
        return Selection(np.ones(rows.num_rows, bool), np.ones(lengths_B.sum(), bool), lengths_B)
    value = where.values(rows, path)
    chosen = value.data & ~value.null
    if value.level is Level.TOKEN:
        found = Selection(np.ones(rows.num_rows, bool), chosen, lengths_B)
        return found._replace(rows=found.counts() > 0)
    chosen_B = np.broadcast_to(chosen, rows.num_rows)
    return Selection(chosen_B, np.repeat(chosen_B, lengths_B), lengths_B)


def numbers_of_tokens(quantity: Query, rows: pa.Table, path: str) -> tuple[Array, Array]:
    """A quantity for each token, and where it is null: `[N]` both; a row's counts for each of its tokens."""
    lengths_B = token_lengths(rows)
    value = spread(quantity.values(rows, path), lengths_B)
    shape = (int(lengths_B.sum()),)
    return np.broadcast_to(value.data, shape), np.broadcast_to(value.null, shape)
