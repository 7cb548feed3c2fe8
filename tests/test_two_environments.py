"""Stages of two environments in one pipe: vLLM in its own, everything else here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entropyctl.table import read

from .conftest import ROOT
from .test_readme import blocks, environment, shell

VLLM_PYTHON = os.environ.get("VLLM_PYTHON")


pytestmark = pytest.mark.skipif(
    VLLM_PYTHON is None, reason="VLLM_PYTHON names no interpreter with vLLM; tests/run.sh sets it"
)


def test_the_readmes_pipe_over_two_environments(tmp_path: Path, vllm_policy: Path) -> None:
    (tmp_path / "parity.py").write_text("def score(solution_str): return len(solution_str) % 2\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "say one", "answer": "1"}\n{"prompt": "two", "answer": "2"}\n')
    (tmp_path / "run/policy").mkdir(parents=True)
    (tmp_path / "run/policy/v000000").symlink_to(vllm_policy)
    (tmp_path / "run/policy/latest").symlink_to("v000000")
    there = tmp_path / ".venv-vllm/bin"
    there.mkdir(parents=True)
    (there / "entropyctl").write_text(f'#!/bin/sh\nexec "{VLLM_PYTHON}" -m entropyctl "$@"\n')
    (there / "entropyctl").chmod(0o755)
    env = environment(tmp_path / "bin", PROMPTS="prompts.jsonl", REWARD="python:parity:score")
    ran = shell(blocks("vllm"), tmp_path, env)
    assert "score: sampled against scored log p: mean " in ran.stderr
    with read([str(tmp_path / "run/vllm.parquet")]) as source:
        assert [step.rows.num_rows for step in source] == [8]


def test_vllm_samples_in_its_environment_and_a_trainer_learns_in_another(tmp_path: Path, vllm_policy: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt_id": f"p{i}", "prompt": f"count to {i}", "answer": str(i)} for i in range(3)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "v000000").symlink_to(vllm_policy)
    (policy / "latest").symlink_to("v000000")
    (tmp_path / "mine.py").write_text("def score(solution_str): return len(solution_str) % 2\n")
    here, there = f"{sys.executable} -m entropyctl", f"{VLLM_PYTHON} -m entropyctl"
    pipe = (
        f"{there} rollout --engine vllm --engine-arg max_model_len=256 --policy policy --prompts prompts.jsonl -n 4 "
        f"--max-tokens 12 -q | {here} score --policy policy --reward python:mine:score -q --fail-over max=1e-3"
        f" | {here} advantage grpo -q | {here} mask clip-b -q"
        f" | {here} update --policy policy --publish --lr 1e-3 -q --metrics metrics"
    )
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    assert ran.returncode == 0, ran.stderr
    assert (policy / "latest").readlink().name == "v000001"
    with read([str(tmp_path / "metrics")]) as source:
        assert [step.rows["published_version"].to_pylist() for step in source] == [[1]]
