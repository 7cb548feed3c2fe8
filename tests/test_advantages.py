"""Advantage estimators: equal to their authors' code, one contract for all, and the choice of groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.advantages import AdvantageSummary, apply_advantage, grpo, informative_groups
from entropyctl.table import read

from .conftest import ROOT, Cli, scored_rows, write_scored

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
REWARDS = np.array(PEERS["fixture"]["reward"])
GROUPS = np.unique(PEERS["fixture"]["group"], return_inverse=True)[1]


def golden(method: str) -> np.ndarray:
    """The peers' advantage of each row (they are the same for all tokens of a row)."""
    case = next(case for case in PEERS["cases"] if case["method"] == method)
    return np.array([row[0] for row in case["advantages"]])


@pytest.mark.parametrize(("method", "params"), [("advantage/grpo", {}), ("advantage/dr-grpo", {"std": False})])
def test_grpo_gives_its_authors_numbers(method: str, params: dict[str, Any]) -> None:
    assert np.abs(grpo(REWARDS, GROUPS, **params) - golden(method)).max() < 1e-6


def test_grpo_in_small_numbers() -> None:
    # mean 0.25 and unbiased deviation 0.5
    assert grpo(np.array([1.0, 0, 0, 0]), np.zeros(4)).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert grpo(np.array([1.0, 0, 0, 0]), np.zeros(4), eps=0.5).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert grpo(np.array([1.0, 0, 0, 0]), np.zeros(4), std=False).tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("std", [True, False])
@pytest.mark.parametrize("reward", [0.7, 1e-8, -3.1, 1e9, 0.1 + 0.2])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_a_group_of_equal_rewards_gets_exactly_zero(reward: float, size: int, std: bool) -> None:
    for kind in (np.float32, np.float64):
        assert grpo(np.full(size, reward, kind), np.zeros(size, int), std=std).tolist() == [0.0] * size


def test_a_group_of_one_keeps_its_reward() -> None:
    assert grpo(np.array([0.7, 0.0, 1.0]), np.array([5, 6, 6])).tolist()[0] == pytest.approx(0.7 / (1 + 1e-6))
    assert grpo(np.array([0.7]), np.array([0]), std=False).tolist() == [0.7]


@given(
    rewards=st.lists(st.floats(-5, 5, width=16), min_size=2, max_size=12),
    shift=st.integers(-3, 3),
    scale=st.sampled_from([0.5, 2.0, 4.0]),
)
def test_grpo_is_invariant_to_the_scale_of_rewards(rewards: list[float], shift: int, scale: float) -> None:
    reward, group = np.array(rewards), np.zeros(len(rewards))
    eps = 0.0 if np.ptp(reward) else 1.0
    before, after = grpo(reward, group, eps=eps), grpo(reward * scale + shift, group, eps=eps)
    assert np.allclose(before, after, atol=1e-6)
    assert abs(before.sum()) < 1e-6 * len(rewards) + 1e-9


# On the rows of a table.


