"""Every command of the README runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- test: ([\w-]+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
BLOCKS = [(name, kind, text) for name, kind, text in BLOCK.findall(README)]


def blocks(name: str) -> str:
    return "\n".join(text for found, _, text in BLOCKS if found == name)


def test_every_block_of_commands_is_named_for_its_test() -> None:
    named = {name for name, kind, _ in BLOCKS if kind in ("sh", "python")}
    assert named == {"quickstart", "run", "install", "tour", "tour-python", "python", "vllm"}


def environment(bin_directory: Path, **variables: str) -> dict[str, str]:
    bin_directory.mkdir(exist_ok=True)
    command = bin_directory / "entropyctl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m entropyctl "$@"\n')
    command.chmod(0o755)
    found = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPYCTL_")}
    path = os.pathsep.join([str(bin_directory), str(Path(sys.executable).parent), os.environ["PATH"]])
    return found | {"PATH": path, "PYTHONPATH": str(ROOT), **variables}


def shell(script: str, cwd: Path, env: dict[str, str], timeout: float = 500) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert ran.returncode == 0, f"{script}\n-- stdout\n{ran.stdout[-3000:]}\n-- stderr\n{ran.stderr[-3000:]}"
    return ran


def test_the_tour(tiny_policy: Path, tmp_path: Path) -> None:
    (tmp_path / "parity.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info=None):\n    return len(solution_str) % 2\n"
    )
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    variables = {"CHECKPOINT": str(tiny_policy), "PROMPTS": "prompts.jsonl", "REWARD": "python:parity:score"}
    env = environment(tmp_path / "bin", **variables)
    ran = shell(blocks("tour"), tmp_path, env)
    assert (tmp_path / "run/policy/latest").readlink() == Path("v000002")
    assert sorted(p.name for p in (tmp_path / "run/metrics").iterdir()) == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert "pass@4" in ran.stdout and "entropyctl mask clip-v --mu 2" in ran.stdout
    shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(blocks('tour-python'))}", tmp_path, env)


def test_the_notebook_example(tmp_path: Path) -> None:
    ran = shell(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(blocks('python'))}", tmp_path, environment(tmp_path / "b")
    )
    match = re.fullmatch(r"(\d+) tokens dropped; predicted dH per unit step (-?[\d.]+) -> (-?[\d.]+)\n", ran.stdout)
    assert match is not None, ran.stdout
    # what Clip_V drops (A < 0, S* far below E[S]) would have lowered the entropy
    assert int(match[1]) > 0 and float(match[3]) > float(match[2])


def test_the_install_commands_resolve(tmp_path: Path) -> None:
    for line in blocks("install").strip().splitlines():
        words = shlex.split(line, comments=True)
        assert words[:2] == ["pip", "install"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--disable-pip-version-check"]
        constraint = ["--constraint", str(ROOT / "examples" / "constraints-cpu.txt")]
        ran = subprocess.run([*command, *constraint, *words[2:]], cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert ran.returncode == 0, f"{line}\n{ran.stderr}"


def test_the_test_command_is_what_ci_runs() -> None:
    assert blocks("run").split() == ["tests/run.sh"]
    assert (ROOT / ".ci" / "run").read_text().split()[-2:] == ["exec", "tests/run.sh"]
    assert os.access(ROOT / "tests" / "run.sh", os.X_OK) and os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.timeout(1200)
def test_the_quickstart_on_the_real_model(tmp_path: Path) -> None:
    """The first command, with one step instead of three and in this environment instead of a new one."""
    assert blocks("quickstart").split() == ["examples/quickstart.sh"]
    pytest.importorskip("gguf")
    models = os.environ.get("ENTROPYCTL_MODELS", str(Path.home() / ".cache" / "entropyctl"))
    env = environment(tmp_path / "bin", VENV=sys.prefix, STEPS="1", ENTROPYCTL_MODELS=models)
    ran = shell(f"examples/quickstart.sh {shlex.quote(str(tmp_path / 'run'))}", ROOT, env, timeout=1100)
    assert "realised dH" in ran.stdout and "entropyctl inspect" in ran.stdout
    assert "2 point(s) of entropy and performance; a law needs at least three" in ran.stderr
    look = next(line.split(maxsplit=1)[1] for line in ran.stdout.splitlines() if line.startswith("look:"))
    assert "entropies" in shell(look.replace("--row 0 --color s_star", ""), ROOT, env).stdout
    assert shell(look, ROOT, env).stdout
