"""`eval --policy`: rollout, score and eval in one process, with the numbers of the three commands."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from entropyctl.laws.evaluate import evaluate
from entropyctl.policy import find_policy
from entropyctl.prompts import load_prompts, prompts_digest
from entropyctl.table import new_record, write
from entropyctl.table.rows import read_rows

from .conftest import Cli, scored_rows

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
    scored = cli("score", "--policy", policy_root, *REWARD, "--tee", "scored.parquet", stdin=rolled.out)
    apart = cli("eval", "-k", "1,4", "--json", "-o", "apart.parquet", stdin=scored.out)
    assert apart.code == 0, (rolled, scored, apart)
    assert json.loads(chain.text) == json.loads(apart.text)
    assert read_rows(str(tmp_path / "evals.parquet")).rows.equals(read_rows(str(tmp_path / "apart.parquet")).rows)
    kept, by_two = (read_rows(str(tmp_path / name)) for name in ("kept.parquet", "scored.parquet"))
    assert kept.rows.select(by_two.rows.column_names).equals(by_two.rows)
    digest = find_policy(str(policy_root)).digest
    assert kept.header.context == by_two.header.context
    assert kept.header.context["scoring"] == {"policies": {"0": digest}, "dtype": "float32"}
    assert kept.header.context["tokenizer"] == find_policy(str(policy_root)).tokenizer_digest
    evals, apart_evals = (read_rows(str(tmp_path / name)).header for name in ("evals.parquet", "apart.parquet"))
    assert evals.context == apart_evals.context
    # One run made two files: a record for each, which says whose problems these were.
    [record], [of_kept] = evals.chain, kept.header.chain
    assert record["id"] != of_kept["id"] and record["policy"] == of_kept["policy"] == digest
    problems = prompts_digest(load_prompts(str(tmp_path / "prompts.jsonl"), announce=str))
    assert record["inputs"] == of_kept["inputs"] == [{"path": "prompts.jsonl", "digest": problems}]
    assert apart_evals.chain[0]["inputs"] == [{"path": "prompts.jsonl", "digest": problems}]


@pytest.mark.parametrize("flag", ["-o", "--tee"])
def test_an_output_that_cannot_be_written_is_known_before_anything_is_sampled(
    cli: Cli, policy_root: Path, task: tuple[str, ...], tmp_path: Path, flag: str
) -> None:
    # A grader that cannot be imported is noticed at the start of sampling: the output's fault comes before it.
    ran = cli(
        *("eval", "-q", "--policy", policy_root, *task, "--reward", "python:nowhere:score"),
        *(flag, tmp_path / "no" / "e.parquet"),
    )
    assert ran.code == 6 and "e.parquet: cannot be written" in ran.line, ran


@pytest.mark.parametrize(
    ("temperature", "names", "words"),
    [
        (0.9, ["other"], "prompts.jsonl: has no problem in common with base.parquet; compare evaluations of one task"),
        (0.5, ["q0"], "sampling.temperature"),
    ],
)
def test_what_cannot_be_compared_is_known_before_anything_is_sampled(
    cli: Cli, policy_root: Path, task: tuple[str, ...], tmp_path: Path, temperature: float, names: list[str], words: str
) -> None:
    base = evaluate([scored_rows(1)])
    base = base.slice(0, 1).set_column(base.column_names.index("prompt_id"), "prompt_id", pa.array(names))
    sampling = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "max_tokens": 6, "stop": []}
    with write(str(tmp_path / "base.parquet"), "evals", new_record("eval", {}), context={"sampling": sampling}) as sink:
        sink.put(0, base)
    command = ("eval", "--policy", policy_root, *task, *REWARD, *OPTIONS, "-n", 2, "--against", "base.parquet")
    ran = cli(*command, "--history", "h", "-q")
    assert ran.code in (3, 5) and words in ran.line, ran
    assert not list((tmp_path / "h").rglob("*.parquet"))


@pytest.mark.parametrize("option", ["-n", "--batch-rows", "--token-budget"])
def test_nothing_is_not_a_number_of_responses(cli: Cli, policy_root: Path, task: tuple[str, ...], option: str) -> None:
    ran = cli("eval", "--policy", policy_root, *task, *REWARD, option, 0)
    assert ran.code == 2 and option in ran.line and "x>=1" in ran.line, ran


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


@pytest.mark.parametrize(
    "words",
    ["--prompts x", "--reward x", "--tee x", "--n 4", "--temperature 0.5", "--seed 3", "--no-chat", "--engine-arg a=b"],
)
def test_flags_of_the_chain_are_refused_for_scored_files(cli: Cli, scored: Path, words: str) -> None:
    flag, *value = words.split()
    ran = cli("eval", scored, flag, *value)
    assert ran.code == 2 and f"{flag}: belongs to --policy" in ran.line, ran


def test_two_outputs_are_two_files(cli: Cli, policy_root: Path, task: tuple[str, ...]) -> None:
    ran = cli("eval", "--policy", policy_root, *task, *REWARD, "-o", "x.parquet", "--tee", "./x.parquet")
    assert ran.code == 2 and "-o and --tee both name" in ran.line, ran
