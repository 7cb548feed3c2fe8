"""One row out of an input of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.show.row_names import Wanted
from entropyctl.table import check_needs, read
from entropyctl.table.schema import KEY
from entropyctl.table.source import open_argument
from entropyctl.table.stream_source import StreamSource

Loader = Callable[[list[str]], pa.Table]


def find_row(paths: list[str], wanted: Wanted) -> pa.Table:
    """The row, as a table of one row; several inputs are laid over one another.

    Raises:
        InputError: there is no such row.
    """
    before = 0
    for names, load in _loaders(paths):
        if wanted.key is not None:
            check_needs(" + ".join(paths), names, KEY)
        keys = load([name for name in KEY if name in names] or names[:1])
        at = _position(keys, wanted, before)
        if at is not None:
            return load(names).slice(at, 1)
        before += keys.num_rows
    what = f"number {wanted.number}" if wanted.key is None else ":".join(map(str, wanted.key))
    raise InputError(f"{' + '.join(paths)}: has no row {what} among its {before}; rows are STEP:PROMPT_ID:SAMPLE")


def _loaders(paths: list[str]) -> Iterator[tuple[list[str], Loader]]:
    """For each group of rows its columns, and how to read some of them."""
    if len(paths) > 1:
        with read(paths) as source:
            for step in source:
                yield step.rows.column_names, step.rows.select
        return
    entry = open_argument(paths[0])
    try:
        if isinstance(entry.reader, StreamSource):
            for _, rows in entry.reader.steps():
                yield rows.column_names, rows.select
        else:
            for file in entry.reader.files:
                for index in range(file.groups):
                    yield file.schema.names, partial(file.row_groups, [index])
    finally:
        entry.reader.close()


def _position(keys: pa.Table, wanted: Wanted, before: int) -> int | None:
    if wanted.number is not None:
        return wanted.number - before if wanted.number < before + keys.num_rows else None
    rows = zip(*(keys[name].to_pylist() for name in KEY), strict=True)
    return next((i for i, key in enumerate(rows) if wanted.means(key)), None)
