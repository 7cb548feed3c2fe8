"""An evaluation that was stopped at any instant is completed by the same command; more samples are added to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from entropyctl.engines import Sampling
from entropyctl.errors import Locked, UsageError
from entropyctl.evaluation import responses
from entropyctl.evaluation.history import History
from entropyctl.evaluation.sampled import Wanted, of_policy
from entropyctl.evaluation.task import Task
from entropyctl.evaluation.unfinished import Unfinished
from entropyctl.policy import Policy, find_policy
from entropyctl.prompts import Problem
from entropyctl.table import new_record
from entropyctl.table.rows import read_rows

from .conftest import ROOT, Cli

PROBLEMS = [Problem(f"p{i}", f"say {i}", "x") for i in range(4)]


@pytest.fixture
def parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "parity.py").write_text("def score(solution_str):\n    return {'score': len(solution_str) % 2}\n")
    monkeypatch.chdir(tmp_path)
    return "python:parity:score"


def task(reward: str, **more: Any) -> Task:
    return Task("problems", PROBLEMS, reward, Sampling(max_tokens=8), **more)


def evaluated(policy: Policy, how: Wanted) -> pa.Table:
    return of_policy(policy, how, new_record("eval", {}), lambda text: None).evals


class Stopped(BaseException):
    """As if the process had been killed: no clean-up catches it."""


def stop_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> list[int]:
    """Let a function of the collection end the run at its `calls`-th call; returns how often it was called."""
    original: Callable[..., Any] = getattr(responses, name)
    called = [0]

    def counted(*args: Any, **options: Any) -> Any:
        called[0] += 1
        if called[0] > calls:
            raise Stopped
        return original(*args, **options)

    monkeypatch.setattr(responses, name, counted)
    return called


def test_more_samples_are_those_of_one_run(tiny_policy: Path, parity: str) -> None:
    policy, asked = find_policy(str(tiny_policy)), task(parity)
    whole = evaluated(policy, Wanted(asked, n=5, tee="whole.parquet"))
    assert evaluated(policy, Wanted(asked, n=2, tee="kept.parquet"))["n"].to_pylist() == [2] * 4
    more = evaluated(policy, Wanted(asked, more=3, tee="kept.parquet"))
    assert more.drop_columns(["entropy", "semantic_entropy"]).equals(
        whole.drop_columns(["entropy", "semantic_entropy"])
    )
    by_twice, at_once = (read_rows(f"{name}.parquet") for name in ("kept", "whole"))
    for name in ("prompt_id", "sample", "tokens", "outcome"):
        assert by_twice.rows[name].equals(at_once.rows[name]), name
    assert [record["evaluation"]["n"] for record in by_twice.header.chain] == [2, 5]
    # Fewer than are there: the numbers are of all.
    assert evaluated(policy, Wanted(asked, n=1, tee="kept.parquet"))["n"].to_pylist() == [5] * 4


def test_what_is_there_is_not_sampled_again(tiny_policy: Path, parity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, asked = find_policy(str(tiny_policy)), task(parity)
    first = evaluated(policy, Wanted(asked, n=3, tee="kept.parquet"))
    assert stop_after(monkeypatch, "rollout_step", 0) == [0]
    assert evaluated(policy, Wanted(asked, n=3, tee="kept.parquet")).equals(first)


def test_what_is_there_is_said(tiny_policy: Path, parity: str) -> None:
    policy, how, said = find_policy(str(tiny_policy)), Wanted(task(parity), n=2, tee="kept.parquet"), list[str]()
    for _ in range(2):
        of_policy(policy, how, new_record("eval", {}), said.append)
    assert said == ["eval: kept.parquet holds 2 responses to each problem"]


def test_a_k_that_cannot_be_is_known_before_anything_is_sampled(
    tiny_policy: Path, parity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, "rollout_step", 0)
    how = Wanted(task(parity), n=2, metrics=[("pass@2", "--alert"), ("pass@3", "--fail-under")])
    with pytest.raises(UsageError, match="--fail-under: pass@3 needs k <= n, and n is 2"):
        evaluated(find_policy(str(tiny_policy)), how)


def test_responses_are_kept_beside_a_file_of_this_machine_alone(
    tiny_policy: Path, parity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, place = find_policy(str(tiny_policy)), f"file://{tmp_path}/kept.parquet"
    first = evaluated(policy, Wanted(task(parity), n=2, tee=place))
    with monkeypatch.context() as stopping:
        stop_after(stopping, "rollout_step", 0)
        assert evaluated(policy, Wanted(task(parity), n=2, tee=place)).equals(first)
    evaluated(policy, Wanted(task(parity), n=2, output="memory://evals.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(("parity", "__"))) == [
        "kept.parquet"
    ]


def test_responses_of_another_task_are_not_added_to(tiny_policy: Path, parity: str) -> None:
    policy = find_policy(str(tiny_policy))
    evaluated(policy, Wanted(task(parity), n=2, tee="kept.parquet"))
    evaluated(policy, Wanted(task(parity, seed=1), n=3, tee="kept.parquet"))
    assert read_rows("kept.parquet").rows.num_rows == 12
    with pytest.raises(Exception, match="--add-samples: there are no responses of this policy to this task yet"):
        evaluated(policy, Wanted(task(parity, seed=2), more=1, tee="kept.parquet"))


def test_stopped_while_it_scores_it_scores_the_rest(
    tiny_policy: Path, parity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, how = find_policy(str(tiny_policy)), Wanted(task(parity), n=3, tee="kept.parquet")
    monkeypatch.setattr(responses, "GROUP_TOKENS", 1)  # each problem is a group of its own
    whole = evaluated(policy, Wanted(task(parity), n=3, tee="whole.parquet"))
    with monkeypatch.context() as stopping, pytest.raises(Stopped):
        stop_after(stopping, "grade_rows", 2)
        evaluated(policy, how)
    assert not (tmp_path / "kept.parquet").exists()
    graded = stop_after(monkeypatch, "grade_rows", 2)
    loaded = stop_after(monkeypatch, "load_function", 0)  # the engine, which has nothing to do
    assert evaluated(policy, how).equals(whole)
    assert (graded, loaded) == ([2], [0])
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


@pytest.mark.parametrize("finished", [0, 1, 5, 11])
def test_stopped_while_it_samples_it_samples_the_rest(
    tiny_policy: Path, parity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    policy, how = find_policy(str(tiny_policy)), Wanted(task(parity), n=3, output="evals.parquet")
    with Unfinished("evals.parquet", how.task.key(policy)) as left:
        keep, kept = left.journal._add, [0]

        def add(key: str, response: Any) -> None:
            if kept[0] == finished:
                raise Stopped
            kept[0] += 1
            keep(key, response)

        monkeypatch.setattr(left.journal, "_add", add)
        with pytest.raises(Stopped):
            responses.collect(policy, how.task, 3, unfinished=left)
    with Unfinished("evals.parquet", how.task.key(policy)) as left:
        assert len(left.journal) == finished
    evals = evaluated(policy, how)
    assert evals["n"].to_pylist() == [3] * 4
    assert evals["c"].equals(evaluated(policy, Wanted(how.task, n=3))["c"])
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_the_same_evaluation_is_made_by_one_process_at_a_time(tiny_policy: Path, parity: str) -> None:
    policy, asked = find_policy(str(tiny_policy)), task(parity)
    history = History("evals")
    place = history.responses(asked.series(policy), asked.key(policy))
    with (
        Unfinished(place, asked.key(policy)),
        pytest.raises(Locked, match=r"evals/_responses/.*: another rollout is making it"),
    ):
        evaluated(policy, Wanted(asked, n=2, history=history))
    # Another task is another matter.
    with Unfinished(place, asked.key(policy)):
        assert evaluated(policy, Wanted(task(parity, seed=1), n=2, history=history)).num_rows == 4


@pytest.mark.parametrize("sign", ["sampled", "scored"])
def test_a_killed_command_is_completed_by_the_same_command(
    cli: Cli, policy_root: Path, parity: str, tmp_path: Path, sign: str
) -> None:
    lines = [json.dumps({"question": p.prompt, "answer": "x", "prompt_id": p.prompt_id}) for p in PROBLEMS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    command = ["eval", "--policy", "policy", "--prompts", "prompts.jsonl", "--reward", parity, "-n", "6"]
    command += ["--max-tokens", "400", "--batch-rows", "2", "--history", "evals"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [sys.executable, "-m", "entropyctl", *command, "-q"], cwd=tmp_path, env=env, stderr=subprocess.PIPE
    )
    kept = tmp_path / "evals" / "_responses"

    def lines_of(journal: str) -> int:
        return sum(path.read_bytes().count(b"\n") for path in kept.glob(journal))

    while running.poll() is None and lines_of(".*.part") < (4 if sign == "sampled" else 24):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors
    left = lines_of(".*.part")
    assert left >= 4 and not list((tmp_path / "evals").glob("*.parquet"))
    ran = cli(*command, "--json")
    assert ran.code == 0 and f"goes on after {left} finished responses" in ran.err, ran
    assert json.loads(ran.out)["pooled"]["responses"] == 24
    assert len(list((tmp_path / "evals").glob("*.parquet"))) == 1
    # But for the temporary file of the one that was killed.
    assert [path.suffix for path in kept.iterdir() if path.suffix != ".tmp"] == [".parquet"]
