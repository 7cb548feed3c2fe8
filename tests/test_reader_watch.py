"""A stage whose reader has gone ends at once, whatever it is doing: waiting for input, waiting for time, computing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, write_scored

ENV = os.environ | {"PYTHONPATH": str(ROOT)}
BUSY = """
import sys
from entropyctl import commands
from entropyctl.table import new_record, write
sys.path.insert(0, sys.argv[1])
from tests.conftest import CONTEXT, scored_rows
def busy():
    with write(None, "scored", new_record("busy", {}), context=CONTEXT, tee="kept.parquet") as sink:
        sink.put(1, scored_rows(1))
        while True:
            try:
                sum(range(1000))
            except OSError:
                pass
sys.exit(commands.run("busy", busy, []))
"""


def test_a_stage_that_waits_for_its_input(tmp_path: Path) -> None:
    stream = subprocess.run(
        [sys.executable, "-m", "entropyctl", "mask", "none", write_scored(tmp_path / "s.parquet")],
        env=ENV,
        capture_output=True,
        check=True,
    ).stdout
    stage = subprocess.Popen(
        [sys.executable, "-m", "entropyctl", "mask", "none", "--tee", "kept.parquet"],
        cwd=tmp_path,
        env=ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stage.stdin and stage.stdout and stage.stderr
    stage.stdin.write(stream[: stream.index(b"end_of_stream")])
    stage.stdin.flush()
    assert stage.stdout.read(4) == b"\xff\xff\xff\xff"  # its header: it has begun, and waits for the end of the stream
    stage.stdout.close()
    assert stage.wait(timeout=10) == 0
    with stage.stdin, stage.stderr:
        assert stage.stderr.read() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


def test_a_stage_that_computes(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    command = [sys.executable, "busy.py", str(ROOT)]
    stage = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert stage.stdout and stage.stderr
    assert stage.stdout.read(4) == b"\xff\xff\xff\xff"
    stage.stdout.close()
    assert stage.wait(timeout=10) == 0
    with stage.stderr:
        assert stage.stderr.read() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["busy.py"]


def test_a_reader_that_stays_is_left_in_peace(capfd: pytest.CaptureFixture[str]) -> None:
    from entropyctl.table.reader_watch import ReaderWatch

    reader, writer = os.pipe()
    watch = ReaderWatch(writer)
    assert sum(range(100000)) == 4999950000
    watch.stop()
    watch.stop()  # again is no fault
    os.close(reader)
    os.close(writer)
    assert capfd.readouterr().err == ""
