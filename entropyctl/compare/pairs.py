"""Two tables of the same rows, step by step, row beside row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import NamedTuple

import pyarrow as pa

from entropyctl.errors import MismatchError, UsageError
from entropyctl.table import Source, read
from entropyctl.table.columns import column_from
from entropyctl.table.conform import row_name
from entropyctl.table.header import merge_contexts
from entropyctl.table.overlay import check_related, keys_of
from entropyctl.table.schema import KEY


class Pair(NamedTuple):
    """Two tables, opened."""

    a: Source
    b: Source

    def steps(self) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        """Each step with both tables' rows, those of the second in the order of the first.

        Raises:
            MismatchError: one of them has a step or a row that the other lacks.
        """
        for one, other in zip_longest(self.a, self.b):
            if one is None or other is None or one.number != other.number:
                lacks, number = (self.b, one.number) if one is not None else (self.a, other.number)
                raise MismatchError(f"{lacks.path}: has no step {number} where the other has it; compare the same rows")
            yield one.number, one.rows, _in_order(one.rows, other.rows, self.a.path, self.b.path)


@contextmanager
def paired(base: Sequence[str], a: str, b: str, columns: Sequence[str], allow: tuple[str, ...]) -> Iterator[Pair]:
    """Two tables of the same rollouts.

    Args:
        base: what both are laid over; may be empty.
        a: the one.
        b: the other.
        columns: what is read where it is there.
        allow: fields of the context on which inputs may disagree.

    Raises:
        MismatchError: they are not of the same rollouts, or were sampled or scored otherwise.
        UsageError: two of them are standard input.
    """
    if "-" in base or a == b == "-":
        raise UsageError("standard input can be read once; write what both need to a file")
    with ExitStack() as stack:
        one, other = (stack.enter_context(read([*base, path], columns, (), allow)) for path in (a, b))
        check_related([(a, one.inputs[-1].header), (b, other.inputs[-1].header)])
        merge_contexts([(one.path, one.context), (other.path, other.context)], allow, "compare what was sampled alike")
        yield Pair(one, other)


def _in_order(rows: pa.Table, other: pa.Table, path: str, other_path: str) -> pa.Table:
    """The rows of the other in the order of the first."""
    if all(rows[name].equals(other[name]) for name in KEY):
        return other
    places = {key: i for i, key in enumerate(keys_of(other))}
    keys = keys_of(rows)
    if (missing := next((i for i, key in enumerate(keys) if key not in places), None)) is not None:
        raise MismatchError(f"{other_path}: lacks row {row_name(rows, missing)} of {path}; compare the same rows")
    if len(keys) < other.num_rows:
        extra = min(set(places).difference(keys))
        raise MismatchError(
            f"{path}: lacks row {row_name(other, places[extra])} of {other_path}; compare the same rows"
        )
    return other.take(column_from([places[key] for key in keys], pa.int64()))
