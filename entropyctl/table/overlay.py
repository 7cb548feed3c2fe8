"""Laying the columns of one input over the rows of another, by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from entropyctl.errors import MismatchError
from entropyctl.table.columns import column_from
from entropyctl.table.conform import check_keys, row_name
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
                f"{path}: was not made from the rollouts of {named[0][0]}; "
                "lay over one another only files of one rollout "
                "(to read files one after another, give a directory or a quoted pattern)"
            )


class _Reader(Protocol):
    def steps(self) -> Iterator[tuple[int, pa.Table]]: ...


class Overlay:
    """One input that is laid over the first."""

    def __init__(
        self, path: str, reader: _Reader, header: Header, base: Header, schema: pa.Schema, columns: list[str]
    ) -> None:
        self.path = path
        self._base = base
        self._schema = schema
        self.columns = columns
        self._reader = reader
        self._header = header
        self._sequence = None if isinstance(reader, ParquetSource) else reader.steps()
        self._pending: tuple[int, pa.Table] | None = None
        self._seen: set[int] = set()

    def apply(self, number: int, rows: pa.Table) -> pa.Table:
        """The step's rows with this input's columns.

        Rows that only one of the two has are left out where a stage dropped rows of the other on purpose.

        Raises:
            MismatchError: the keys do not agree.
        """
        own = self._step(number)
        self._seen.add(number)
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
        index = {key: i for i, key in enumerate(keys_of(own))}
        keys = keys_of(rows)
        check_keys(own, self.path)
        extra = set(index).difference(keys)
        if extra and not narrowed(self._base):
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
        if len(kept) < len(keys):
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
        while self._pending is None or self._pending[0] != number:
            if self._pending is not None and not narrowed(self._base):
                return None
            self._pending = next(self._sequence, None)  # a step that the narrowed first input lacks
            if self._pending is None:
                return None
        rows, self._pending = self._pending[1], None
        return rows

    def finish(self) -> None:
        """Read a stream to its end record; compare a file's digests.

        Raises:
            MismatchError: there is a step that the first input lacks, and nothing says why.
        """
        if isinstance(self._reader, ParquetSource):
            left = [number for number in self._reader.step_numbers if number not in self._seen]
            self._reader.verify()
        else:
            assert self._sequence is not None
            left = [self._pending[0]] if self._pending else []
            left += [number for number, _ in self._sequence]
        if left and not narrowed(self._base):
            raise MismatchError(f"{self.path}: has a step {left[0]} that is not in the first input")


def keys_of(rows: pa.Table) -> list[tuple[Any, Any, Any]]:
    """The key of each row."""
    step, prompt_id, sample = (rows[k].to_pylist() for k in KEY)
    return list(zip(step, prompt_id, sample, strict=True))
