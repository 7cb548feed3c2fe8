"""A table opened for queries: only the columns that they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from entropyctl.query.selection import Query
from entropyctl.table import Source, read


@contextmanager
def reading(
    paths: Sequence[str], asked: Sequence[Query | None], columns: Sequence[str] | None, needs: Sequence[str] = ()
) -> Iterator[Source]:
    """Inputs, laid over one another by key, with the columns that queries read.

    Args:
        paths: as `read` takes them.
        asked: the queries; None asks nothing.
        columns: what else is read where it is there; None is all.
        needs: columns that must be there.
    """
    with read(paths, columns=(), needs=needs) as source:
        if columns is not None:
            # How many tokens a row has must be known also where what is asked for is null.
            lengths = next((name for name in ("loss_mask", "tokens") if name in source.available.names), "tokens")
            columns = [*columns, lengths, *(name for query in asked if query is not None for name in query.columns)]
        source.keep(columns)
        yield source
