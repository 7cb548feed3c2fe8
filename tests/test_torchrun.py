"""`update` under torchrun: what one process would have done, spread over several, which live and die as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.policy import find_policy
from entropyctl.table import new_record, read, write
from entropyctl.table.columns import list_column, row_lengths, with_column
from entropyctl.training import Optimization, Recipe, open_trainer, update_step
from entropyctl.training.lora import Lora
from entropyctl.training.sharded import Place, fair_shares
from entropyctl.training.update import publish_next

from .conftest import ROOT, Cli, scored_rows, tiny_llama, without_costs
from .team_program import PLAIN, ROUGH, SCENARIOS, run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from entropyctl.training.processes import ALONE  # noqa: E402

SAMPLING = {"sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}}
# torchrun gives its processes a second to start on an idle machine; these bound what hangs, on a busy one.
PATIENCE = 120


def torchrun(size: int, *words: str | Path) -> list[str]:
    """The command line of a team; a port of its own, since other tests may start teams at the same time."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return [*launcher, *map(str, words)]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPYCTL_")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(size: int, *words: str | Path, cwd: Path, **files: object) -> subprocess.Popen[str]:
    """`torchrun ... -m entropyctl WORDS`."""
    return subprocess.Popen(torchrun(size, "-m", "entropyctl", *words), cwd=cwd, env=environment(), text=True, **files)  # type: ignore[call-overload]


def ours(stderr: str) -> list[str]:
    """What the processes said, without what torchrun has to say of them."""
    return [line for line in stderr.splitlines() if line.startswith(("entropyctl update:", "entropyctl:", "[rank"))]


# --- the same step by one, two and three processes -----------------------------------------------------------------


def learnt_rows(step: int, groups: int, context: dict[str, object], path: Path) -> None:
    """A step with advantages, returns and weights, and log-probabilities near those of a random model of 257 tokens."""
    rows = scored_rows(step, groups=groups, samples=3, longest=20)
    lengths_B = row_lengths(rows["tokens"])
    rng = np.random.default_rng(step)
    for name in ("advantages", "values", "returns"):
        values = list_column(rng.normal(size=lengths_B.sum()), lengths_B, pa.float32())
        rows = with_column(rows, name, values)
    near = list_column(-5.5 - 0.3 * rng.random(lengths_B.sum()), lengths_B, pa.float32())
    rows = with_column(with_column(rows, "logprobs", near), "ref_logprobs", near)
    with write(str(path), "advantaged", new_record("advantage", {}), context=context) as sink:
        sink.put(step, rows)


def new_policy(place: Path, name: str, model: str = "tied") -> str:
    root = place / name
    root.mkdir()
    (root / "v000000").symlink_to(place / model)
    (root / "latest").symlink_to("v000000")
    return name


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path, tiny_critic: Path) -> Path:
    """A step of rows, and the models that learn from it."""
    place = tmp_path_factory.mktemp("team")
    (place / "tiny").symlink_to(tiny_policy)
    (place / "critic").symlink_to(tiny_critic)
    tiny_llama(place / "tied", hidden_size=32, tie_word_embeddings=True)
    learnt_rows(1, 5, SAMPLING, place / "rows.parquet")
    for name, lora in (("trained", None), ("adapted", Lora(4, 8.0))):
        root = place / new_policy(place, name, "tiny")
        trainer = open_trainer(find_policy(str(root)), Optimization("adamw", 1e-4, 0.01), Place("cpu"), lora=lora)
        with read([str(place / "rows.parquet")]) as source:
            update_step(trainer, next(iter(source)).rows, Recipe(**PLAIN))
        publish_next(trainer, {}, 1)
    return place


Found = tuple[dict[str, dict[str, float]], dict[str, "torch.Tensor"]]


