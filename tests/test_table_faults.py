"""What goes wrong with files, pipes and disks: one line, the right exit status, and nothing half-made."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.errors import EntropyctlError
from entropyctl.table import new_record, read, write

from .conftest import CONTEXT, ROOT, Cli, scored_rows, write_scored

ENTROPYCTL = f"{shlex.quote(sys.executable)} -m entropyctl"


def shell(line: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command line as a user types it; `entropyctl` is the one of this checkout."""
    line = line.replace("entropyctl ", f"{ENTROPYCTL} ")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, errors="replace", timeout=300, **options
    )


def start(*args: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A command that goes on while the test does something to it."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "entropyctl", *args], cwd=cwd, env=env, **options)


def wide_rows(step: int, rows: int = 64, tokens: int = 500) -> pa.Table:
    """A step that no pipe and no small disk can swallow: 300 kB of noise for each 32,000 tokens and column."""
    rng = np.random.default_rng(step)
    floats = pa.array(list(rng.random((rows, tokens), np.float32)), pa.list_(pa.float32()))
    return pa.table(
        {
            "step": pa.array([step] * rows, pa.int64()),
            "prompt_id": [f"p{i}" for i in range(rows)],
            "sample": pa.array([0] * rows, pa.int32()),
            "loss_mask": pa.array([[True] * tokens] * rows),
            "logprobs": floats,
            "entropies": floats,
        }
    )


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return write_scored(tmp_path / "wide.parquet", wide_rows(1), wide_rows(2), wide_rows(3))


@pytest.fixture
def stream(tmp_path: Path, scored: Path) -> bytes:
    """The scored table as it comes through a pipe."""
    buffer = io.BytesIO()
    with read([str(scored)]) as source, write("-", "scored", new_record("x", {}), source, stdout=buffer) as sink:
        for step in source:
            sink.put(step.number, step.rows)
    return buffer.getvalue()


def content(path: Path | None = None, stdin: bytes = b"") -> str:
    """All that a reader gets to see of a table, notices included."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        with read([str(path or "-")], stdin=io.BytesIO(stdin)) as source:
            steps = [(step.number, step.rows.to_pydict()) for step in source]
        return repr((steps, str(source.schema), source.context, source.chain, source.table, said.getvalue()))


def left(directory: Path) -> set[str]:
    """Every name in a directory, hidden ones too."""
    return {path.name for path in directory.iterdir()}


# Damage.


def test_a_truncated_file_is_never_read(cli: Cli, scored: Path, tmp_path: Path) -> None:
    data = scored.read_bytes()
    cut = tmp_path / "cut.parquet"
    for length in range(0, len(data), 61):
        cut.write_bytes(data[:length])
        with pytest.raises(EntropyctlError) as caught:
            content(cut)
        assert caught.value.exit_code == 3, length
    for length in (0, 3, 4, 8, len(data) // 2, len(data) - 8, len(data) - 1):
        cut.write_bytes(data[:length])
        ran = cli("mask", "none", "cut.parquet", "-o", "out.parquet")
        assert ran.code == 3, (length, ran)
        assert ran.line.startswith("entropyctl mask none: cut.parquet: is ")
    assert left(tmp_path) == {"scored.parquet", "cut.parquet"}


def test_a_truncated_stream_is_never_taken_for_a_whole_one(cli: Cli, stream: bytes, tmp_path: Path) -> None:
    # The last eight bytes say that nothing follows; without them the table is whole all the same.
    for length in range(0, len(stream) - 8, 61):
        with pytest.raises(EntropyctlError) as caught:
            content(stdin=stream[:length])
        assert caught.value.exit_code in (3, 4), length
    for length in (0, 1000, len(stream) // 2, len(stream) - 1000, len(stream) - 9):
        ran = cli("mask", "none", "-o", "out.parquet", stdin=stream[:length])
        assert ran.code == 4, (length, ran)
        assert "standard input: " in ran.line
    assert "out.parquet" not in left(tmp_path)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_no_flipped_bit_passes_silently(kind: str, scored: Path, stream: bytes, tmp_path: Path) -> None:
    data = scored.read_bytes() if kind == "file" else stream
    target = tmp_path / "flipped"

    def load(found: bytes) -> str:
        target.write_bytes(found)
        return content(target) if kind == "file" else content(stdin=found)

    good = load(data)
    rng = random.Random(2602)
    outcomes: Counter[str] = Counter()
    for bit in rng.sample(range(len(data) * 8), 400):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        try:
            outcomes["the same" if load(bytes(flipped)) == good else f"SILENT at bit {bit}"] += 1
        except EntropyctlError as error:
            assert error.exit_code in (3, 4), bit
            outcomes["refused"] += 1
    assert set(outcomes) <= {"the same", "refused"}, outcomes
    assert outcomes["refused"] > 200, outcomes


@pytest.mark.parametrize("where", ["a page", "the footer", "the end record"])
def test_a_flipped_bit_is_one_line(cli: Cli, scored: Path, where: str) -> None:
    data = bytearray(scored.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = {"a page": 300, "the footer": footer + 40, "the end record": data.index(b'"complete"') + 2}[where]
    data[at] ^= 4
    scored.write_bytes(data)
    ran = cli("mask", "none", "scored.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert "scored.parquet: is damaged (" in ran.line


def test_a_footer_that_would_end_the_process_is_proved_first(tmp_path: Path) -> None:
    # Without the proof this very bit ends the process inside the library, or hides the metadata; which of them
    # depends on the library's version, so each byte of the footer is tried.
    path = write_scored(tmp_path / "x.parquet", scored_rows(1, groups=1, samples=2, longest=3))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for at in range(footer, len(data) - 4, 3):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        with pytest.raises(EntropyctlError, match="is damaged"):
            content(path)


def test_a_file_without_its_end_record(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1).replace_schema_metadata({"entropyctl.schema": "scored/1"})
    pq.write_table(rows, tmp_path / "x.parquet")
    ran = cli("mask", "none", "x.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert "x.parquet: has no end record" in ran.line


@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [
        (b"", 4, "holds nothing at all; the stage before this one failed"),
        (b"PAR1 and so on", 3, "is Parquet, which no pipe can carry; give the file's path"),
        (b"ARROW1\0\0 and so on", 3, "is an Arrow file, not a stream"),
        (b"step,prompt_id\n1,a\n", 3, "is no Arrow stream; pipe the output of an entropyctl stage"),
        (b"\xff\xff\xff\xff\x10\x00\x00\x00garbage!", 4, "ended after 0 rows"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 50, 4, "ended after 0 rows"),
    ],
)
def test_what_is_no_stream_on_stdin(cli: Cli, tmp_path: Path, stdin: bytes, code: int, words: str) -> None:
    ran = cli("mask", "none", "-o", "out.parquet", stdin=stdin)
    assert ran.code == code, ran
    assert f"standard input: {words}" in ran.line or words in ran.line
    assert left(tmp_path) == set()


def test_a_stream_of_another_program_needs_our_metadata(cli: Cli) -> None:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, scored_rows().schema) as writer:
        writer.write_table(scored_rows())
    ran = cli("mask", "none", stdin=buffer.getvalue())
    assert (ran.code, "lacks entropyctl's metadata" in ran.line) == (3, True), ran


def test_two_streams_behind_one_another_are_not_one_table(cli: Cli, stream: bytes, tmp_path: Path) -> None:
    ran = cli("mask", "none", "-o", "out.parquet", stdin=stream + stream)
    assert (ran.code, "goes on after its end record" in ran.line) == (3, True), ran
    assert "out.parquet" not in left(tmp_path)


def test_a_stream_whose_marks_are_nonsense(cli: Cli) -> None:
    for mark in (
        b"{}",
        b"[]",
        b"not json",
        b'{"step": "x", "rows": 12}',
        b'{"step": 1, "rows": 11}',
        b'{"step": 2, "rows": 12}',
    ):
        buffer = io.BytesIO()
        rows = scored_rows(1)
        schema = rows.schema.with_metadata({"entropyctl.schema": "scored/1"})
        with pa.ipc.new_stream(buffer, schema) as writer:
            batch = rows.to_batches()[0]
            writer.write_batch(batch)
            writer.write_batch(batch.slice(0, 0), custom_metadata={b"entropyctl.end_of_step": mark})
        with pytest.raises(EntropyctlError) as caught:
            content(stdin=buffer.getvalue())
        assert caught.value.exit_code == 3, mark


@pytest.mark.parametrize("metadata", [b"[]", b"nonsense", b'{"sampling":'])
def test_a_header_that_is_nonsense(cli: Cli, metadata: bytes, tmp_path: Path) -> None:
    keys = {b"entropyctl.schema": b"scored/1", b"entropyctl.context": metadata, b"entropyctl.end_of_stream": b"{}"}
    pq.write_table(scored_rows().replace_schema_metadata(keys), tmp_path / "x.parquet")
    ran = cli("mask", "none", "x.parquet", "-o", "out.parquet")
    assert (ran.code, "its metadata is damaged" in ran.line) == (3, True), ran


# Inputs that are there, but are not what is wanted.


def test_a_directory_with_foreign_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_scored(tmp_path / "d" / "a.parquet")
    (tmp_path / "d" / "notes.txt").write_text("hello")
    ran = cli("mask", "none", "d", "-o", "out.parquet")
    assert (ran.code, "d/notes.txt: is not a Parquet file" in ran.line) == (3, True), ran


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.parquet", "nothing.parquet: no such file"),
        ("*.parquet", "*.parquet: no file matches"),
        ("empty", "empty: the directory holds no Parquet file"),
        ("notes.txt", "notes.txt: is neither Parquet nor Arrow"),
        ("zero", "zero: is empty"),
        ("gopher://x/y", "gopher://x/y: no file system is known for 'gopher://'"),
    ],
)
def test_inputs_that_are_not_there(cli: Cli, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "zero").touch()
    ran = cli("mask", "none", name, "-o", "out.parquet")
    assert (ran.code, words in ran.line) == (3, True), ran


def test_a_missing_column_names_the_stage_that_makes_it(cli: Cli, scored: Path) -> None:
    ran = cli("mask", "clip-v", "scored.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert ran.line == (
        "entropyctl mask clip-v: scored.parquet: column 'advantages' is missing; it is made by `entropyctl advantage`"
    )


def changed(name: str, row: int, value: Any, entry: int | None = None) -> pa.Table:
    """A step of which one value was changed, as another program might write it."""
    rows = scored_rows(1)
    values = rows[name].to_pylist()
    if entry is None:
        values[row] = value
    else:
        values[row][entry : entry + 1] = value
    kind = rows.schema.field(name).type
    kind = pa.list_(kind.value_type) if pa.types.is_list(kind) else kind
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, kind))


def retyped(name: str, values: pa.Array) -> pa.Table:
    rows = scored_rows(1)
    return rows.set_column(rows.column_names.index(name), name, values)


FAULTS = {
    "length": (changed("s_star", 5, [0.0, 0.0], 0), "row step 1, prompt p1, sample 1: 's_star' has"),
    "null": (changed("s_star", 5, None), "'s_star' is null, not computed; run `entropyctl score --policy` on it"),
    "null entry": (changed("s_star", 5, [None], 0), "row step 1, prompt p1, sample 1: 's_star' has a null entry"),
    "nan": (changed("s_star", 5, [float("nan")], 0), "row step 1, prompt p1, sample 1: 's_star' holds nan"),
    "inf": (changed("s_star", 5, [float("inf")], 0), "row step 1, prompt p1, sample 1: 's_star' holds inf"),
    "nan reward": (changed("reward", 5, float("nan")), "row step 1, prompt p1, sample 1: 'reward' holds nan"),
    "key twice": (changed("sample", 5, 0), "row step 1, prompt p1, sample 0 is there twice"),
    "null key": (changed("prompt_id", 5, None), "'prompt_id' is null; every row needs a key"),
    "null step": (changed("step", 5, None), "column 'step' has nulls"),
    "type": (retyped("response", pa.array([1.5] * 12)), "column 'response' is double; it must be string"),
    "overflow": (retyped("tokens", pa.array([[2**40]] * 12)), "a value does not fit the type of its column"),
    "name twice": (scored_rows(1).append_column("reward", pa.nulls(12)), "has two columns of the name 'reward'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_values_that_cannot_be_computed_with(cli: Cli, tmp_path: Path, fault: str) -> None:
    rows, words = FAULTS[fault]
    pq.write_table(rows, tmp_path / "f.parquet")
    base = scored_rows(1)
    ones = pa.array([[1.0] * len(tokens) for tokens in base["tokens"].to_pylist()], pa.list_(pa.float32()))
    pq.write_table(
        base.select(["step", "prompt_id", "sample"]).append_column("advantages", ones), tmp_path / "a.parquet"
    )
    ran = cli("mask", "quadrant", "a.parquet", "f.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert words in ran.err.splitlines()[-1], ran
    assert left(tmp_path) == {"f.parquet", "a.parquet"}


def test_files_that_were_sampled_differently(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    cold = CONTEXT | {"sampling": CONTEXT["sampling"] | {"temperature": 0.7}}
    write_scored(tmp_path / "d" / "a.parquet", scored_rows(1))
    write_scored(tmp_path / "d" / "b.parquet", scored_rows(2), context=cold)
    ran = cli("mask", "none", "d", "-o", "out.parquet")
    assert ran.code == 5, ran
    assert "d/b.parquet: sampling.temperature is 0.7, but d/a.parquet has 1.0" in ran.line
    assert "--allow-mismatch sampling.temperature" in ran.line
    assert cli("mask", "none", "d", "-o", "out.parquet", "--allow-mismatch", "tokenizer").code == 5
    ran = cli("mask", "none", "d", "-o", "out.parquet", "--allow-mismatch", "sampling.temperature")
    assert ran.code == 0, ran
    with read([str(tmp_path / "out.parquet")]) as source:
        assert source.context["sampling"]["temperature"] == 1.0
        assert source.chain[-1]["allowed_mismatches"] == [
            {"field": "sampling.temperature", "used": 1.0, "path": "d/b.parquet", "value": 0.7}
        ]


@pytest.mark.parametrize(
    ("change", "field"), [({"policies": {"0": "other"}}, "policies.0"), ({"tokenizer": "other"}, "tokenizer")]
)
def test_files_of_different_policies(cli: Cli, scored: Path, tmp_path: Path, change: dict, field: str) -> None:
    target = str(tmp_path / "o.parquet")
    with (
        read([str(scored)]) as source,
        write(target, "scored", new_record("x", {}), source, context=change, only=["reward"]) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
    ran = cli("mask", "none", "scored.parquet", "o.parquet", "-o", "out.parquet")
    assert (ran.code, f"o.parquet: {field} is other" in ran.line) == (5, True), ran
    for allowed in {field, field.partition(".")[0]}:  # the field itself, or the group that it is in
        ran = cli("mask", "none", "scored.parquet", "o.parquet", "-o", "out.parquet", "--allow-mismatch", allowed)
        assert ran.code == 0, ran


@pytest.mark.parametrize("field", ["sampling.temp", "polices", "policies.1", "sampling.", ""])
def test_a_field_that_no_input_has_cannot_be_allowed_to_differ(cli: Cli, scored: Path, field: str) -> None:
    ran = cli("mask", "none", "scored.parquet", "-o", "out.parquet", "--allow-mismatch", field)
    assert ran.code == 2, ran
    assert f"--allow-mismatch {field}: no input has this field; known: policies.0, sampling.logprob_kind, " in ran.line
    assert left(scored.parent) == {"scored.parquet"}


@pytest.mark.parametrize("field", ["policies", "tokenizer", "scoring.policies", "sampling"])
def test_what_a_stage_holds_against_its_policy_may_always_be_allowed(cli: Cli, scored: Path, field: str) -> None:
    assert cli("mask", "none", "scored.parquet", "-o", "out.parquet", "--allow-mismatch", field).code == 0


# What the command line gets wrong.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nosuch",), "there is no stage 'nosuch'; known: advantage, "),
        (("mask", "nosuch"), "there is no method 'nosuch'; known: archer, budget, clip-b, "),
        (
            ("mask", "clip-v", "--nosuch", "1"),
            "No such option: --nosuch; known: --allow-mismatch, --apply-to, ",
        ),
        (("mask", "clip-v", "--mu", "many", "x"), "'many' is not a valid float"),
        (("mask", "clip-v", "--sides", "left", "x"), "'left' is not one of 'low', 'high', 'both'"),
        (
            ("mask", "quadrant", "scored.parquet", "adv.parquet", "--keep", "up"),
            "there is no quadrant 'up'; known: pos-high, ",
        ),
        (("advantage", "grpo", "--keep-groups", "0", "x"), "0 is not in the range x>=1"),
        (("mask", "none", "-", "-"), "only one input can be standard input"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(
    cli: Cli, scored: Path, args: tuple[str, ...], words: str
) -> None:
    if "adv.parquet" in args:
        assert cli("advantage", "grpo", "scored.parquet", "--only-new", "-o", "adv.parquet").code == 0
    ran = cli(*args)
    assert (ran.code, words in ran.line) == (2, True), ran


def test_binary_is_not_written_to_a_terminal(scored: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start("mask", "none", "scored.parquet", cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    os.close(theirs)
    with contextlib.suppress(OSError):
        assert os.read(ours, 100) == b""
    os.close(ours)
    assert process.returncode == 2
    assert b"will not write binary data to a terminal; give -o FILE" in said


def test_no_input_on_a_terminal_is_said_at_once(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start("mask", "none", "-o", "x.parquet", cwd=tmp_path, stdin=theirs, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert (process.returncode, b"no input; name a file" in said) == (2, True)


# Processes that die, and readers that have enough.

PRODUCER = """
import os, sys
from entropyctl.table import read, write, new_record
with read(["wide.parquet"]) as source, write("-", "scored", new_record("x", {}), source) as sink:
    for step in source:
        sink.put(step.number, step.rows)
        if step.number == 2:
            os.kill(os.getpid(), 9)
"""


def test_a_producer_that_is_killed_leaves_no_file(wide: Path, tmp_path: Path) -> None:
    (tmp_path / "producer.py").write_text(PRODUCER)
    ran = shell(f"{sys.executable} producer.py | entropyctl mask none -o out.parquet", tmp_path)
    assert ran.returncode == 4, ran
    # found while its last rows were masked here, or when more were asked for
    assert "the stage before this one died" in ran.stderr
    assert left(tmp_path) == {"wide.parquet", "producer.py"}


def test_a_failure_runs_down_the_whole_pipe(scored: Path, tmp_path: Path) -> None:
    ran = shell(
        "entropyctl mask clip-v scored.parquet | entropyctl mask none --tee kept.parquet"
        " | entropyctl mask none -o out.parquet;"
        ' echo "${PIPESTATUS[@]}"',
        tmp_path,
    )
    assert ran.stdout == "3 4 4\n", ran
    assert left(tmp_path) == {"scored.parquet"}


def test_a_reader_that_has_enough_is_no_fault(wide: Path, tmp_path: Path) -> None:
    ran = shell(
        'entropyctl mask none wide.parquet --tee kept.parquet | head -c 100 > some; echo "${PIPESTATUS[@]}"', tmp_path
    )
    assert ran.stdout == "0 0\n", ran
    assert ran.stderr == ""
    assert left(tmp_path) == {"wide.parquet", "some"}


TRAINING = """
import sys
from entropyctl import commands
from entropyctl.reporting import report
def train():
    for step in range(20000):  # more than a pipe holds
        report("update", {"step": step}, as_json=sys.argv[1] == "json", quiet=False, stdout_is_data=False)
    open("trained", "w").close()
sys.exit(commands.run("update", train, []))
"""


@pytest.mark.parametrize("pipe", ["json | head -c 10", "text 2>&1 | head -c 10"])
def test_work_goes_on_when_nobody_reads_its_reports(tmp_path: Path, pipe: str) -> None:
    (tmp_path / "training.py").write_text(TRAINING)
    ran = shell(f'{sys.executable} training.py {pipe}; echo " ${{PIPESTATUS[@]}}"', tmp_path)
    assert (ran.stdout[10:], ran.stderr) == (" 0 0\n", ""), ran
    assert (tmp_path / "trained").exists()


def test_help_into_a_closed_pipe_is_no_fault(tmp_path: Path) -> None:
    for command in ("entropyctl --help", "entropyctl mask --help", "entropyctl mask clip-v --help"):
        ran = shell(f'{command} | true; echo "${{PIPESTATUS[@]}}"', tmp_path)
        assert (ran.stdout, ran.stderr) == ("0 0\n", ""), ran


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_takes_unfinished_files_away(stream: bytes, tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "out.parquet").write_bytes(b"old")
    process = start("mask", "none", "-o", "out.parquet", cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin and process.stderr
    process.stdin.write(stream[: len(stream) // 2])
    process.stdin.flush()
    while not list(tmp_path.glob(".out.parquet.*")):  # the output is open, and the rest of the input does not come
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.stderr.read()
    assert process.wait(timeout=60) == code
    process.stdin.close()
    process.stderr.close()
    assert left(tmp_path) == {"scored.parquet", "out.parquet"}
    assert (tmp_path / "out.parquet").read_bytes() == b"old"


WRITER = """
from entropyctl.cli import main
while True:
    for name in ("wide", "scored"):
        try:
            main(["mask", "none", f"{name}.parquet", "-o", "out.parquet", "-q"])
        except SystemExit as ended:
            assert ended.code == 0
    print("both", flush=True)
"""


def test_killed_at_any_moment_the_old_file_or_the_new_one_is_there(wide: Path, scored: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows_seen: Counter[int] = Counter()
    for _ in range(20):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"both\n"
        time.sleep(rng.random() * 0.1)  # any moment will do
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
        with read([str(tmp_path / "out.parquet")]) as source:
            rows_seen[sum(step.rows.num_rows for step in source)] += 1
    assert set(rows_seen) == {24, 192}
    assert len(left(tmp_path)) > 3  # some were killed while they wrote


# Outputs that cannot be written.


@pytest.mark.parametrize("output", ["wide.parquet/x.parquet", "nowhere/x.parquet", ".", "/proc/x.parquet"])
def test_an_output_that_cannot_be_written_is_known_before_any_work(cli: Cli, wide: Path, output: str) -> None:
    ran = cli("mask", "none", "-o", output, "wide.parquet")
    assert (ran.code, f"{output}: cannot be written (" in ran.line) == (6, True), ran


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_stream_into_a_full_device(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    ran = shell("entropyctl mask none wide.parquet > /dev/full", tmp_path)
    assert ran.returncode == 6, ran
    assert ran.stderr == (
        "entropyctl mask none: standard output: the disk is full; free some space "
        "(a file that was there before is intact)\n"
    )
    ran = shell("entropyctl mask none wide.parquet -o /dev/full", tmp_path)
    assert (ran.returncode, "/dev/full: the disk is full" in ran.stderr) == (6, True), ran


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_old_file_intact(wide: Path, small_disk: Path, tmp_path: Path) -> None:
    old = write_scored(small_disk / "out.parquet").read_bytes()
    ran = shell("entropyctl mask none wide.parquet -o disk/out.parquet", tmp_path)
    assert ran.returncode == 6, ran
    assert ran.stderr.splitlines() == [
        "entropyctl mask none: disk/out.parquet: the disk is full; free some space "
        "(a file that was there before is intact)"
    ]
    assert (small_disk / "out.parquet").read_bytes() == old
    assert left(small_disk) == {"out.parquet"}
    ran = shell(
        "entropyctl mask none wide.parquet --tee disk/out.parquet | entropyctl mask none -o other.parquet -q;"
        ' echo "${PIPESTATUS[@]}"',
        tmp_path,
    )
    assert ran.stdout == "6 4\n", ran  # the stage after it does not take half a table for a whole one
    assert "other.parquet" not in left(tmp_path)


def test_a_limit_on_file_size_leaves_the_old_file_intact(wide: Path, tmp_path: Path) -> None:
    old = write_scored(tmp_path / "out.parquet").read_bytes()
    ran = shell("ulimit -f 300; entropyctl mask none wide.parquet -o out.parquet", tmp_path)
    assert (ran.returncode, "out.parquet: cannot be written (File too large)" in ran.stderr) == (6, True), ran
    assert (tmp_path / "out.parquet").read_bytes() == old
    assert left(tmp_path) == {"wide.parquet", "out.parquet"}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = ROOT / "tests" / "bench" / "mask_memory.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--steps", "3", "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert ran.returncode == 0, ran
    once, four_times = (float(line.split()[-2]) for line in ran.stdout.splitlines())
    assert four_times < 1.2 * once, ran.stdout