def graded(outcomes: list[str], rewards: list[float], groups: list[str], **extra: Any) -> pa.Table:
    lengths = [2, 0, 1, 3] * (len(outcomes) // 4)
    columns = {
        "step": pa.array([1] * len(outcomes), pa.int64()),
        "prompt_id": groups,
        "sample": pa.array(range(len(outcomes)), pa.int32()),
        "tokens": pa.array([[7] * n for n in lengths], pa.list_(pa.int32())),
        "loss_mask": pa.array([[True] * n for n in lengths], pa.list_(pa.bool_())),
        "reward": pa.array(rewards, pa.float32()),
        "outcome": outcomes,
    }
    return pa.table(columns | extra)


def test_every_token_of_a_row_gets_its_advantage_and_none_outside_the_mask() -> None:
    mask = pa.array([[True, False], [], [True], [True, True, False]], pa.list_(pa.bool_()))
    rows = graded(["correct", "wrong", "wrong", "wrong"], [1, 0, 0, 0], ["p"] * 4, loss_mask=mask)
    found = apply_advantage(rows, grpo, {"std": False}, summary := AdvantageSummary()).rows["advantages"].to_pylist()
    assert found == [[0.75, 0.0], [], [-0.25], [-0.25, -0.25, 0.0]]
    assert summary.as_dict() == {"rows": 4, "groups": 1, "informative_groups": 1, "reward": 0.25}


def test_a_group_need_not_stand_together() -> None:
    rows = graded(["correct", "wrong"] * 2, [1, 0, 0, 1], ["a", "b", "a", "b"])
    found = apply_advantage(rows, grpo, {"std": False}).rows["advantages"].to_pylist()
    assert found == [[0.5, 0.5], [], [-0.5], [0.5, 0.5, 0.5]]


def test_groups_are_told_apart_by_their_outcomes() -> None:
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    rewards = [0.7, 0.7000001, 1, 0, 0.5, 0.5, 0, 0]  # shaped: a differs, but says nothing
    outcomes = ["correct", "correct", "correct", "wrong", "wrong", "timeout", "wrong", "wrong"]
    rows = graded(outcomes, rewards, groups)
    assert informative_groups(rows).tolist() == [False] * 2 + [True] * 2 + [False] * 4
    without = rows.drop_columns(["outcome"])
    assert informative_groups(without).tolist() == [True] * 4 + [False] * 4
    assert informative_groups(rows.slice(0, 0)).tolist() == []


def test_a_group_without_a_correct_response_teaches_nothing() -> None:
    """Wrong and unparsable differ as outcomes, and are worth the same."""
    rows = pa.table({"prompt_id": ["a", "a", "b", "b"], "outcome": ["wrong", "unparsable", "timeout", "correct"]})
    assert informative_groups(rows).tolist() == [False, False, True, True]


def test_a_greedy_row_is_no_sample_of_its_group(cli: Cli, tmp_path: Path) -> None:
    """Group p0 is all right but for its greedy row, p1 has both among its samples."""
    rows = scored_rows(1, groups=2, samples=3)
    outcomes = ["correct", "correct", "wrong", "correct", "wrong", "wrong"]
    for name, values in (("outcome", outcomes), ("reward", pa.array([1, 1, 0, 1, 0, 0], pa.float32()))):
        rows = rows.set_column(rows.column_names.index(name), name, values if name == "reward" else pa.array(values))
    rows = rows.append_column("greedy", pa.array([False, False, True] * 2))
    assert informative_groups(rows).tolist() == [False] * 3 + [True] * 3
    write_scored(tmp_path / "s.parquet", rows)
    ran = cli("advantage", "remax", "s.parquet", "-o", "out.parquet", "--json")
    assert json.loads(ran.text) == {"rows": 6, "groups": 2, "informative_groups": 1, "reward": 0.75}, ran
    assert cli("advantage", "remax", "s.parquet", "--keep-groups", "2", "-o", "out.parquet").code == 0
    with read([str(tmp_path / "out.parquet")]) as source:
        assert next(iter(source)).rows["prompt_id"].to_pylist() == ["p1"] * 3


def test_the_first_informative_groups_are_kept(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1, groups=4, samples=2)
    outcomes = ["wrong", "wrong", "correct", "wrong", "wrong", "correct", "correct", "wrong"]
    write_scored(
        tmp_path / "s.parquet", rows.set_column(rows.column_names.index("outcome"), "outcome", pa.array(outcomes))
    )
    ran = cli("advantage", "grpo", "s.parquet", "--keep-groups", "2", "-o", "out.parquet", "--json")
    assert ran.code == 0, ran
    assert json.loads(ran.text)["informative_groups"] == 2
    with read([str(tmp_path / "out.parquet")]) as source:
        step = next(iter(source))
        assert step.rows["prompt_id"].to_pylist() == ["p1", "p1", "p2", "p2"]
        assert (source.chain[-1]["rows_in"], source.chain[-1]["rows"]) == (8, 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--keep-groups", "0"), "'--keep-groups': 0 is not in the range x>=1"),
        (("--keep-groups", "-3"), "'--keep-groups': -3 is not in the range x>=1"),
        (("--eps", "nan"), "--eps nan: must be a finite number"),
    ],
)
def test_a_bad_value_on_the_command_line_is_a_usage_error(
    cli: Cli, scored: Path, flags: tuple[str, str], words: str
) -> None:
    ran = cli("advantage", "grpo", "scored.parquet", *flags, "-o", "out.parquet")
    assert (ran.code, words in ran.line) == (2, True), ran
    assert not (scored.parent / "out.parquet").exists()


def test_a_step_without_an_informative_group_is_empty(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1)
    alike = rows.set_column(rows.column_names.index("outcome"), "outcome", pa.array(["wrong"] * 12))
    write_scored(tmp_path / "s.parquet", alike, scored_rows(2))
    ran = cli("advantage", "grpo", "s.parquet", "--keep-groups", "9", "-q")
    assert ran.code == 0, ran
    again = cli("mask", "clip-v", "-o", "out.parquet", stdin=ran.out)
    assert again.code == 0, again
    with read([str(tmp_path / "out.parquet")]) as source:
        assert [step.number for step in source] == [2]


def test_rows_of_no_tokens_pass(cli: Cli, tmp_path: Path) -> None:
    rows = graded(["correct", "wrong", "wrong", "wrong"], [1, 0, 0, 0], ["p"] * 4)
    write_scored(tmp_path / "s.parquet", rows)
    assert cli("advantage", "grpo", "s.parquet", "-o", "out.parquet").code == 0
    with read([str(tmp_path / "out.parquet")]) as source:
        assert next(iter(source)).rows["advantages"][1].as_py() == []


def test_a_null_reward_is_not_a_zero(cli: Cli, tmp_path: Path) -> None:
    rows = graded(["correct", "wrong", "wrong", "wrong"], [1, 0, None, 0], ["p"] * 4)
    write_scored(tmp_path / "s.parquet", rows)
    ran = cli("advantage", "grpo", "s.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert "row step 1, prompt p, sample 2: 'reward' is null, not computed; run `entropyctl score --reward`" in ran.line


def test_a_shaping_of_the_reward_after_an_estimator_is_told(cli: Cli, scored: Path) -> None:
    cli("advantage", "grpo", "scored.parquet", "-o", "advantaged.parquet")
    shape = ("advantage", "overlong", "--max-length", 6, "--buffer", 4)
    ran = cli(*shape, "advantaged.parquet", "-o", "shaped.parquet")
    assert ran.code == 0, ran
    assert "the advantages in advantaged.parquet are of the old rewards; estimate them again" in ran.err
    assert "advantages" not in cli(*shape, "scored.parquet", "-o", "shaped.parquet").err


def test_what_an_estimator_misses_names_the_file(cli: Cli, scored: Path) -> None:
    ran = cli("advantage", "gdpo", "scored.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert ran.line.startswith("entropyctl advantage gdpo: scored.parquet: no column 'reward_...'")
