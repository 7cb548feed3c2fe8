"""A package of another author, installed for real: its mask and its stage are commands like our own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from entropyctl.table import read

from .conftest import ROOT, Cli, write_scored

EXAMPLE = ROOT / "examples" / "third_party"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the example where pip has put it."""
    directory = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(EXAMPLE, directory / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    target = directory / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sorted(path.name for path in target.iterdir()) == ["entropyctl_example", "entropyctl_example-1.0.dist-info"]
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(target)])}


def pytest_run(*args: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=500)


def test_its_mask_is_listed_and_explained(cli: Cli, installed: dict[str, str]) -> None:
    listed = cli("mask", "--help", env=installed).text
    words = "Focal: weigh tokens down the more probable they were already. (from entropyctl_example.focal)"
    assert re.search(rf"^  focal +{re.escape(words)}$", listed, re.M), listed
    assert "  clip-v " in listed
    explained = cli("mask", "focal", "--help", env=installed).text
    for text in ("w_t = (1 - p_t)^gamma", "1708.02002", "--gamma ", "positive|negative|both", "--only-new"):
        assert text in explained, text


def test_without_the_package_nobody_knows_it(cli: Cli) -> None:
    assert "focal" not in cli("mask", "--help").text
    ran = cli("mask", "focal", "x.parquet", "-o", "y.parquet")
    assert (ran.code, "there is no method 'focal'" in ran.line) == (2, True), ran


def test_its_mask_runs_and_is_recorded(cli: Cli, installed: dict[str, str], tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "s.parquet")
    assert cli("advantage", "grpo", scored, "-q", "-o", "a.parquet").code == 0
    ran = cli(
        "mask", "focal", "--gamma", "2", "--apply-to", "both", "a.parquet", "-q", "-o", "m.parquet", env=installed
    )
    assert (ran.code, ran.err) == (0, ""), ran
    with read([str(tmp_path / "m.parquet")]) as source:
        rows = next(iter(source)).rows
        assert source.chain[-1]["stage"] == "mask focal"
        assert source.chain[-1]["params"] == {"gamma": 2.0, "apply_to": "both"}
    for logprobs, weights in zip(rows["logprobs"].to_pylist(), rows["weights"].to_pylist(), strict=True):
        np.testing.assert_allclose(weights, (1 - np.exp(logprobs)) ** 2, rtol=1e-5, atol=1e-7)
    ran = cli("mask", "focal", "--gamma", "-1", "a.parquet", "-o", "n.parquet", env=installed)
    assert (ran.code, ran.line) == (2, "entropyctl mask focal: --gamma -1: must be a finite number, 0 or above")


def test_its_stage_is_listed_explained_and_runs(cli: Cli, installed: dict[str, str], scored: Path) -> None:
    listed = cli("--help", env=installed).text.partition("\nOther:\n")[2]
    assert listed.startswith("  count-tokens Count the response tokens of each step"), listed
    assert "Usage: entropyctl count-tokens" in cli("count-tokens", "--help", env=installed).text
    with read([str(scored)]) as source:
        tokens = sum(len(row) for step in source for row in step.rows["tokens"].to_pylist())
    ran = cli("count-tokens", scored, "--json", env=installed)
    assert json.loads(ran.out) == {"steps": 2, "rows": 24, "tokens": tokens, "counted": tokens}


def test_its_mask_passes_the_contract(installed: dict[str, str]) -> None:
    ran = pytest_run("tests/test_contract.py", "-k", "focal and not seed", "-vv", env=installed)
    assert ran.returncode == 0, ran.stdout[-3000:]
    for name in ("documented", "pure", "order_of_rows", "outside_the_loss_mask", "no_nan", "denominator"):
        assert f"{name}" in ran.stdout, name
    for name in ("every_keyword_of_a_method_matters[masks-focal-gamma]", "named_by_its_flag[masks-focal-gamma-nan]"):
        assert f"{name} PASSED" in ran.stdout, name


def test_the_contract_sees_a_fault_of_its_mask(installed: dict[str, str], tmp_path: Path) -> None:
    """The suite does look at it: a mask that counts what lies outside the loss mask fails."""
    site = Path(installed["PYTHONPATH"].split(os.pathsep)[1])
    broken = shutil.copytree(site, tmp_path / "site")
    module = broken / "entropyctl_example" / "focal.py"
    text = module.read_text()
    module.write_text(text.replace("rest_N**gamma, 1.0)", "rest_N**gamma, 1.0) * rest_N.sum()"))
    assert module.read_text() != text
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(broken)])}
    ran = pytest_run("tests/test_contract.py", "-k", "focal and outside", env=env)
    assert (ran.returncode, "1 failed" in ran.stdout) == (1, True), ran.stdout[-2000:]


def test_its_own_tests_pass(installed: dict[str, str]) -> None:
    ran = pytest_run(EXAMPLE / "tests", env=installed)
    assert ran.returncode == 0, ran.stdout[-2000:]
