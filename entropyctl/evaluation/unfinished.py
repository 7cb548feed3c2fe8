"""What a run of an evaluation has finished, kept beside the file that will hold it, for the run that completes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import xxhash

from entropyctl.engines import Journal
from entropyctl.engines._sampling import Sampler
from entropyctl.table import new_record, write
from entropyctl.table.atomic import make_directory
from entropyctl.table.columns import flat_values
from entropyctl.table.paths import local_path
from entropyctl.table.rows import read_rows


class Unfinished:
    """Sampled responses (`.NAME.*.part`) and scored groups of them (`.NAME.*.scored/`), until `remove`.

    Whoever holds it holds the lock on them.
    """

    def __init__(self, place: str, key: str) -> None:
        """Open what an earlier run has left.

        Args:
            place: the file that will hold the responses.
            key: of the evaluation; another one's is not touched.

        Raises:
            Locked: another process is at it.
            OutputError: the directory cannot be written.
        """
        self.journal = Journal(place, (key,))
        file = Path(local_path(place))
        self._parts = file.with_name(f".{file.name}.{key}.scored")

    def sampler(self, sample: Sampler) -> Sampler:
        """A sampler that asks for the missing responses alone, and keeps each as it finishes."""
        return self.journal.sampler(sample, 0)

    def scored(self, rows: pa.Table, score: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """The scored rows of a group: those that an earlier run has made of the same responses, or new ones."""
        path = self._parts / f"{_digest(rows)}.parquet"
        if path.exists():
            return read_rows(str(path)).rows
        make_directory(str(self._parts))
        done = score(rows)
        with write(str(path), "scored", new_record("eval", {})) as sink:
            sink.put(0, done)
        return done

    def remove(self) -> None:
        """All is in its place: nothing of this is of use any more."""
        shutil.rmtree(self._parts, ignore_errors=True)
        self.journal.remove()

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.journal.close()


def _digest(rows: pa.Table) -> str:
    """Of the responses of a group."""
    total = xxhash.xxh3_128(repr([rows[name].to_pylist() for name in ("prompt_id", "sample", "answer")]).encode())
    total.update(flat_values(rows["tokens"]).tobytes())
    return total.hexdigest()
