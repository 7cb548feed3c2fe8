"""`eval --policy`: rollout, score and eval in one process, with the numbers of the three commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entropyctl.table import read
from entropyctl.table.rows import read_rows

from .conftest import Cli

OPTIONS = ("--max-tokens", 6, "--temperature", 0.9, "--seed", 5)


@pytest.fixture
def task(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "parity.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info=None):\n    return len(solution_str) % 2\n"
    )
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    return ("--prompts", "prompts.jsonl")


REWARD = ("--reward", "python:parity:score")


def test_the_chain_equals_the_three_commands(
    cli: Cli, policy_root: Path, task: tuple[str, ...], tmp_path: Path
) -> None:
    chain = cli(
        *("eval", "--policy", policy_root, *task, *REWARD, *OPTIONS, "-n", 4, "-k", "1,4", "--json"),
        *("-o", "evals.parquet", "--tee", "kept.parquet"),
    )
    assert chain.code == 0, chain
    rolled = cli("rollout", "--policy", policy_root, *task, *OPTIONS, "-n", 4, "--step", 0)
    scored = cli("score", "--policy", policy_root, *REWARD, stdin=rolled.out)
    apart = cli("eval", "-k", "1,4", "--json", "-o", "apart.parquet", stdin=scored.out)
    assert apart.code == 0, (rolled, scored, apart)
    assert json.loads(chain.text) == json.loads(apart.text)
    assert read_rows(str(tmp_path / "evals.parquet")).rows.equals(read_rows(str(tmp_path / "apart.parquet")).rows)
    with read([str(tmp_path / "kept.parquet")]) as source:
        assert source.context["sampling"]["temperature"] == 0.9
        assert next(iter(source)).rows.num_rows == 12


def test_k_above_n_is_refused_before_anything_is_sampled(cli: Cli, policy_root: Path, task: tuple[str, ...]) -> None:
    ran = cli("eval", "--policy", policy_root, *task, *REWARD, "-n", 4, "-k", 8)
    assert ran.code == 2 and "pass@k needs k <= n, and --n is 4" in ran.line, ran


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("scored files and --policy exclude each other", ["kept.parquet"]),
        ("--reward is missing", []),
    ],
)
def test_what_the_chain_needs(cli: Cli, policy_root: Path, task: tuple[str, ...], words: str, args: list[str]) -> None:
    ran = cli("eval", "--policy", policy_root, *task, *args)
    assert ran.code == 2 and words in ran.line, ran
