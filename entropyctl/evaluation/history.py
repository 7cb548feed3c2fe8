"""Evaluations that have been made, one file each in a directory, which any number of processes may add to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.table import write
from entropyctl.table.atomic import cannot_write, make_directory
from entropyctl.table.header import Context, Record
from entropyctl.table.parquet_source import open_parquet
from entropyctl.table.paths import is_remote, local_path
from entropyctl.table.rows import read_rows

LOCK = ".lock"
RESPONSES = "_responses"  # a name that tables read from the directory leave out


@dataclass(frozen=True)
class Entry:
    """An evaluation of the history."""

    path: Path

    @cached_property
    def record(self) -> Record:
        """What it says of how it was made, without reading its rows."""
        header = open_parquet(str(self.path), keep_open=False).header
        return header.chain[-1] if header and header.chain else {}

    @property
    def facts(self) -> dict[str, Any]:
        """What was evaluated: series, key, n, version of the policy."""
        return dict(self.record.get("evaluation", {}))

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers, as `laws.summary.summarise` gave them.

        Raises:
            InputError: it is no evaluation.
        """
        if "summary" not in self.record:
            raise InputError(f"{self.path}: is no evaluation, but is named like one; move it out of the history")
        return dict(self.record["summary"])

    @property
    def alerts(self) -> dict[str, bool]:
        """The rules that were asked of it, and whether each held."""
        return dict(self.record.get("alerts", {}))

    @cached_property
    def rows(self) -> pa.Table:
        """The counts by problem."""
        return read_rows(str(self.path)).rows


class History:
    """A directory of evaluations.

    A file is named by time, series and key (`20261128T020000.123456Z-SERIES-KEY-ID.parquet`), so that the names alone
    say which evaluations there are; it is written under another name and renamed, and never changed. The series is what
    one looks at over time: one task, and the place where one policy's versions lie. The key is of one policy on a task.
    """

    def __init__(self, directory: str) -> None:
        """Make the directory, unless it is there.

        Raises:
            OutputError: that fails.
            UsageError: it is on another machine, where nobody else can be kept from adding meanwhile.
        """
        if is_remote(place := local_path(directory)):
            raise UsageError(f"--history {directory}: must be a local directory; name one")
        make_directory(place)
        self.directory = Path(place)

    def responses(self, series: str, key: str) -> str:
        """The file of an evaluation's scored responses; its directory is made.

        Raises:
            OutputError: that fails.
        """
        make_directory(str(self.directory / RESPONSES))
        return str(self.directory / RESPONSES / f"{series}-{key}.parquet")

    def series(self, series: str) -> list[Entry]:
        """The evaluations of a series, oldest first."""
        return self._entries(f"*-{series}-*.parquet")

    def done(self, key: str, n: int) -> Entry | None:
        """The newest evaluation of this key, if it has at least n responses to each problem."""
        found = self._entries(f"*-{key}-*.parquet")
        return found[-1] if found and int(found[-1].facts.get("n", 0)) >= n else None

    def _entries(self, pattern: str) -> list[Entry]:
        return [Entry(path) for path in sorted(self.directory.glob(pattern)) if not path.name.startswith(".")]

    @contextmanager
    def adding(self) -> Iterator[None]:
        """What is seen of the history in here is not added to by others meanwhile; they wait.

        Raises:
            OutputError: the directory cannot be written.
        """
        path = self.directory / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(
        self,
        evals: pa.Table,
        record: Record,
        summary: dict[str, Any],
        *,
        context: Context,
        chain: Sequence[Record] = (),
        inputs: Sequence[dict[str, Any]] = (),
    ) -> Path:
        """Add an evaluation: a file that is whole or not there.

        Args:
            evals: the counts by problem.
            record: how they were made, with `evaluation`: at least `series` and `key`.
            summary: its numbers, for those who will read the record alone.
            context: of the responses.
            chain: records of what it was made from.
            inputs: what the record says of that.

        Raises:
            OutputError: the directory cannot be written.
        """
        facts = record["evaluation"]
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.directory / f"{moment}-{facts['series']}-{facts['key']}-{record['id'][:8]}.parquet"
        with write(str(path), "evals", record, context=context, chain=chain, inputs=inputs) as sink:
            sink.put(0, evals, rows_read=sum(evals["n"].to_pylist()))
            sink.summarise(**summary)
        return path
