"""A stage whose neighbour has gone ends at once, whatever it is doing: waiting for input or time, or computing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, scored_rows, write_scored

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


@pytest.mark.deadline
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


@pytest.mark.deadline
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
    from entropyctl.table.pipe_watch import PipeWatch

    reader, writer = os.pipe()
    watch = PipeWatch(writer, pytest.fail)
    assert sum(range(100000)) == 4999950000
    watch.stop()
    watch.stop()  # again is no fault
    os.close(reader)
    os.close(writer)
    assert capfd.readouterr().err == ""


LEARNER = """
import sys, time
from entropyctl import commands
from entropyctl.table import read
def learn():
    with read(["-"]) as source:
        for step in source:
            print("at work on", step.number, file=sys.stderr, flush=True)
            try:
                time.sleep(float(sys.argv[1]))
            except Exception:
                print("swallowed", file=sys.stderr)
    print("done", file=sys.stderr)
sys.exit(commands.run("learn", learn, []))
"""


@pytest.fixture
def stream(tmp_path: Path) -> bytes:
    """Two steps as a pipe carries them."""
    rows = write_scored(tmp_path / "s.parquet", scored_rows(1), scored_rows(2))
    command = [sys.executable, "-m", "entropyctl", "mask", "none", rows]
    return subprocess.run(command, env=ENV, capture_output=True, check=True).stdout


DIER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from entropyctl.table import new_record, write
from tests.conftest import CONTEXT, scored_rows
with write(None, "scored", new_record("die", {}), context=CONTEXT) as sink:
    sink.put(1, scored_rows(1))
    sys.stdin.read()
    os._exit(9)
"""


@pytest.mark.deadline
def test_a_stage_whose_producer_dies_abandons_the_step_that_it_holds(tmp_path: Path) -> None:
    """All of the first step has come, and nothing else: who computes on it would not look at the pipe for an hour."""
    (tmp_path / "die.py").write_text(DIER)
    (tmp_path / "learn.py").write_text(LEARNER)
    producer = subprocess.Popen(
        [sys.executable, "die.py", str(ROOT)], cwd=tmp_path, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stage = subprocess.Popen(
        [sys.executable, "learn.py", "3600"], cwd=tmp_path, env=ENV, stdin=producer.stdout, stderr=subprocess.PIPE
    )
    assert stage.stderr and producer.stdin and producer.stdout
    with stage.stderr, producer.stdin, producer.stdout:
        assert stage.stderr.readline() == b"at work on 1\n"
        producer.stdin.close()
        assert stage.wait(timeout=10) == 4
        assert b"died while its last step was at work here, which is abandoned" in stage.stderr.read()
    assert producer.wait() == 9


def test_a_stage_whose_producer_has_ended_well_finishes_its_work(tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "learn.py").write_text(LEARNER)
    command = [sys.executable, "learn.py", "1.5"]  # longer than the signal takes to be sent again
    stage = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = stage.communicate(stream)
    assert (stage.returncode, err.decode().splitlines()) == (0, ["at work on 1", "at work on 2", "done"])


DESTRUCTOR = """
import os, signal, sys
from entropyctl import commands, ending
class Held:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))  # an exception that is raised here is dropped
def hold():
    held = Held()
    del held
    while int(sys.argv[1]) != signal.SIGURG:
        pass
if int(sys.argv[1]) == signal.SIGURG:
    def gone(number, frame):
        raise ending.WriterGone
    signal.signal(signal.SIGURG, gone)
sys.exit(commands.run("hold", hold, []))
"""


@pytest.mark.parametrize(("number", "code"), [(15, 128 + 15), (1, 128 + 1), (2, 128 + 2), (23, 0)])
def test_an_ending_that_meets_a_destructor_is_neither_lost_nor_printed(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "hold.py").write_text(DESTRUCTOR)
    ran = subprocess.run(
        [sys.executable, "hold.py", str(number)], cwd=tmp_path, env=ENV, capture_output=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (code, b"")