@pytest.fixture(scope="module")
def team_of(models: Path) -> Callable[[int], Found]:
    """What a team of some size made of every scenario."""
    known: dict[int, Found] = {}

    def found(size: int) -> Found:
        if size not in known and size == 1:
            known[1] = run(models, ALONE)
        if size not in known:
            command = torchrun(size, ROOT / "tests" / "team_program.py", models)
            ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
            assert ran.returncode == 0 and "Warning" not in ran.stderr, ran.stderr[-5000:]
            known[size] = json.loads((models / f"{size}.json").read_text()), load_file(models / f"{size}.safetensors")
        return known[size]

    return found


def same_numbers(found: dict[str, float | None], expected: dict[str, float | None]) -> bool:
    """Within 1e-5, and unknown where the other is."""
    names = without_costs(expected).keys() - {"shares"}
    assert {name for name in names if found[name] is None} == {name for name in names if expected[name] is None}
    known = [name for name in sorted(names) if expected[name] is not None]
    assert {n: found[n] for n in known} == pytest.approx({n: expected[n] for n in known}, rel=1e-5, abs=1e-5)
    return True


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in ROUGH])
@pytest.mark.parametrize("size", [2, 3])
def test_a_team_does_what_one_process_does(team_of: Callable[[int], Found], size: int, scenario: str) -> None:
    (alone, one), (together, many) = team_of(1), team_of(size)
    assert same_numbers(together[scenario], alone[scenario])
    names = {name for name in one if name.startswith(f"{scenario}/")}
    assert names == {name for name in many if name.startswith(f"{scenario}/")}
    for name in sorted(names):
        torch.testing.assert_close(many[name], one[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("size", [2, 3])
def test_weights_that_travel_in_16_bits_train_almost_alike(team_of: Callable[[int], Found], size: int) -> None:
    (alone, one), (together, many) = team_of(1), team_of(size)
    known = ("loss", "entropy", "grad_norm")
    assert [together["bfloat16"][k] for k in known] == pytest.approx([alone["bfloat16"][k] for k in known], rel=0.05)
    assert together["bfloat16"]["entropy"] != pytest.approx(alone["means of responses"]["entropy"], rel=1e-5)
    names = [name.partition("/")[2] for name in one if name.startswith("bfloat16/")]
    assert all(many[f"bfloat16/{name}"].dtype == torch.float32 for name in names)


@pytest.mark.parametrize("size", [2, 3])
def test_moments_in_8_bits_train_alike(team_of: Callable[[int], Found], size: int) -> None:
    """A number between two codes may fall to either; no block of them is cut by the number of processes."""
    (alone, one), (together, many) = team_of(1), team_of(size)
    assert same_numbers(together["8 bits"], alone["8 bits"])
    for name in (name for name in one if name.startswith("8 bits/")):
        if name.endswith("_codes"):
            assert (many[name] != one[name]).float().mean() < 0.01, name
        else:
            torch.testing.assert_close(many[name], one[name], atol=3e-5, rtol=1e-3)


def test_three_token_budgets_do_the_same(team_of: Callable[[int], Found]) -> None:
    names = ("each response its own pass", "passes of 60 tokens", "one pass")
    for size in (1, 2, 3):
        metrics, tensors = team_of(size)
        losses = [metrics[name]["loss"] for name in names]
        assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
        for key in (name.partition("/")[2] for name in tensors if name.startswith(f"{names[0]}/")):
            for name in names[1:]:
                torch.testing.assert_close(tensors[f"{name}/{key}"], tensors[f"{names[0]}/{key}"], atol=1e-5, rtol=1e-5)


def test_the_scenarios_are_what_they_say(team_of: Callable[[int], Found]) -> None:
    metrics, _ = team_of(1)
    assert metrics["nothing has a gradient"]["optimizer_steps"] == 0
    assert metrics["passes of 60 tokens"]["optimizer_steps"] == 2
    assert metrics["mini-batches"]["optimizer_steps"] == 4
    assert metrics["a mask that removes most"]["mask_fraction"] > 0.9
    assert 0 < metrics["a live mask"]["clip_fraction"] < 1
    assert metrics["an entropy bonus"]["entropy_coef"] > 0


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_holds_a_shard_of_the_parameters(team_of: Callable[[int], Found], size: int) -> None:
    for scenario, found in team_of(size)[0].items():
        assert sum(found["shares"]) == pytest.approx(1), scenario  # each number is somewhere, and once
        assert max(found["shares"]) < 1 / size + 0.05, scenario


def test_rows_are_shared_out_by_their_tokens() -> None:
    assert fair_shares([9, 1, 5, 4, 2], 2) == [[0, 4], [1, 2, 3]]
    assert fair_shares([3, 3, 3], 1) == [[0, 1, 2]]
    assert fair_shares([7], 3) == [[0], [], []]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A directory with `both`, two steps to learn from, `m1.parquet`, the first of them, and a model."""
    place = tmp_path_factory.mktemp("torchrun")
    shutil.copytree(models / "tied", place / "tied")
    (place / "both").mkdir()
    for number in (1, 2):
        learnt_rows(number, 4, SAMPLING, place / "both" / f"m{number}.parquet")
    (place / "m1.parquet").symlink_to("both/m1.parquet")
    return place


def test_two_processes_then_one_are_one_then_one(cli: Cli, table: Path) -> None:
    """Through a pipe, and with the metrics, the format of the versions and the optimiser's state of one process."""
    other = ("--publish", "--lr", "1e-4")
    for name in ("team", "alone"):
        new_policy(table, name)
    (table / "log.toml").write_text('[update]\nlog = ["tensorboard:events"]\n')  # --log is torchrun's own
    words = ("update", "--policy", "team", "--metrics", "team/metrics", *other, "--json", "--config", "log.toml")
    (table / "stream").write_bytes(masked_stream(table))
    with (
        open(table / "stream", "rb") as stream,
        subprocess.Popen(["cat"], cwd=table, stdin=stream, stdout=subprocess.PIPE) as before,
    ):
        ran = start(2, *words, cwd=table, stdin=before.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = ran.communicate(timeout=PATIENCE)
    assert (ran.returncode, ours(err), before.returncode) == (0, [], 0), err
    team = json.loads(out)  # one object, of the first process
    done = cli("update", "both", "--policy", "alone", *other, "--json", cwd=table)
    assert same_numbers(team, json.loads(done.text.splitlines()[0]))
    assert [path.name for path in (table / "team" / "metrics").iterdir()] == ["step-000001.parquet"]
    assert len(list((table / "events" / "team").iterdir())) == 1  # of the first process
    done = cli("update", "both/m2.parquet", "--policy", "team", *other, cwd=table)
    assert done.code == 0 and "fresh optimiser" not in done.err, done
    for version in (1, 2):
        pair = [find_policy(str(table / name)).directory.with_name(f"v00000{version}") for name in ("team", "alone")]
        assert len({tuple(sorted(file.name for file in directory.iterdir())) for directory in pair}) == 1
        assert len({(directory / "config.json").read_text() for directory in pair}) == 1
        weights = [load_file(directory / "model.safetensors") for directory in pair]
        torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-5)
        assert "lm_head.weight" not in weights[0]  # tied
    states = [load_file(table / name / "trainer-v000002" / "optimizer.safetensors") for name in ("team", "alone")]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
    assert states[0]["model.norm.weight:step"] == 2
    transformers.AutoModelForCausalLM.from_pretrained(table / "team" / "latest")


def masked_stream(place: Path) -> bytes:
    """`m1.parquet` as a pipe carries it."""
    command = [sys.executable, "-m", "entropyctl", "mask", "none", "m1.parquet"]
    return subprocess.run(command, cwd=place, env=environment(), capture_output=True, check=True).stdout


def test_a_fault_of_all_is_said_once(table: Path) -> None:
    words = ("update", "--policy", "tied", "m1.parquet", "--lr", "much")
    ran = start(2, *words, cwd=table, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 1 and out == "", err  # torchrun's own status, whatever that of its processes
    (line,) = ours(err)
    assert "--lr" in line


def test_a_fault_of_another_process_ends_all_with_one_line(table: Path) -> None:
    config = table / "one"
    config.write_text("#!/bin/sh\n[ $RANK = 0 ] && lr=1 || lr=2\n" + f'exec "{sys.executable}" "$@" --lr $lr\n')
    config.chmod(0o755)
    command = torchrun(2, "--no-python", config, "-m", "entropyctl", "update", "--policy", "tied", "m1.parquet")
    ran = subprocess.run(command, cwd=table, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 1
    assert ours(ran.stderr) == ["entropyctl update: --lr: differs between the processes; give all of them the same"]


# --- deaths --------------------------------------------------------------------------------------------------------


class Loop:
    """A stage, and a team behind it that has trained the first step of a table which never ends."""

    def __init__(self, place: Path, policy: str) -> None:
        self.stderr = place / f"{policy}.txt"
        stage = [sys.executable, "-m", "entropyctl", "mask", "none"]
        words = ("update", "--policy", policy, "--publish", "--quiet")
        with open(place / f"{policy}-before.txt", "w") as file, open(self.stderr, "w") as errors:
            pipe = subprocess.PIPE
            self.before = subprocess.Popen(
                stage, cwd=place, env=environment(), stdin=pipe, stdout=pipe, stderr=file
            )  # fmt: skip
            assert self.before.stdout is not None and self.before.stdin is not None
            with self.before.stdout as between:
                self.team = start(2, *words, cwd=place, stdin=between, stderr=errors)
        # All but the end of the stream: a step comes whole, and the next is waited for.
        data = masked_stream(place)
        self.before.stdin.write(data[: data.index(b"end_of_stream")])
        self.before.stdin.flush()
        end = time.monotonic() + PATIENCE
        while not (place / policy / "v000001").exists():
            assert self.team.poll() is None and time.monotonic() < end, self.stderr.read_text()
            time.sleep(0.1)

    def processes(self) -> dict[int, int]:
        """Process ids of the team, by rank."""
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.team.pid)], capture_output=True, text=True)
        ranks = {}
        for pid in map(int, found.stdout.split()):
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks |= {int(word[5:]): pid for word in words if word.startswith(b"RANK=")}
        return ranks

    def end(self) -> None:
        for process in (self.before, self.team):
            process.kill()
            process.wait()
        assert self.before.stdin is not None
        with suppress(BrokenPipeError):
            self.before.stdin.close()


@pytest.fixture
def loop(table: Path, request: pytest.FixtureRequest) -> Iterator[Loop]:
    made = Loop(table, new_policy(table, request.node.name.replace("[", "-").strip("]")))
    yield made
    made.end()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.deadline
@pytest.mark.parametrize("victim", ["0", "1", "before"])
def test_when_one_is_killed_all_end(loop: Loop, victim: str) -> None:
    ranks = loop.processes()
    assert sorted(ranks) == [0, 1]
    pid = loop.before.pid if victim == "before" else ranks[int(victim)]
    os.kill(pid, signal.SIGKILL)
    code = loop.team.wait(PATIENCE)
    loop.before.wait(PATIENCE)
    assert code != 0
    end = time.monotonic() + PATIENCE
    while not all(gone(pid) for pid in ranks.values()):
        assert time.monotonic() < end
        time.sleep(0.1)
    said = ours(loop.stderr.read_text())
    assert len(said) <= 1, said
    if victim == "before":
        assert "the stage before this one died" in said[0]  # a fault of the first process


DEAF = """
import ctypes, signal, sys
from entropyctl.ending import end_on_signals
from entropyctl.training import processes
end_on_signals()
processes.GRACE_SECONDS = 0.2
watch = processes._Watch(clears_away=True)
mutex = ctypes.create_string_buffer(256)
c = ctypes.CDLL(None)
c.pthread_mutex_lock(mutex)
print("deaf", flush=True)
c.pthread_mutex_lock(mutex)  # for ever, as a GPU's stream waits for a process that has died
"""


@pytest.mark.deadline
def test_a_process_that_hears_no_signal_ends_all_the_same() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEAF], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "deaf\n"
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(") ")[2][0] != "S":  # it has said so, and is not there yet
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
