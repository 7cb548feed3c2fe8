"""The training loop as one pipe of five processes that stay, and whatever may happen to them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from entropyctl.policy import find_policy
from entropyctl.policy.versions import finished_step, weights_digest
from entropyctl.table import read

from .conftest import ROOT, Cli, without_costs
from .test_loop import GRADER, metrics, new_run, weights

SIZES = "--prompts-per-step 2 --n 4 --max-tokens 6 --engine transformers"
STAGES = {
    "rollout": f"rollout --policy run/policy --prompts prompts.jsonl --steps 3 --max-lag 0 {SIZES}",
    "score": "score --policy run/policy --reward python:parity:score --workers 1",
    "advantage": "advantage grpo",
    "mask": "mask clip-v --mu 1 --max-frac 1",
    "update": "update --policy run/policy --publish --lr 1e-3 --metrics run/metrics",
}
ENDS_WITHIN = 10  # seconds after a process has died


class Pipe:
    """The five processes, each with the next one's standard input as its output; none is left when the test ends."""

    def __init__(self, place: Path, **stages: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPYCTL_")}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{place}", "OMP_NUM_THREADS": "1"}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.errors = {name: place / f"{name}.err" for name in STAGES}
        before = None
        for name, line in (STAGES | stages).items():
            last = name == "update"
            with open(self.errors[name], "wb") as error:
                process = subprocess.Popen(
                    [sys.executable, "-m", "entropyctl", *shlex.split(line)],
                    cwd=place,
                    env=environment,
                    stdin=before or subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                    stderr=error,
                )
            if before is not None:
                before.close()  # the neighbours alone hold the pipe
            before = process.stdout
            self.processes[name] = process

    def wait(self, timeout: float = 300) -> dict[str, int]:
        """Exit statuses by stage; a process that is left after the time fails the test."""
        try:
            return {name: process.wait(timeout) for name, process in self.processes.items()}
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running\n{self}") from None
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()

    def until_version(self, root: Path, version: int) -> None:
        """Wait until a version is published."""
        while find_policy(str(root)).version < version:
            assert all(process.poll() is None for process in self.processes.values()), self

    def __repr__(self) -> str:
        lines = [f"{n} [{p.returncode}] {self.errors[n].read_text()[-1500:]}" for n, p in self.processes.items()]
        return "\n".join(lines)


def make_place(place: Path, tiny_policy: Path) -> Path:
    (place / "parity.py").write_text(GRADER)
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(4)]
    (place / "prompts.jsonl").write_text("\n".join(lines))
    new_run(place / "run", tiny_policy)
    return place


@pytest.fixture
def place(tmp_path: Path, tiny_policy: Path) -> Path:
    """A directory with prompts, a grader and a policy of version 0."""
    return make_place(tmp_path, tiny_policy)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """A run of three steps that nothing has disturbed, strictly on-policy."""
    place = make_place(tmp_path_factory.mktemp("whole"), tiny_policy)
    pipe = Pipe(place)
    assert set(pipe.wait().values()) == {0}, pipe
    return place / "run"


def version(place: Path) -> int:
    return find_policy(str(place / "run" / "policy")).version


def numbers(run: Path) -> list[dict]:
    return [without_costs(row) for row in metrics(run)]


def test_each_step_is_sampled_and_scored_by_the_version_before_it(whole: Path) -> None:
    rows = metrics(whole)
    assert [(r["step"], r["policy_version"], r["published_version"], r["lag"]) for r in rows] == [
        (1, 0, 1, 0),
        (2, 1, 2, 0),
        (3, 2, 3, 0),
    ]
    assert all(row["realised_change"] != 0 for row in rows)
    digests = {str(k): find_policy(str(whole / "policy" / f"v{k:06d}")).digest for k in range(3)}
    with read([str(whole / "metrics" / "step-000003.parquet")]) as source:
        assert source.context["policies"] == source.context["scoring"]["policies"] == digests


