"""The training loop both ways: five commands on files, and the same stages joined by pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from entropyctl.table import read

from .conftest import ROOT, Cli, without_costs
from .test_table_faults import shell as faulty

GRADER = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return float(len(solution_str) % 2)
"""
STEPS = 3


Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with prompts, a grader, and `entropyctl` on its PATH."""
    place = tmp_path_factory.mktemp("loop")
    (place / "bin").mkdir()
    for name, module in (("entropyctl", "entropyctl"), ("torchrun", "torch.distributed.run")):
        command = place / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    (place / "parity.py").write_text(GRADER)
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(8)]
    (place / "prompts.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def shell(place: Path) -> Shell:
    """Run a script of examples/ there."""

    def run(script: str, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPYCTL_")}
        environment |= {
            "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PROMPTS": "prompts.jsonl",
            "REWARD": "python:parity:score",
            "PROMPTS_PER_STEP": "4",
            "N": "4",
            "MAX_TOKENS": "6",
            "LR": "1e-3",
            "MASK": "clip-v --mu 1 --max-frac 1",
            **variables,
        }
        command = ["bash", str(ROOT / "examples" / script), *args]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=500)

    return run


def new_run(directory: Path, tiny_policy: Path) -> Path:
    policy = directory / "policy"
    policy.mkdir(parents=True)
    (policy / "v000000").symlink_to(tiny_policy)
    (policy / "latest").symlink_to("v000000")
    return directory


def weights(run: Path, steps: int = STEPS) -> list[bytes]:
    return [(run / "policy" / f"v{k:06d}" / "model.safetensors").read_bytes() for k in range(1, steps + 1)]


def metrics(run: Path) -> list[dict]:
    with read([str(run / "metrics")]) as source:
        return [row for step in source for row in step.rows.to_pylist()]


@pytest.fixture(scope="module")
def by_files(shell: Shell, place: Path, tiny_policy: Path) -> Path:
    """A run of three steps with `loop_files.sh`."""
    run = new_run(place / "files", tiny_policy)
    ran = shell("loop_files.sh", "files", str(STEPS))
    assert ran.returncode == 0, ran.stderr
    return run


def test_files_and_pipes_publish_the_same_weights_bit_for_bit(
    shell: Shell, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    by_pipes = new_run(place / "pipes", tiny_policy)
    ran = shell("loop_pipe.sh", "pipes", str(STEPS))
    assert ran.returncode == 0, ran.stderr
    assert weights(by_files) == weights(by_pipes)
    assert len({*weights(by_files)}) == STEPS  # and every step changed them
    first, second = metrics(by_files), metrics(by_pipes)
    for a, b in zip(first, second, strict=True):
        assert without_costs(a) == without_costs(b)
    assert [m["published_version"] for m in first] == [1, 2, 3]
    assert any(m["mask_fraction"] > 0 for m in first)
    assert all(m["realised_change"] != 0 for m in first)


def test_the_steps_of_a_run_are_one_table(cli: Cli, place: Path, by_files: Path) -> None:
    ran = cli(
        "mask",
        "clip-b",
        "files/step-*/scored.parquet",
        "files/step-*/advantages.parquet",
        "-o",
        "all.parquet",
        cwd=place,
    )
    assert ran.code == 0, ran
    with read([str(place / "all.parquet")]) as source:
        assert [step.number for step in source] == [1, 2, 3]
        assert sorted(source.context["policies"]) == ["0", "1", "2"]


def test_an_interrupted_run_goes_on_where_it_stopped(
    shell: Shell, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    parts = new_run(place / "parts", tiny_policy)
    assert shell("loop_files.sh", "parts", "1").returncode == 0
    # the grader is gone in the middle of step 2: the step fails, and what was published stays
    failed = shell("loop_files.sh", "parts", "2", REWARD="python:nowhere:score")
    assert failed.returncode == 2, failed.stderr
    assert (parts / "policy" / "latest").readlink() == Path("v000001")
    assert shell("loop_files.sh", "parts", "2").returncode == 0
    assert weights(parts, 2) == weights(by_files, 2)


def test_a_failing_stage_fails_the_pipe_and_publishes_nothing(shell: Shell, place: Path, tiny_policy: Path) -> None:
    run = new_run(place / "failing", tiny_policy)
    failed = shell("loop_pipe.sh", "failing", "1", REWARD="python:nowhere:score")
    assert failed.returncode != 0
    assert (run / "policy" / "latest").readlink() == Path("v000000")
    assert not (run / "metrics").exists()
    assert "Traceback" not in failed.stderr


INPUTS = [f"files/step-000001/{name}.parquet" for name in ("scored", "advantages", "masks")]


def test_the_same_step_cannot_be_trained_on_twice(cli: Cli, place: Path, by_files: Path) -> None:
    again = cli("update", *INPUTS, "--policy", "files/policy", "--publish", cwd=place)
    assert again.code == 5 and "was scored by policy" in again.line, again


def test_a_plain_checkpoint_says_how_to_become_a_policy(
    cli: Cli, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    ran = cli("update", *INPUTS, "--policy", tiny_policy, "--publish", cwd=place)
    assert ran.code == 2 and "ln -s v000000 run/policy/latest" in ran.line, ran


def test_a_mask_that_removes_everything_publishes_the_same_weights(
    cli: Cli, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    run = new_run(place / "nothing", tiny_policy)
    scored, advantages, _ = INPUTS
    nothing = cli("mask", "quadrant", "--keep=", scored, advantages, cwd=place)  # no quadrant: no token pulls
    options = ["--policy", "nothing/policy", "--publish", "--metrics", "nothing/metrics", "--weight-decay", 0.1]
    assert cli("update", *options, stdin=nothing.out, cwd=place).code == 0
    (row,) = metrics(run)
    assert row["grad_norm"] == 0 and row["realised_change"] == 0 and row["optimizer_steps"] == 0
    assert weights(run, 1) == [(tiny_policy / "model.safetensors").read_bytes()]


def test_several_steps_in_one_stream_each_measure_the_weights_they_train(
    cli: Cli, place: Path, tiny_policy: Path
) -> None:
    """All rows are of version 0; each step is trained into the next version, and its entropies are its own."""
    run = new_run(place / "stream", tiny_policy)
    policy = ("--policy", "stream/policy")
    sizes = ("--prompts-per-step", 4, "--n", 4, "--max-tokens", 6)
    rolled = cli("rollout", *policy, "--prompts", "prompts.jsonl", "--steps", 2, *sizes, cwd=place)
    scored = cli("score", *policy, "--reward", "python:parity:score", stdin=rolled.out, cwd=place)
    ready = cli("advantage", "grpo", stdin=scored.out, cwd=place)
    options = ("--publish", "--lr", 1e-3, "--metrics", "stream/metrics")
    ran = cli("update", *policy, *options, stdin=ready.out, cwd=place)
    assert ran.code == 0, ran
    first, second = metrics(run)
    assert [(m["policy_version"], m["published_version"]) for m in (first, second)] == [(0, 1), (1, 2)]
    # the second step's "before" is version 1 on its tokens: scoring them with it must give the same entropy
    (place / "ready.arrows").write_bytes(scored.out)
    again = cli("score", "ready.arrows", "--policy", "stream/policy/v000001", "--allow-mismatch", "policies", cwd=place)
    (place / "again.arrows").write_bytes(again.out)
    with read([str(place / "again.arrows")]) as source:
        rows = list(source)[1].rows
    entropies = [h for row in rows["entropies"].to_pylist() for h in row]
    assert second["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


def test_weights_that_compute_no_numbers_are_not_published(
    cli: Cli, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    run = new_run(place / "blown", tiny_policy)
    options = ("--policy", "blown/policy", "--publish", "--metrics", "blown/metrics", "--lr", 1e30)
    ran = cli("update", *INPUTS, *options, cwd=place)
    assert ran.code == 8 and "not numbers" in ran.line, ran
    assert (run / "policy" / "latest").readlink() == Path("v000000")
    assert not list((run / "metrics").iterdir())


def test_a_step_that_cannot_be_published_leaves_no_metrics(place: Path, tiny_policy: Path, by_files: Path) -> None:
    """Files may have 32 KiB: that of the metrics has fewer, that of the weights more."""
    run = new_run(place / "full", tiny_policy)
    command = f"entropyctl update {' '.join(map(str, INPUTS))} --policy full/policy --publish --metrics full/metrics"
    ran = faulty(f"ulimit -f 32; {command}", place)
    assert (ran.returncode, ran.stderr.count("cannot be written")) == (6, 1), ran
    assert (run / "policy" / "latest").readlink() == Path("v000000")
    assert not list((run / "metrics").iterdir())


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.sh")))
def test_scripts_stop_at_the_first_fault(script: str) -> None:
    text = (ROOT / "examples" / script).read_text()
    assert "set -euo pipefail" in text
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(ROOT / "examples" / script)], check=True)


# --- the other scripts of examples/ --------------------------------------------------------------------------------


def test_two_gpus_with_the_cpu_standing_in_for_each(
    shell: Shell, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    run = new_run(place / "gpus", tiny_policy)
    ran = shell("loop_two_gpus.sh", "gpus", str(STEPS), LAG="0", SAMPLER_GPU="0", TRAINER_GPU="1,2")
    assert ran.returncode == 0, ran.stderr
    assert [m["published_version"] for m in metrics(run)] == [1, 2, 3]
    # with one step of lag the second step is sampled by the policy before the first update
    lagging = new_run(place / "lagging", tiny_policy)
    ran = shell("loop_two_gpus.sh", "lagging", str(STEPS))
    assert ran.returncode == 0, ran.stderr
    assert [m["published_version"] for m in metrics(lagging)] == [1, 2, 3]
    assert max(m["lag"] for m in metrics(lagging)) <= 1


def test_an_array_of_tasks_samples_what_one_command_samples(
    shell: Shell, place: Path, tiny_policy: Path, by_files: Path
) -> None:
    run = new_run(place / "slurm", tiny_policy)
    array = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"}
    for task in ("1", "3"):
        ran = shell("loop_slurm.sh", "sample", "slurm", "1", SLURM_ARRAY_TASK_ID=task, **array)
        assert ran.returncode == 0, ran.stderr
    ran = shell("loop_slurm.sh", "train", "slurm", "1")
    assert ran.returncode == 3, ran.stderr
    assert "slurm/step-000001/scored: shard 1/3 is missing" in ran.stderr
    assert shell("loop_slurm.sh", "sample", "slurm", "1", SLURM_ARRAY_TASK_ID="2", **array).returncode == 0
    ran = shell("loop_slurm.sh", "train", "slurm", "1")
    assert ran.returncode == 0, ran.stderr
    assert metrics(run)[0]["reward"] == metrics(by_files)[0]["reward"]
    assert metrics(run)[0]["entropy"] == pytest.approx(metrics(by_files)[0]["entropy"], rel=1e-5)


def test_fifty_masks_over_the_same_rows(shell: Shell, cli: Cli, place: Path, by_files: Path) -> None:
    scored, *_ = INPUTS
    assert cli("advantage", "grpo", scored, "-o", "advantaged.parquet", cwd=place).code == 0
    ran = shell("remask_offline.sh", "advantaged.parquet", "masks")
    assert ran.returncode == 0, ran.stderr
    head, *lines = ran.stdout.splitlines()
    assert head.split() == ["mask", "removed", "change", "of", "H"]
    assert len(lines) == 50
    assert len({line.rsplit(maxsplit=2)[2] for line in lines}) > 20  # they differ in what they do
    again = shell("remask_offline.sh", "advantaged.parquet", "masks")
    assert (again.stdout, again.stderr) == (ran.stdout, "")
    mask = "masks/steer_--w-min_0.5.parquet"
    assert cli("check", "--full", mask, cwd=place).code == 0
    policy = new_run(place / "remasked", place / "files" / "policy" / "v000000") / "policy"
    ran = cli("update", "advantaged.parquet", mask, "--policy", policy, cwd=place)
    assert ran.code == 0, ran


INTERRUPTED = """
import sys
from entropyctl import ending
from entropyctl.stages.update import run
from entropyctl.training import publishing
publish = publishing.publish
def publish_and_end(*given, **more):
    publish(*given, **more)
    raise ending.WriterGone
publishing.publish = publish_and_end
sys.exit(run(sys.argv[1:]))
"""


def test_a_version_that_is_visible_keeps_its_metrics(place: Path, tiny_policy: Path, by_files: Path) -> None:
    """The stage before dies in the instant between the version's publishing and the trainer's hearing of it."""
    run = new_run(place / "instant", tiny_policy)
    options = ["--policy", "instant/policy", "--publish", "--metrics", "instant/metrics", "--quiet"]
    command = [sys.executable, "-c", INTERRUPTED, *INPUTS, *options]
    ran = subprocess.run(
        command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 4 and "Traceback" not in ran.stderr, ran
    assert [m["published_version"] for m in metrics(run)] == [1]
    assert (run / "policy" / "latest").readlink() == Path("v000001")
