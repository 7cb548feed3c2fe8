"""`update` on tables of many parts: greedy rows, tools, masks that leave nothing, a reward model beside the policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.table.columns import list_column, row_lengths, with_column

from .conftest import Cli, Ran, scored_rows, without_costs, write_scored

SAMPLING = {"sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}}


def ok(ran: Ran) -> Ran:
    assert ran.code == 0, ran
    return ran


def loss_mask(rows: pa.Table, values_N: np.ndarray) -> pa.Table:
    return with_column(rows, "loss_mask", list_column(values_N, row_lengths(rows["tokens"]), pa.bool_()))


@pytest.fixture
def rollouts(tmp_path: Path) -> pa.Table:
    return scored_rows(longest=8)


def scored_by_policy(cli: Cli, policy: Path, directory: Path, rows: pa.Table) -> None:
    """`s.parquet`, scored by a policy that is also its own reference."""
    write_scored(directory / "r.parquet", rows, context=SAMPLING)
    ok(cli("score", "--policy", policy, "--ref", policy, "r.parquet", "-o", "s.parquet", "-q"))


def updated(cli: Cli, policy: Path, *words: str) -> dict[str, float]:
    return dict(json.loads(ok(cli("update", "--policy", policy, "--json", *words)).text))


def test_a_greedy_row_leaves_no_trace_in_an_update(
    cli: Cli, rollouts: pa.Table, policy_root: Path, tmp_path: Path
) -> None:
    """The same step with a greedy row for each problem, which remax compared with, and without them."""
    greedy_B = np.arange(12) % 4 == 3
    lengths_B = row_lengths(rollouts["tokens"])
    rows = loss_mask(rollouts, ~np.repeat(greedy_B, lengths_B)).append_column("greedy", pa.array(greedy_B))
    scored_by_policy(cli, policy_root, tmp_path, rows)
    ok(cli("advantage", "remax", "s.parquet", "-o", "with.parquet", "-q"))
    whole = pq.read_table(tmp_path / "with.parquet").replace_schema_metadata(None)
    pq.write_table(whole.take(np.flatnonzero(~greedy_B)).drop_columns(["greedy"]), tmp_path / "without.parquet")
    allowed = ("--allow-mismatch", "scoring.policies", "--all-rows", "--reduction", "seq-mean-token-mean")
    trained = [without_costs(updated(cli, policy_root, f"{name}.parquet", *allowed)) for name in ("with", "without")]
    trained = [{k: v for k, v in row.items() if v is not None} for row in trained]
    assert trained[0] == pytest.approx(trained[1], rel=1e-5, abs=1e-7)
    assert trained[0]["rows"] == 9
    offline = [
        json.loads(ok(cli("objective", "ppo", f"{name}.parquet", *allowed, "-o", "o.parquet", "--json")).text)
        for name in ("with", "without")
    ]
    assert offline[0] == pytest.approx(offline[1])


def test_the_entropy_of_a_step_is_of_the_tokens_that_the_policy_chose(
    cli: Cli, rollouts: pa.Table, policy_root: Path, tmp_path: Path
) -> None:
    """Not of what a tool wrote; but of what a mask took out of the loss."""
    rollouts = with_column(rollouts, "finish_reason", pa.array(["stop", "length", "stop"] * 4))
    lengths_B = row_lengths(rollouts["tokens"])
    own_N = np.arange(lengths_B.sum()) % 3 != 1
    scored_by_policy(cli, policy_root, tmp_path, loss_mask(rollouts, own_N))
    entropies_N = np.concatenate(pq.read_table(tmp_path / "s.parquet")["entropies"].to_pylist())
    ok(cli("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q"))
    ok(cli("mask", "overlong", "a.parquet", "-o", "m.parquet", "-q"))
    for file in ("a.parquet", "m.parquet"):
        assert updated(cli, policy_root, file)["entropy"] == pytest.approx(entropies_N[own_N].mean(), rel=1e-5), file
    assert updated(cli, policy_root, "a.parquet")["mask_fraction"] == 0.0


@pytest.mark.parametrize("control", ["skywork", "trl"])
def test_an_entropy_controller_bears_a_step_that_lost_all_its_tokens(
    cli: Cli, rollouts: pa.Table, policy_root: Path, tmp_path: Path, control: str
) -> None:
    cut = with_column(rollouts, "finish_reason", pa.array(["length"] * 12))
    scored_by_policy(cli, policy_root, tmp_path, cut)
    ok(cli("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q"))
    ok(cli("mask", "overlong", "a.parquet", "-o", "m.parquet", "-q"))
    ran = ok(cli("update", "--policy", policy_root, "--entropy-control", control, "m.parquet", "--json"))
    assert "Warning" not in ran.err, ran
    assert json.loads(ran.text)["entropy_coef"] == 0.0


def test_means_over_responses_may_count_those_that_lost_all_their_tokens(cli: Cli, tmp_path: Path) -> None:
    """A third of the responses is cut off: the mean over all of them is two thirds of that over the others."""
    rows = with_column(scored_rows(), "finish_reason", pa.array(["stop", "stop", "length"] * 4))
    write_scored(tmp_path / "s.parquet", rows)
    ok(cli("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q"))
    ok(cli("mask", "overlong", "a.parquet", "-o", "m.parquet", "-q"))
    words = ("objective", "gmpo", "m.parquet", "-o", "o.parquet", "--json")
    left, every = (json.loads(ok(cli(*words, *more)).text)["loss"] for more in ((), ("--all-rows",)))
    assert every == pytest.approx(left * 8 / 12)


# PRIME's reward model.


@pytest.fixture
def prm_root(tiny_policy: Path, tmp_path: Path) -> Path:
    root = tmp_path / "prm"
    root.mkdir()
    (root / "v000000").symlink_to(tiny_policy)
    (root / "latest").symlink_to("v000000")
    return root


def test_a_reward_model_learns_from_whole_responses_whatever_the_mask(
    cli: Cli, rollouts: pa.Table, prm_root: Path, tmp_path: Path
) -> None:
    scored_by_policy(cli, prm_root, tmp_path, rollouts)
    ok(cli("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q"))
    ok(cli("mask", "kl-cov", "a.parquet", "-o", "m1.parquet", "-q"))
    ok(cli("mask", "clip-b", "--mu", "0.5", "m1.parquet", "-o", "m.parquet", "-q"))
    words = ("--objective", "prime-rm", "--epochs", "2", "--lr", "1e-3")
    plain, masked = (updated(cli, prm_root, file, *words) for file in ("s.parquet", "m.parquet"))
    assert masked["loss"] == plain["loss"]
    assert masked["tokens"] == plain["tokens"]
    offline = json.loads(ok(cli("objective", "prime-rm", "m.parquet", "-o", "o.parquet", "--json")).text)
    assert offline["loss"] == pytest.approx(np.log(2))  # the reference is the model itself
    ran = cli("update", "--policy", prm_root, "--objective", "prime-rm", "--mask", "live", "m.parquet")
    assert (ran.code, "--mask live: masks are the policy's" in ran.line) == (2, True), ran


def test_a_reward_model_cannot_be_trained_twice_on_a_step_that_it_scored(
    cli: Cli, rollouts: pa.Table, prm_root: Path, tmp_path: Path
) -> None:
    scored_by_policy(cli, prm_root, tmp_path, rollouts)
    ok(cli("score", "--prm", prm_root, "s.parquet", "-o", "p.parquet", "-q"))
    words = ("update", "--policy", prm_root, "--objective", "prime-rm", "--publish", "-q")
    ok(cli(*words, "p.parquet"))
    again = cli(*words, "p.parquet")
    assert (again.code, "was scored by reward model" in again.line) == (5, True), again
    ok(cli(*words, "p.parquet", "--allow-mismatch", "scoring.prm"))
    ok(cli(*words, "s.parquet"))  # which no reward model scored: the authors' update "before"


# Tables that were scored or graded again.


@pytest.mark.parametrize("method", ["seed-grpo", "kl-in-reward"])
def test_a_second_scoring_does_not_change_what_is_of_the_policy_that_sampled(
    cli: Cli, tmp_path: Path, method: str
) -> None:
    """`score --keep-old` with a newer policy replaces logprobs, and the authors take those of the old one."""
    rows, other = scored_rows(seed=1), scored_rows(seed=1)["logprobs"].to_pylist()
    newer = pa.array([[value - 0.5 * i for i, value in enumerate(row)] for row in other], pa.list_(pa.float32()))
    rows = rows.append_column("ref_logprobs", newer)
    write_scored(tmp_path / "once.parquet", rows)
    write_scored(
        tmp_path / "twice.parquet",
        with_column(rows.append_column("old_logprobs", rows["logprobs"]), "logprobs", newer),
    )
    column = "reward" if method == "kl-in-reward" else "advantages"
    found = []
    for name in ("once", "twice"):
        ok(cli("advantage", method, f"{name}.parquet", "-o", "o.parquet", "-q"))
        found.append(pq.read_table(tmp_path / "o.parquet")[column].to_pylist())
    assert found[0] == found[1]
    assert found[0] != rows["reward"].to_pylist()


def test_rewards_of_tokens_do_not_outlive_the_grading_that_they_shaped(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows()
    rows = rows.append_column("ref_logprobs", rows["logprobs"]).append_column("answer", pa.array(["answer 1"] * 12))
    write_scored(tmp_path / "s.parquet", rows)
    ok(cli("advantage", "kl-in-reward", "s.parquet", "-o", "k.parquet", "-q"))
    for file in ("s", "k"):
        ok(cli("score", "--reward", "exact", f"{file}.parquet", "-o", f"{file}2.parquet", "-q"))
        ok(cli("advantage", "reinforce++", f"{file}2.parquet", "-o", f"{file}3.parquet", "-q"))
    first, second = (pq.read_table(tmp_path / f"{file}3.parquet")["advantages"] for file in ("s", "k"))
    assert first == second
