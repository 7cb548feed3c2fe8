"""Rollout and score over a Ray cluster: the table of one process, whatever dies, and nothing left behind.

One cluster of two actors serves the module; commands that end early start one of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from entropyctl.cluster.connection import Connection
from entropyctl.cluster.pool import Unit
from entropyctl.errors import EntropyctlError, Temporary, UsageError
from entropyctl.policy import spread
from entropyctl.policy.scorer import open_scorers
from entropyctl.table import read
from entropyctl.table.columns import with_column

from .conftest import ROOT, Cli
from .ray_driver import actors, below, processes

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install 'entropyctl[ray]'", allow_module_level=True)
if not os.path.isdir("/proc/self/fd"):
    pytest.skip("needs /proc to look at processes", allow_module_level=True)

DRIVER = ROOT / "tests" / "ray_driver.py"
PATIENCE = 120.0  # seconds on a busy machine; all of it takes a few
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("ENTROPYCTL_", "RAY_"))} | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(DRIVER.parent)]),
    "OMP_NUM_THREADS": "1",
}


class Cluster(NamedTuple):
    """What joins it, and the process that keeps it."""

    environment: dict[str, str]
    pid: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    command = [sys.executable, str(DRIVER), "cluster"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes) as process:
        yield Cluster(ENVIRONMENT | json.loads(process.stdout.readline()), process.pid)
        started = below(process.pid)
        process.communicate("")
    assert process.returncode == 0
    assert not [title for pid, title in started.items() if pid in processes()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """Prompts, and a second version of the policy that waits to be published."""
    import torch
    import transformers

    place = tmp_path_factory.mktemp("ray")
    lines = [json.dumps({"prompt_id": f"p{i}", "prompt": f"count to {10**i}"}) for i in range(4)]
    (place / "prompts.jsonl").write_text("\n".join(lines))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_policy)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    model.save_pretrained(place / "second")
    for file in tiny_policy.glob("*token*"):
        shutil.copyfile(file, place / "second" / file.name)
    return place


def new_policy(root: Path, tiny_policy: Path) -> Path:
    root.mkdir()
    (root / "v000000").symlink_to(tiny_policy)
    (root / "latest").symlink_to("v000000")
    return root


def publish(root: Path, checkpoint: Path) -> None:
    (root / "v000001").symlink_to(checkpoint)
    (root / "next").symlink_to("v000001")
    (root / "next").rename(root / "latest")


def table(path: Path) -> tuple[list[Any], Any]:
    """Steps and context; all of a file but its provenance."""
    with read([str(path)]) as source:
        return [step.rows for step in source], source.context


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process
        time.sleep(0.05)
    return found


SAMPLING = ["-n", "4", "--max-tokens", "24", "--batch-rows", "2", "--engine", "transformers"]


def loop(place: Path, root: Path, command: Sequence[str], env: dict[str, str], *flags: str) -> str:
    """A rollout of two steps in a pipe, strictly on-policy: the second version appears when the first step has come.

    Returns:
        What it said.
    """
    words = ["rollout", "--policy", str(root), "--prompts", "prompts.jsonl", "--steps", "2", "--max-lag", "0"]
    words += [*SAMPLING, "--tee", f"{root}.parquet", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *words], cwd=place, env=env, **pipes) as process:
        with read(["-"], stdin=process.stdout) as source:
            for step in source:  # which also proves that nothing but the table is on standard output
                if step.number == 1:
                    publish(root, place / "second")
        said: str = process.stderr.read().decode()
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def sampled(place: Path, tiny_policy: Path) -> Path:
    """Two steps by two versions, out of one process."""
    root = new_policy(place / "alone", tiny_policy)
    loop(place, root, [sys.executable, "-m", "entropyctl"], ENVIRONMENT)
    return place / "alone.parquet"


def test_a_rollout_that_loses_an_actor_is_the_table_of_one_process(
    cluster: Cluster, place: Path, tiny_policy: Path, sampled: Path
) -> None:
    root = new_policy(place / "spread", tiny_policy)
    command = [sys.executable, str(DRIVER), str(cluster.pid), "entropyctl"]
    said = loop(place, root, command, cluster.environment, "--runner", "ray", "--actors", "2").splitlines()
    assert table(place / "spread.parquet") == table(sampled)
    notices = [line for line in said if "an actor has died over prompt" in line]
    assert len(notices) == 1 and notices[0].endswith("; another does it"), said
    assert all(line.startswith("entropyctl") for line in said), said


def unhurried(said: str) -> list[str]:
    """The lines that do not depend on how busy the machine is."""
    return [line for line in said.splitlines() if "no actor has answered yet" not in line]


def test_a_score_that_loses_an_actor_is_the_table_of_one_process(
    cluster: Cluster, cli: Cli, place: Path, sampled: Path
) -> None:
    words = ["score", "alone.parquet", "--policy", "alone", "--token-budget", "120"]
    ran = cli(*words, "-o", "scored.parquet", cwd=place, env={"OMP_NUM_THREADS": "1"})
    assert ran.code == 0, ran
    command = [sys.executable, str(DRIVER), str(cluster.pid), "entropyctl", *words, "-o", "spread-scored.parquet"]
    ray = ["--runner", "ray", "--actors", "2"]
    done = subprocess.run([*command, *ray], cwd=place, env=cluster.environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done
    assert done.stderr.count("an actor has died over row step 1, prompt p") == 1, done.stderr
    assert table(place / "spread-scored.parquet") == table(place / "scored.parquet")
    assert [line for line in unhurried(done.stderr) if "has died" not in line] == ran.err.splitlines()


def test_what_an_actor_raises_is_told_and_what_kills_three_actors_is_named(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), "faults"], env=cluster.environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    died, memory, wrong, bug, room = (json.loads(line) for line in done.stdout.splitlines())
    assert died[0] == [0, 2, 4, 6, 8, 10]
    assert died[1][:2] == ["an actor has died over prompt p6; another does it"] * 2
    assert died[1][2].startswith("8 prompt p6: 3 actors have died over it (")
    assert died[1][2].endswith("; if they ran out of memory, lower --this")
    assert memory[1] == ["7 an actor is out of memory; lower --this"]
    assert wrong[1] == ["3 row 3: is wrong; mend it"]
    told = "internal error in an actor: ZeroDivisionError: by zero; run again with --debug and report it"
    assert bug[1] == [f"1 {told}"]
    assert room == "2 --actors 3: the cluster has room for 2 with a CPU each; ask for no more"


class Here:
    """A pool whose one actor is this process, and which does the units in reverse."""

    def __init__(self) -> None:
        self.worker = spread.Worker("float32", "cpu", spread.threads_here())

    def prepare(self, order: dict[str, Any], name: str) -> Any:
        return self.worker(order, None)

    def run(self, units: dict[Unit, Any], done: Callable[[Unit, Any], None]) -> None:
        for unit in reversed(list(units)):
            done(unit, self.worker(unit.order, unit.rows))


def test_several_models_take_turns_on_actors_as_in_one_process(sampled: Path, tiny_policy: Path, tiny_critic) -> None:
    root = sampled.with_suffix("")
    paths = {"policy": str(root), "ref": str(tiny_policy), "prm": None, "critic": str(tiny_critic)}
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", "token_budget": 90, "quiet": True}
    found = []
    for pool in (None, Here()):
        with read([str(sampled)]) as source:
            scorers = open_scorers(source, paths, pool=pool, **options)  # type: ignore[arg-type]
            for step in source:
                tokens = step.rows["tokens"].to_pylist()
                rows = with_column(step.rows, "tokens", pa.array([[], *tokens[1:]], step.rows["tokens"].type))
                for scorer in scorers:
                    rows = scorer.score(rows)
                found.append((rows, [scorer.as_dict() for scorer in scorers], scorer.facts(step.number)))
    assert found[:2] == found[2:]
    assert found[0][0]["values"][0].as_py() == []


def started_of(process: subprocess.Popen[bytes]) -> dict[int, str]:
    """The processes of a Ray of its own, once its actor is there."""
    wait_for(lambda: actors(process.pid), process)
    return below(process.pid)


def test_a_killed_driver_leaves_nothing(place: Path, sampled: Path) -> None:
    words = ["score", str(sampled), "--policy", "alone", "--runner", "ray", "--actors", "1", "-o", "never.parquet"]
    process = subprocess.Popen([sys.executable, "-m", "entropyctl", *words], cwd=place, env=ENVIRONMENT)
    started = started_of(process)
    kept = [title.split()[-1] for title in started.values() if "entropyctl.cluster.keeper" in title]
    assert len(kept) == 1 and os.path.isdir(kept[0])
    process.kill()
    process.wait()
    wait_for(lambda: not started.keys() & processes().keys())
    assert not os.path.exists(kept[0])


def test_an_interrupted_driver_leaves_what_is_finished_and_nothing_else(place: Path, tmp_path: Path) -> None:
    words = ["rollout", "--policy", "second", "--prompts", "prompts.jsonl", "-n", "64", "--max-tokens", "100"]
    words += ["--batch-rows", "2", "--engine", "transformers", "--runner", "ray", "--actors", "1"]
    command = [sys.executable, "-m", "entropyctl", *words, "-o", str(tmp_path / "r.parquet")]
    process = subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE)
    started = started_of(process)
    journal = wait_for(lambda: [path for path in tmp_path.glob(".r.*.part") if path.stat().st_size], process)[0]
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130
    assert [line for line in unhurried(said) if not line.startswith("entropyctl: prompts.jsonl")] == []
    assert not started.keys() & processes().keys()
    assert os.listdir(tmp_path) == [journal.name]
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert 0 < len(keys) < 256 and len(set(keys)) == len(keys)


# --- without a cluster ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("127.0.0.1:1", Temporary, "RAY_ADDRESS 127.0.0.1:1: no cluster answers (.*refused); start a cluster"),
        ("ray://there:10001", UsageError, "RAY_ADDRESS ray://there:10001: must be HOST:PORT"),
        ("there:1:x", UsageError, "must be HOST:PORT"),
    ],
)
def test_an_address_where_nothing_is(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: type[EntropyctlError], message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(kind, match=message.replace("(", r"\(").replace(")", r"\)")):
        Connection(1)
    assert "ray" not in sys.modules


def test_without_ray_its_extra_is_named(place: Path) -> None:
    code = (
        "import sys, importlib.util as found; look = found.find_spec\n"
        "found.find_spec = lambda name, *rest: None if name == 'ray' else look(name, *rest)\n"
        "from entropyctl.cli import main; main(sys.argv[1:])"
    )
    words = ["score", "none.parquet", "--policy", "second", "--runner", "ray", "-o", "never.parquet"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=place, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (
        2,
        "entropyctl score: --runner ray: needs ray, which is not installed; run pip install 'entropyctl[ray]'\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rollout", "--actors", "2"], "--actors 2: belongs to --runner ray; give that too"),
        (["score", "--actors", "2"], "--actors 2: belongs to --runner ray; give that too"),
        (["score", "--reward", "exact", "--runner", "ray"], "--runner ray: belongs to --policy, --ref"),
    ],
)
def test_flags_that_would_do_nothing(cli: Cli, place: Path, words: list[str], message: str) -> None:
    given = ["--policy", "second", "--prompts", "prompts.jsonl"] if words[0] == "rollout" else []
    ran = cli(*words, *given, "-o", "never.parquet", cwd=place)
    assert (ran.code, message in ran.err.splitlines()[-1]) == (2, True), ran
