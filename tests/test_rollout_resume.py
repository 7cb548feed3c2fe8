"""Rollouts that are cut into shards, and rollouts that were interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from entropyctl.engines import Journal, Request, Response, Sampling, uniforms
from entropyctl.errors import Locked, OutputError, UsageError
from entropyctl.prompts import Problem, Shard, parse_shard
from entropyctl.table import read

from .conftest import ROOT, Cli


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = ({"prompt_id": f"p{i}", "prompt": f"count to {i}"} for i in range(5))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> dict[tuple, tuple]:
    with read([str(path)]) as source:
        rows = [row for step in source for row in step.rows.to_pylist()]
    return {(r["step"], r["prompt_id"], r["sample"]): (r["tokens"], r["rollout_logprobs"]) for r in rows}


# --- shards --------------------------------------------------------------------------------------------------------


def test_every_problem_lies_in_one_shard() -> None:
    problems = [Problem(f"p{i}", "x") for i in range(7)]
    parts = [Shard(i, 3).part(problems) for i in range(3)]
    assert sorted(p.prompt_id for part in parts for p in part) == [p.prompt_id for p in problems]
    assert [len(part) for part in parts] == [3, 2, 2]


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "a/b", "1/0", "0/0", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be I/N with I from 0 to N - 1"):
        parse_shard(text)


def test_auto_is_what_the_launcher_says() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}
    assert parse_shard("auto", array) == Shard(2, 4)
    assert parse_shard("auto", array | {"RANK": "0", "WORLD_SIZE": "2"}) == Shard(0, 2)
    with pytest.raises(UsageError, match="--shard auto: neither torchrun"):
        parse_shard("auto", {})


def test_shards_make_the_table_that_one_command_makes(cli: Cli, prompts: Path, tiny_policy: Path, tmp_path) -> None:
    flags = ["--policy", tiny_policy, "--prompts", prompts, "-n", "2", "--max-tokens", "6", "--steps", "2", "-q"]
    flags += ["--prompts-per-step", "4"]
    for shard in ("0/3", "2/3"):
        ran = cli("rollout", *flags, "--shard", shard, "-o", "parts")
        assert ran.code == 0, ran
    ran = cli("check", "parts")
    assert (ran.code, ran.line) == (
        3,
        "entropyctl check: parts: shard 1/3 is missing; make it by `entropyctl rollout --shard 1/3`",
    )
    environment = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    assert cli("rollout", *flags, "--shard", "auto", "-o", "parts", env=environment).code == 0
    assert cli("check", "--full", "parts").code == 0
    assert cli("rollout", *flags, "-o", "whole.parquet").code == 0
    parts, whole = rows_of(tmp_path / "parts"), rows_of(tmp_path / "whole.parquet")
    assert {key: row[0] for key, row in parts.items()} == {key: row[0] for key, row in whole.items()}
    assert sorted(os.listdir(tmp_path / "parts")) == [f"shard-0000{i}-of-00003.parquet" for i in range(3)]
    assert cli("check", "--full", "whole.parquet").code == 0


def test_more_shards_than_problems_leave_whole_empty_files(cli: Cli, prompts: Path, tiny_policy: Path) -> None:
    flags = ["--policy", tiny_policy, "--prompts", prompts, "-n", "2", "--max-tokens", "4", "-q", "-o", "parts"]
    for i in range(7):
        ran = cli("rollout", *flags, "--shard", f"{i}/7")
        assert ran.code == 0, ran
    assert cli("check", "--full", "parts").code == 0
    ran = cli("score", "--reward", "none", "--policy", tiny_policy, "parts", "-o", "s.parquet", "--json", "-q")
    assert ran.code == 0, ran
    assert json.loads(ran.text)["rows"] == 10


# --- interrupted ---------------------------------------------------------------------------------------------------

SLOW = """
import os, sys, time
from entropyctl.engines import transformers as module
from entropyctl.engines.transformers import _Batch
run = _Batch.run
def slowly(self, model):
    with open("asked.txt", "a") as log:
        log.writelines(f"{r.prompt_id} {r.sample}\\n" for r in self.requests)
    if os.path.getsize("asked.txt") > int(os.environ["HANG_AFTER"]):
        print("hanging", file=sys.stderr, flush=True)
        time.sleep(1000)
    return run(self, model)
