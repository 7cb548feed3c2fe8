"""`entropyctl score` as a user runs it: grades, statistics, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from entropyctl.dynamics import expected_score, s_star
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.publish import publish
from entropyctl.table import read

from .conftest import CONTEXT, ROOT, Cli, scored_rows, write_scored

STATISTICS = ["logprobs", "entropies", "s_star", "expected_s", "sum_p2"]


@pytest.fixture
def rollouts(cli: Cli, policy_root: Path, tmp_path: Path) -> Path:
    lines = [{"question": f"{i}?", "answer": "7", "colour": "green"} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    ran = cli(
        *("rollout", "--policy", policy_root, "--prompts", "prompts.jsonl", "--n", 2, "--max-tokens", 9),
        *("--temperature", 0.7, "-o", "rollouts.parquet"),
    )
    assert ran.code == 0, ran
    return tmp_path / "rollouts.parquet"


def rows_of(path: Path):
    with read([str(path)]) as source:
        return next(iter(source)).rows, source


def flat(rows, name: str) -> np.ndarray:
    return np.concatenate([np.array(x, np.float64) for x in rows[name].to_pylist()])


def test_statistics_are_of_the_tempered_distribution_and_obey_the_identities(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    ran = cli("score", rollouts, "--policy", policy_root, "-o", "scored.parquet", "--json", "--token-budget", 40)
    assert ran.code == 0, ran
    rows, source = rows_of(tmp_path / "scored.parquet")
    assert source.context["scoring"]["policies"] == {"0": find_policy(str(policy_root)).digest}
    np.testing.assert_allclose(flat(rows, "logprobs"), flat(rows, "rollout_logprobs"), atol=1e-5)
    summary = json.loads(ran.text)
    assert summary["mismatch"]["max"] < 1e-5 and summary["mismatch"]["ess"] > 0.999999
    assert summary["entropy"] == pytest.approx(flat(rows, "entropies").mean(), rel=1e-5)
    np.testing.assert_allclose(flat(rows, "s_star"), s_star(flat(rows, "logprobs"), flat(rows, "entropies")), atol=1e-6)
    model = load_model(find_policy(str(policy_root)), torch.float32, torch.device("cpu"))
    prompt, tokens = rows["prompt_tokens"][0].as_py(), rows["tokens"][0].as_py()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
    p = (logits / 0.7).softmax(dim=1).numpy()
    entropies, squares = -(p * np.log(p)).sum(axis=1), (p**2).sum(axis=1)
    np.testing.assert_allclose(rows["entropies"][0].as_py(), entropies, atol=1e-5)
    np.testing.assert_allclose(rows["sum_p2"][0].as_py(), squares, atol=1e-5)
    truth = expected_score(entropies, squares, (p**2 * np.log(p)).sum(axis=1))
    np.testing.assert_allclose(rows["expected_s"][0].as_py(), truth, atol=1e-5)


def test_grades_and_statistics_may_come_in_one_run_or_two(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    one = cli("score", rollouts, "--reward", "exact", "--policy", policy_root, "-o", "one.parquet")
    assert one.code == 0 and "wrong 6" in one.err, one
    graded = cli("score", rollouts, "--reward", "exact")
    two = cli("score", "--policy", policy_root, "-o", "two.parquet", stdin=graded.out)
    assert two.code == 0, two
    assert rows_of(tmp_path / "one.parquet")[0].equals(rows_of(tmp_path / "two.parquet")[0])


def test_only_new_writes_the_key_and_what_was_made(cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path) -> None:
    assert cli("score", rollouts, "--policy", policy_root, "--only-new", "-o", "new.parquet").code == 0
    rows, _ = rows_of(tmp_path / "new.parquet")
    assert rows.column_names == ["step", "prompt_id", "sample", *STATISTICS]


def test_another_policy_is_refused_unless_it_is_asked_for(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    publish(policy, model, lambda path: None, {})
    another = policy_root / "v000001"
    refused = cli("score", rollouts, "--policy", another, "-o", "s.parquet")
    assert refused.code == 5 and "was sampled by version 0" in refused.line, refused
    assert not (tmp_path / "s.parquet").exists()
    asked = cli("score", rollouts, "--policy", another, "--allow-mismatch", "policies", "-o", "s.parquet")
    assert asked.code == 0, asked
    rows, source = rows_of(tmp_path / "s.parquet")
    assert np.abs(flat(rows, "logprobs") - flat(rows, "rollout_logprobs")).max() > 1e-3
    assert source.chain[-1]["params"]["allow_mismatch"] == ["policies"]


def test_a_model_that_computes_nan_ends_with_8(cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    publish(policy, model, lambda path: None, {})
    ran = cli("score", rollouts, "--policy", policy_root, "--at", "latest", "-o", "s.parquet")
    assert ran.code == 8 and "not numbers" in ran.line, ran
    assert not (tmp_path / "s.parquet").exists()


@pytest.mark.parametrize(
    ("code", "words", "args"),
    [
        (2, "nothing to do; give --reward to grade", []),
        (2, "exact", ["--reward", "exakt"]),
        (3, "no such directory", ["--policy", "nowhere"]),
    ],
)
def test_faults_are_one_line(cli: Cli, rollouts: Path, code: int, words: str, args: list[str]) -> None:
    ran = cli("score", rollouts, *args, "-o", "s.parquet")
    assert ran.code == code and words in ran.line, ran


def test_grading_needs_answers(cli: Cli, policy_root: Path, tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text('{"prompt": "write a poem"}\n')
    options = ["--policy", policy_root, "--prompts", "open.jsonl", "--n", 1, "--max-tokens", 2]
    assert cli("rollout", *options, "-o", "open.parquet").code == 0
    ran = cli("score", "open.parquet", "--reward", "exact", "-o", "s.parquet")
    assert ran.code == 3 and "answer" in ran.line and "open.parquet" in ran.line, ran


def test_statistics_need_tokens(cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path) -> None:
    assert cli("score", rollouts, "--reward", "exact", "--only-new", "-o", "grades.parquet").code == 0
    ran = cli("score", "grades.parquet", "--policy", policy_root, "-o", "s.parquet")
    assert ran.code == 3 and "column 'prompt_tokens' is missing; it is made by `entropyctl rollout`" in ran.line, ran


def test_rows_of_two_policies_are_not_scored_as_if_by_one(cli: Cli, policy_root: Path, tmp_path: Path) -> None:
    digest = find_policy(str(policy_root)).digest
    context = {**CONTEXT, "policies": {"0": digest, "1": "another"}}
    rows = scored_rows()
    versions = pa.array([0] * (rows.num_rows - 1) + [1], pa.int64())
    rows = rows.set_column(rows.column_names.index("policy_version"), "policy_version", versions)
    write_scored(tmp_path / "mixed.parquet", rows, context={k: v for k, v in context.items() if k != "tokenizer"})
    (policy_root / "v000001").symlink_to(policy_root / "v000000")
    ran = cli("score", "mixed.parquet", "--policy", policy_root, "-o", "s.parquet")
    assert ran.code == 5 and "version 1 (another)" in ran.line, ran


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_tokens": [[5], []]}, "has no prompt_tokens"),
        ({"prompt_tokens": [[5], [257]]}, "has the token 257 in prompt_tokens, but the model knows 0 to 256"),
        ({"tokens": [[5], [5, -1]]}, "has the token -1 in tokens, but the model knows 0 to 256"),
        ({"tokens": [[5], [5] * 512]}, "has 513 tokens, more than the 512 positions"),
    ],
)
def test_rows_that_are_no_text_of_the_model_are_named(
    cli: Cli, policy_root: Path, tmp_path: Path, change: dict, message: str
) -> None:
    columns = {"prompt_tokens": [[5], [5]], "tokens": [[5], [5]]} | change
    lists = {name: pa.array(values, pa.list_(pa.int32())) for name, values in columns.items()}
    keys = {"step": [1, 1], "prompt_id": ["a", "b"], "sample": pa.array([0, 0], pa.int32())}
    pq.write_table(pa.table(keys | lists), tmp_path / "foreign.parquet")
    ran = cli("score", "foreign.parquet", "--policy", policy_root, "-o", "s.parquet")
    assert ran.code == 3, ran
    assert f"row step 1, prompt b, sample 0: {message}" in ran.err.strip().splitlines()[-1], ran


def test_a_grader_that_fails_on_every_response_is_no_result(cli: Cli, rollouts: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info):\n    return 1 / 0\n"
    )
    (tmp_path / "huge.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info):\n    return 1e60\n"
    )
    for module in ("broken", "huge"):
        ran = cli("score", rollouts, "--reward", f"python:{module}:score", "-o", "s.parquet")
        assert ran.code == 8 and "failed on every response" in ran.line, ran
        assert not (tmp_path / "s.parquet").exists()


def test_several_rewards_stand_side_by_side(cli: Cli, scored: Path, tmp_path: Path) -> None:
    """`advantage gdpo` reads all of them; the first grading stays what it was."""
    (tmp_path / "graders.py").write_text(
        "def brief(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(len(solution_str) < 9)\n"
        "def even(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(int(solution_str[-1]) % 2 == 0)\n"
    )
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    for name, source, out in (("brief", "scored.parquet", "b.parquet"), ("even", "b.parquet", "e.parquet")):
        words = ("--reward", f"python:graders:{name}", "--reward-as", name, source, "-o", out, "-q")
        ran = cli("score", *words, env=env)
        assert ran.code == 0, ran
    with read([str(tmp_path / "e.parquet")]) as found, read([str(scored)]) as before:
        rows = next(iter(found)).rows
        assert rows["reward"].equals(next(iter(before)).rows["reward"])
        assert rows["reward_even"].to_pylist() == [float(int(r[-1]) % 2 == 0) for r in rows["response"].to_pylist()]
    assert cli("advantage", "gdpo", "e.parquet", "-o", "a.parquet", "-q").code == 0
    ran = cli("advantage", "gdpo", "scored.parquet", "-o", "a.parquet")
    assert (ran.code, "score --reward ... --reward-as NAME" in ran.line) == (3, True), ran
    ran = cli("score", "--policy", "nowhere", "--reward-as", "x", "scored.parquet", "-o", "o.parquet")
    assert (ran.code, "--reward-as x: must be" in ran.line) == (2, True), ran
