"""Laying the columns of one input over the rows of another, by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from entropyctl.errors import MismatchError
from entropyctl.table.columns import column_from
from entropyctl.table.conform import row_name
from entropyctl.table.header import Header
from entropyctl.table.parquet_source import ParquetSource
from entropyctl.table.provenance import narrowed, related
from entropyctl.table.schema import KEY


def check_related(named: Sequence[tuple[str, Header]]) -> None:
    """Stop where an input was not made from the same rollouts as the first.

    Raises:
        MismatchError: names both.
    """
    for path, header in named[1:]:
        if not related(named[0][1], header):
            raise MismatchError(
                f"{path}: was not made from the rollouts of {named[0][0]}; lay over one another only files of one rollout"
            )


class _Reader(Protocol):
    def steps(self) -> Iterator[tuple[int, pa.Table]]: ...


class Overlay:
    """One input that is laid over the first."""

    def __init__(self, path: str, reader: _Reader, header: Header, schema: pa.Schema, columns: list[str]) -> None:
        self.path = path
        self._schema = schema
        self.columns = columns
        self._reader = reader
        self._header = header
        self._sequence = None if isinstance(reader, ParquetSource) else reader.steps()
        self._pending: tuple[int, pa.Table] | None = None

    def apply(self, number: int, rows: pa.Table) -> pa.Table:
        """The step's rows with this input's columns.

        Rows that this input lacks are left out where a stage of its chain dropped rows on purpose.

        Raises:
            MismatchError: the keys do not agree.
        """
        own = self._step(number)
        if own is None and not narrowed(self._header):
            raise MismatchError(f"{self.path}: has no step {number}; lay over one another files of the same steps")
        if own is None:
            own = pa.Table.from_batches([], self._schema)
        missing = [k for k in KEY if k not in own.column_names or k not in rows.column_names]
        if missing:
            raise MismatchError(
                f"{self.path}: lacks the key column '{missing[0]}'; files are laid over one another by key"
            )
        if own.num_rows == rows.num_rows and all(own[k].equals(rows[k]) for k in KEY):
            return self._laid(rows, own)
        return self._aligned(rows, own)

    def _aligned(self, rows: pa.Table, own: pa.Table) -> pa.Table:
        index = {key: i for i, key in enumerate(_keys(own))}
        keys = _keys(rows)
        extra = set(index).difference(keys)
        if extra:
            row = index[min(extra)]
            raise MismatchError(
                f"{self.path}: row {row_name(own, row)} is not in the first input; use files of one rollout"
            )
        kept = [i for i, key in enumerate(keys) if key in index]
        if len(kept) < len(keys) and not narrowed(self._header):
            row = next(i for i, key in enumerate(keys) if key not in index)
            raise MismatchError(
                f"{self.path}: lacks row {row_name(rows, row)} of the first input; use files of one rollout"
            )
        rows = rows.take(column_from(kept, pa.int64()))
        return self._laid(rows, own.take(column_from([index[keys[i]] for i in kept], pa.int64())))

    def _laid(self, rows: pa.Table, own: pa.Table) -> pa.Table:
        for name in self.columns:
            rows = rows.append_column(name, own[name])
        return rows

    def _step(self, number: int) -> pa.Table | None:
        if isinstance(self._reader, ParquetSource):
            return self._reader.step(number)
        assert self._sequence is not None
        if self._pending is None:
            self._pending = next(self._sequence, None)
        if self._pending is None or self._pending[0] != number:
            return None
        rows, self._pending = self._pending[1], None
        return rows

    def finish(self) -> None:
        """Read a stream to its end record; compare a file's digests."""
        if isinstance(self._reader, ParquetSource):
            self._reader.verify()
        elif self._sequence is not None:
            for number, _ in self._sequence:
                raise MismatchError(f"{self.path}: has a step {number} that is not in the first input")


def _keys(rows: pa.Table) -> list[tuple[Any, Any, Any]]:
    step, prompt_id, sample = (rows[k].to_pylist() for k in KEY)
    return list(zip(step, prompt_id, sample, strict=True))
