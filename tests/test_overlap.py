"""What is read and written while something else is computed: the same values and faults, and nothing left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.ahead import ahead
from entropyctl.errors import OutputError
from entropyctl.table import new_record, read, write
from entropyctl.table.parquet_sink import ParquetSink

from .test_table_faults import shell


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Any:
        for number, event in enumerate(made):
            event.set()
            yield number

    source = ahead(items())
    assert next(source) == 0
    assert made[1].wait(60)  # though nobody has asked for it
    assert list(source) == [1, 2]


def test_what_making_an_item_raises_asking_for_it_raises() -> None:
    def items() -> Any:
        yield 1
        raise OutputError("file: fault; remedy")

    source = ahead(items())
    assert next(source) == 1
    with pytest.raises(OutputError, match="file: fault; remedy"):
        next(source)


def test_who_stops_asking_leaves_no_thread() -> None:
    before = threading.active_count()
    source = ahead(iter(range(100)))
    next(source)
    source.close()
    assert threading.active_count() == before


def steps_file(path: Path, steps: int = 4) -> Path:
    with write(str(path), "rollouts", new_record("rollout", {})) as sink:
        for number in range(steps):
            columns = {"step": [number] * 3, "prompt_id": ["a"] * 3, "sample": [0, 1, 2]}
            columns |= {"prompt_tokens": [[1]] * 3, "tokens": [[number, 2]] * 3}
            sink.put(number, pa.table(columns))
    return path


def test_overlapping_changes_no_value(tmp_path: Path) -> None:
    given = steps_file(tmp_path / "in.parquet")
    found = []
    for overlap in (False, True):
        out = tmp_path / f"{overlap}.parquet"
        with (
            read([str(given)], overlap=overlap) as source,
            write(str(out), "rollouts", new_record("rollout", {}), source, overlap=overlap) as sink,
        ):
            for step in source:
                sink.put(step.number, step.rows)
        with read([str(out)]) as again:
            found.append(pa.concat_tables([step.rows for step in again]))
    assert found[0].equals(found[1])
    assert found[0]["tokens"].to_pylist() == [[step, 2] for step in range(4) for _ in range(3)]


def test_a_fault_while_writing_is_told_with_the_next_step_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk itself fills in test_table_faults; here it does in the thread."""
    given = steps_file(tmp_path / "in.parquet")
    original = ParquetSink._write

    def full(self: ParquetSink, rows: pa.Table) -> None:
        if self._rows > 3:
            raise OutputError(f"{self.path}: cannot be written (No space left on device); free some")
        original(self, rows)

    monkeypatch.setattr(ParquetSink, "_write", full)
    before, put = threading.active_count(), []
    with (
        pytest.raises(OutputError, match="No space left"),
        read([str(given)], overlap=True) as source,
        write(str(tmp_path / "out.parquet"), "rollouts", new_record("rollout", {}), source, overlap=True) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
            put.append(step.number)
    assert put == [0, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]
    assert threading.active_count() == before


def test_score_reports_a_disk_that_fills_in_one_line(tmp_path: Path) -> None:
    """The file may have 16 KiB; four steps of random tokens need more."""
    rng = np.random.default_rng(0)
    with write(str(tmp_path / "in.parquet"), "rollouts", new_record("rollout", {})) as sink:
        for number in range(4):
            columns = {"step": [number] * 3, "prompt_id": ["a"] * 3, "sample": [0, 1, 2], "answer": ["1"] * 3}
            columns |= {"tokens": list(rng.integers(0, 2**30, (3, 2000))), "response": ["1", "2", "1"]}
            sink.put(number, pa.table(columns))
    ran = shell("ulimit -f 16; entropyctl score in.parquet --reward exact -o out.parquet", tmp_path)
    assert ran.returncode == 6, ran
    assert ran.stderr.count("\n") == 1 and "out.parquet: cannot be written" in ran.stderr, ran
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]
