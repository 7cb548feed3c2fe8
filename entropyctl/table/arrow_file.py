"""Arrow IPC files (the random-access form), which only other programs write, as a source of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from entropyctl.table.header import Header
from entropyctl.table.parquet_source import damaged


class ArrowFile:
    """One Arrow file, mapped into memory; a record batch is what a row group is to Parquet.

    Raises:
        InputError: the bytes are damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.header: Header | None = None
        self.end: dict[str, Any] = {}
        try:
            self._raw = pa.memory_map(path)
            self._reader = pa.ipc.open_file(self._raw)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None

    @property
    def schema(self) -> pa.Schema:
        """Columns and types, without metadata."""
        return self._reader.schema.remove_metadata()

    @property
    def groups(self) -> int:
        """How many record batches there are."""
        return int(self._reader.num_record_batches)

    def row_groups(self, indices: Sequence[int], columns: list[str]) -> pa.Table:
        """The rows of some record batches.

        Raises:
            InputError: the bytes are damaged.
        """
        try:
            batches = [self._reader.get_batch(index) for index in indices]
            rows = pa.Table.from_batches(batches).replace_schema_metadata(None).select(columns)
            rows.validate(full=True)
            return rows
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise damaged(self.path, error) from None

    def one_step(self, index: int) -> int | None:
        """Unknown: there are no statistics, the rows must be read."""
        return None

    def close(self) -> None:
        """Unmap the file."""
        self._raw.close()