_Batch.run = slowly
from entropyctl.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_finished_samples_are_never_sampled_again(
    cli: Cli, prompts: Path, tiny_policy: Path, tmp_path: Path, number: int
) -> None:
    """Batches of two; the third one hangs, the process is ended, and the same command samples the other six alone."""
    flags = ["--policy", tiny_policy, "--prompts", prompts, "-n", "2", "--max-tokens", "6", "--batch-rows", "2"]
    command = [sys.executable, "-c", SLOW, "rollout", *map(str, flags), "-o", "r.parquet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HANG_AFTER": str(len("p0 0\n") * 5)}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    while "hanging" not in first.stderr.readline():
        pass
    first.send_signal(number)
    first.communicate()
    assert first.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "r.parquet").exists()
    asked = (tmp_path / "asked.txt").read_text().split("\n")[:4]
    (tmp_path / "asked.txt").unlink()
    again = subprocess.run(
        command, cwd=tmp_path, env=environment | {"HANG_AFTER": "100000"}, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert "rollout: goes on after 4 finished responses in .r.parquet." in again.stderr
    later = (tmp_path / "asked.txt").read_text().split("\n")[:-1]
    assert len(later) == 6
    assert not set(asked) & set(later)
    assert cli("rollout", *flags, "-q", "-o", "whole.parquet").code == 0
    assert rows_of(tmp_path / "r.parquet") == rows_of(tmp_path / "whole.parquet")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def request(sample: int) -> Request:
    return Request("p", sample, [1, 2], uniforms(0, 1, "p", sample, 4))


def fresh(requests, sampling, done) -> list[Response]:
    found = [Response([r.sample, 5], [-0.1, -2.0], "stop", "é\n") for r in requests]
    for i, response in enumerate(found):
        done(i, response)
    return found


def nobody(requests, sampling, done) -> list[Response]:
    raise AssertionError(requests)


def test_a_line_that_a_crash_has_cut_is_sampled_again(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "r.parquet"), ("a",))
    first = journal.sampler(fresh, 1)([request(0), request(1)], Sampling())
    journal.close()
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-7])
    again = Journal(str(tmp_path / "r.parquet"), ("a",))
    assert len(again) == 1
    assert again.sampler(nobody, 1)([request(0)], Sampling()) == first[:1]
    assert again.sampler(fresh, 1)([request(0), request(1)], Sampling()) == first
    again.close()
    assert journal.path.read_bytes() == whole


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_said_of_the_journal(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "r.parquet"), ("a",))
    journal.close()
    with open("/dev/full", "ab", buffering=0) as full, pytest.raises(OutputError, match=r"\.part: .*free some space"):
        journal._file = full
        journal.sampler(fresh, 1)([request(0)], Sampling())


def test_what_decides_a_response_keeps_journals_and_lines_apart(tmp_path: Path) -> None:
    output = str(tmp_path / "r.parquet")
    journal = Journal(output, ("a",))
    journal.sampler(fresh, 1)([request(0)], Sampling())
    for other in (request(0)._replace(prompt_tokens=[1, 3]), request(0)._replace(stop=("x",)), request(1)):
        with pytest.raises(AssertionError):
            journal.sampler(nobody, 1)([other], Sampling())
    with pytest.raises(AssertionError):
        journal.sampler(nobody, 2)([request(0)], Sampling())
    with pytest.raises(Locked, match="another rollout is making it"):
        Journal(output, ("a",))
    other_command = Journal(output, ("b",))
    assert len(other_command) == 0
    other_command.close()
    journal.remove()
    assert os.listdir(tmp_path) == []