def test_five_commands_on_files_make_the_same_weights_and_the_same_numbers(cli: Cli, whole: Path, place: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{place}"}

    def run(line: str) -> None:
        ran = cli(*shlex.split(line), cwd=place, env=environment)
        assert ran.code == 0, ran

    for k in (1, 2, 3):
        run(STAGES["rollout"].replace("--steps 3 --max-lag 0", f"--step {k}") + " -o r.parquet")
        run(f"{STAGES['score']} r.parquet -o s.parquet")
        run(f"{STAGES['advantage']} s.parquet -o a.parquet")
        run(f"{STAGES['mask']} a.parquet -o m.parquet")
        run(f"{STAGES['update']} m.parquet")
    assert weights(place / "run") == weights(whole)
    assert numbers(place / "run") == numbers(whole)


@pytest.mark.deadline
@pytest.mark.parametrize("name", list(STAGES))
def test_when_one_is_killed_all_end_and_the_same_command_goes_on(name: str, whole: Path, place: Path) -> None:
    pipe = Pipe(place)
    pipe.until_version(place / "run" / "policy", 1)
    pipe.processes[name].send_signal(signal.SIGKILL)
    codes = pipe.wait(ENDS_WITHIN)
    assert codes[name] == -signal.SIGKILL
    # those behind it met the end of a stream that never ended; those in front of it, a reader that has gone
    order = list(STAGES)
    behind = order[order.index(name) + 1 :]
    assert {codes[stage] for stage in behind} <= {4}, pipe
    assert {codes[stage] for stage in order[: order.index(name)]} <= {0}, pipe
    assert not any("Traceback" in path.read_text() for path in pipe.errors.values()), pipe
    found = find_policy(str(place / "run" / "policy"))
    manifest = json.loads((found.directory / "entropyctl.json").read_text())
    assert manifest["digest"] == weights_digest(found.directory)
    again = Pipe(place)
    assert set(again.wait().values()) == {0}, again
    assert weights(place / "run") == weights(whole)
    assert numbers(place / "run") == numbers(whole)


@pytest.mark.deadline
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_ends_all(number: signal.Signals, place: Path) -> None:
    pipe = Pipe(place, rollout=STAGES["rollout"].replace("--steps 3", "--steps 500"))
    pipe.until_version(place / "run" / "policy", 1)
    for process in pipe.processes.values():
        process.send_signal(number)
    codes = pipe.wait(ENDS_WITHIN)
    # one may have met its dead neighbour before its own signal
    assert codes["update"] in (128 + number, 4) and set(codes.values()) <= {128 + number, 4, 0}, pipe
    assert 128 + number in codes.values(), pipe
    assert not any("Traceback" in path.read_text() for path in pipe.errors.values()), pipe
    assert not list((place / "run" / "metrics").glob(".*"))


IDLE = {
    "no-informative-group": {"score": STAGES["score"].replace("parity:score", "parity:same")},
    "no-group-is-kept": {
        "score": STAGES["score"].replace("parity:score", "parity:same"),
        "advantage": "advantage grpo --keep-groups 2",
    },
    "a-mask-that-removes-everything": {"mask": "mask random --fraction 1"},
    "one-group": {"rollout": STAGES["rollout"].replace("--prompts-per-step 2", "--prompts-per-step 1")},
    "one-response": {"rollout": STAGES["rollout"].replace("--n 4", "--n 1")},
}


@pytest.mark.parametrize(("case", "lag"), [*((case, 0) for case in IDLE), ("no-group-is-kept", 1), ("one-group", 5)])
def test_no_step_leaves_anybody_waiting(case: str, lag: int, place: Path) -> None:
    with open(place / "parity.py", "a") as file:
        file.write("\ndef same(*args, **more):\n    return 1.0\n")
    stages = STAGES | IDLE[case]
    stages["rollout"] = stages["rollout"].replace("--max-lag 0", f"--max-lag {lag}")
    pipe = Pipe(place, **stages)
    assert set(pipe.wait(120).values()) == {0}, pipe
    assert version(place) == 3
    assert finished_step(find_policy(str(place / "run" / "policy"))) == 3


def test_sampling_may_run_ahead_and_old_versions_go(place: Path) -> None:
    rollout = STAGES["rollout"].replace("--max-lag 0", "--max-lag 1")
    pipe = Pipe(place, rollout=rollout, score=f"{STAGES['score']} --at latest", update=f"{STAGES['update']} --keep 2")
    assert set(pipe.wait().values()) == {0}, pipe
    rows = metrics(place / "run")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["lag"] == 0 and {row["lag"] for row in rows} <= {0, 1}
    assert sorted(p.name for p in (place / "run" / "policy").glob("v*")) == ["v000002", "v000003"]


@pytest.mark.deadline
def test_a_reader_that_closes_the_pipe_ends_a_rollout_that_waits(place: Path) -> None:
    command = [sys.executable, "-m", "entropyctl", *shlex.split(STAGES["rollout"])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(place / "error", "wb") as error:
        rollout = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=error)
    assert rollout.stdout is not None
    seen = b""
    while b"end_of_step" not in seen:  # step 1 is out; step 2 waits for a version that nobody makes
        seen += rollout.stdout.read1()
    rollout.stdout.close()
    assert rollout.wait(ENDS_WITHIN) == 0
    assert "Traceback" not in (place / "error").read_text()
