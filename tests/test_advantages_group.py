"""Estimators that compare the responses of a group or whiten a step: their authors' numbers, and algebra."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl import advantages as adv
from entropyctl import registry
from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.advantages._whiten import whiten
from entropyctl.errors import InputError, UsageError
from entropyctl.inputs import spread_last
from entropyctl.table import read

from .conftest import ROOT, Cli, scored_rows, write_scored

ONES = np.ones(4, bool)


def test_what_is_to_come_is_discounted_within_its_row() -> None:
    rewards, rows = np.array([0.0, 0, 1, 2, 8]), np.array([0, 0, 0, 1, 1])
    assert returns_to_go(rewards, rows, np.ones(5, bool), 0.5).tolist() == [0.25, 0.5, 1, 6, 8]
    assert returns_to_go(rewards, rows, np.ones(5, bool), 1.0).tolist() == [1, 1, 1, 10, 8]
    assert returns_to_go(rewards, rows, np.ones(5, bool), 0.0).tolist() == rewards.tolist()


def test_tokens_outside_the_mask_are_stepped_over() -> None:
    rewards, mask = np.array([1.0, 99, np.nan, 4]), np.array([True, False, False, True])
    assert returns_to_go(rewards, np.zeros(4, int), mask, 0.5).tolist() == [3, 0, 0, 4]
    assert returns_to_go(rewards, np.zeros(4, int), ~ONES, 0.5).tolist() == [0, 0, 0, 0]


@given(
    rows=st.lists(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), max_size=40), max_size=6),
    gamma=st.floats(0, 1),
)
def test_returns_to_go_are_those_of_a_loop(rows: list[list[tuple[float, bool]]], gamma: float) -> None:
    expected = []
    for row in rows:
        running, found = 0.0, []
        for reward, counted in reversed(row):
            running = reward + gamma * running if counted else running
            found.append(running if counted else 0.0)
        expected += found[::-1]
    flat = [token for row in rows for token in row]
    row_of_token = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    mask = np.array([counted for _, counted in flat], bool)
    rewards = np.array([reward for reward, _ in flat], float)
    assert np.allclose(returns_to_go(rewards, row_of_token, mask, gamma), expected, atol=1e-9)


def test_rows_longer_than_a_block_are_summed_whole() -> None:
    size = 200_003
    found = returns_to_go(np.ones(size), np.zeros(size, int), np.ones(size, bool), 1.0)
    assert np.array_equal(found, np.arange(size, 0, -1))


def test_whitened_tokens_in_small_numbers() -> None:
    # mean 2 and unbiased variance 4 of the three that count
    found = whiten(np.array([0.0, 2, np.nan, 4]), np.array([True, True, False, True]))
    assert found.tolist() == pytest.approx([-1, 0, 0, 1], abs=1e-8)
    assert whiten(np.full(4, 0.7), ONES).tolist() == [0, 0, 0, 0]
    assert whiten(np.array([3.0]), np.array([True])).tolist() == [0]
    assert whiten(np.zeros(0), np.zeros(0, bool)).tolist() == []


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=30), st.integers(-5, 5))
def test_whitened_tokens_have_mean_0_and_deviation_1(values: list[int], shift: int) -> None:
    mask = np.ones(len(values), bool)
    found = whiten(np.array(values), mask)
    assert abs(found.mean()) < 1e-9
    assert found.std(ddof=1) == pytest.approx(1.0 if np.ptp(values) else 0.0, abs=1e-6)
    assert np.allclose(whiten(np.array(values) + shift, mask), found, atol=1e-9)


# The authors' numbers.


def step(lengths: list[int], reward: list[float], group: list[int], greedy: list[bool] | None = None) -> dict[str, Any]:
    """What a table with these responses gives to an estimator; the reward lies on the last token."""
    row_of_token = np.repeat(np.arange(len(lengths)), lengths)
    mask = np.ones(len(row_of_token), bool)
    return {
        "reward": np.array(reward, float),
        "group": np.array(group),
        "greedy": np.array(greedy or [False] * len(lengths)),
        "row_of_token": row_of_token,
        "loss_mask": mask,
        "token_rewards": spread_last(np.array(reward, float), mask, row_of_token),
        "old_logprobs": np.zeros(len(row_of_token)),
    }


def run(name: str, data: dict[str, Any], **params: Any) -> np.ndarray:
    function = registry.load_function("advantages", name)
    found = function(*(data[read] for read in registry.inputs_of(function)), **params)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    return found


PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
FIXTURE = PEERS["fixture"]
PEER_STEP = step(
    [len(tokens) for tokens in FIXTURE["tokens"]],
    FIXTURE["reward"],
    np.unique(FIXTURE["group"], return_inverse=True)[1].tolist(),
)
OF_ROWS = ["grpo", "dr-grpo", "rloo", "opo", "grpo-passk"]


@pytest.mark.parametrize("name", [*OF_ROWS, "reinforce++", "reinforce++-baseline"])
def test_estimators_give_the_numbers_of_their_peers(name: str) -> None:
    case = next(case for case in PEERS["cases"] if case["method"] == f"advantage/{name}")
    found = run(name, PEER_STEP)
    found = found[PEER_STEP["row_of_token"]] if name in OF_ROWS else found
    assert found.tolist() == pytest.approx(list(itertools.chain(*case["advantages"])), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in PEERS["cases"] if case["method"] == "advantage/pass@k-analytic"])
def test_pass_at_k_gives_its_authors_numbers(case: dict[str, Any]) -> None:
    reward = np.array(case["rewards"], float)
    found = run("pass@k", {"reward": reward, "group": np.zeros(len(reward), int)}, **case["params"])
    assert found.tolist() == pytest.approx(case["advantages"], rel=1e-9, abs=1e-12)


def test_pass_at_k_gives_the_numbers_of_the_small_fixture() -> None:
    small = json.loads((ROOT / "tests" / "golden" / "entropy_small.json").read_text())
    cases = {key: value for key, value in small.items() if key.startswith("PassK")}
    assert len(cases) == 15
    for key, expected in cases.items():
        rewards, k = key.removeprefix("PassK r=").split(" k=")
        reward = np.array(json.loads(rewards), float)
        found = run("pass@k", {"reward": reward, "group": np.zeros(4, int)}, k=int(k))
        assert found.tolist() == pytest.approx(expected, abs=1e-6), key


# Six responses of three prompts; the third prompt has one.
SIX = step([3, 4, 2, 4, 1, 3], [1, 0, 0.5, 1, 0, 1], [0, 0, 0, 1, 1, 2])
SIX_ROWS = {
    "grpo": [0.999998, -0.999998, 0, 0.70710578, -0.70710578, 0.999999],
    "dr-grpo": [0.5, -0.5, 0, 0.5, -0.5, 1],
    "rloo": [0.75, -0.75, 0, 1, -1, 1],
    "opo": [0.55555556, -0.44444444, 0.05555556, 0.2, -0.8, 1],
    "gpg": [0.75, -0.75, 0, 0.75, -0.75, 1.5],
}


@pytest.mark.parametrize("name", SIX_ROWS)
def test_estimators_in_small_numbers(name: str) -> None:
    assert run(name, SIX).tolist() == pytest.approx(SIX_ROWS[name], abs=1e-7)


def test_a_group_of_one_has_no_others_to_be_compared_with() -> None:
    assert run("rloo", SIX, alone="zero").tolist() == pytest.approx([0.75, -0.75, 0, 1, -1, 0])


def test_whitened_estimators_in_small_numbers() -> None:
    rows = [0.4707592, -1.30766443, -0.41845262, 0.4707592, -1.30766443, 1.35997101]
    expected = np.array(rows)[SIX["row_of_token"]].tolist()
    assert run("reinforce++-baseline", SIX).tolist() == pytest.approx(expected, abs=1e-7)
    first = [0.56485386, 0.78303776, 1.02546431]
    expected = [*first, *[-1.3988012] * 4, -0.30788172, -0.18666844, 0.36848836, *first, -1.3988012, *first]
    assert run("reinforce++", SIX, gamma=0.9).tolist() == pytest.approx(expected, abs=1e-7)


def test_best_of_k_in_small_numbers() -> None:
    five = {key: SIX[key][:5] for key in ("reward", "group")}
    assert run("grpo-passk", five).tolist() == pytest.approx([0.999998, 0, 0, 1.41421156, 0], abs=1e-7)
    assert run("grpo-passk", five, std=False).tolist() == [0.5, 0, 0, 1, 0]
    with pytest.raises(UsageError, match="1 of 3 prompts have a single response"):
        run("grpo-passk", SIX)


def test_remax_compares_with_the_greedy_response() -> None:
    # The greedy rows stand wherever they like: rewards 0.5, 0 and 1 for the three prompts.
    data = step(
        [2, 3, 4, 2, 4, 1, 3, 1, 2],
        [0.5, 1, 0, 0.5, 1, 0, 1, 0, 1],
        [0, 0, 0, 0, 1, 1, 2, 1, 2],
        [True, False, False, False, False, False, False, True, True],
    )
    expected = np.array([0, 0.5, -0.5, 0, 1, 0, 0, 0, 0])[data["row_of_token"]].tolist()
    assert run("remax", data).tolist() == expected
    # Rollout leaves greedy rows out of the loss mask; their reward counts all the same.
    hidden = data | {"loss_mask": ~data["greedy"][data["row_of_token"]]}
    assert run("remax", hidden).tolist() == expected
    with pytest.raises(UsageError, match=r"3 of 3 prompts have no greedy response.*`entropyctl rollout --greedy-basel"):
        run("remax", data | {"greedy": np.zeros(9, bool)})


def test_remax_sums_what_is_still_to_come() -> None:
    data = step([3, 2], [3, 0.5], [0, 0], [False, True])
    data["token_rewards"] = np.array([1.0, -2, 4, 1, -0.5])
    assert run("remax", data).tolist() == [2.5, 1.5, 3.5, 0, 0]


# Positive and negative reinforcement.


def test_w_reinforce_gives_its_authors_numbers() -> None:
    data = step([3, 2], [1, 0], [0, 0])
    assert run("w-reinforce", data).tolist() == [0.1, 0.1, 0.1, -1, -1]
    assert run("w-reinforce", data, weight=2.0, gamma=0.5).tolist() == [0.5, 1, 2, -1, -1]


def test_psr_and_nsr_are_means_over_their_own_tokens() -> None:
    data = step([3, 1, 2], [1, 0, 1], [0, 0, 0])
    assert run("psr", data, denominator="all").tolist() == [1, 1, 1, 0, 1, 1]
    assert run("psr", data, denominator="all", gamma=0.5).tolist() == [0.25, 0.5, 1, 0, 0.5, 1]
    assert run("nsr", data, denominator="all").tolist() == [0, 0, 0, -1, 0, 0]
    loss = np.array([1.0, 2, 3, 4, 5, 6])
    assert (run("psr", data) * loss).mean() == pytest.approx(loss[[0, 1, 2, 4, 5]].mean())
    assert (run("nsr", data) * loss).mean() == pytest.approx(-4)


def test_a_step_without_a_correct_or_without_a_wrong_response_is_skipped() -> None:
    right, wrong = step([2, 1], [1, 1], [0, 0]), step([2, 1], [0, 0], [0, 0])
    assert run("psr", wrong).tolist() == [0, 0, 0]
    assert run("nsr", right).tolist() == [0, 0, 0]
    assert run("psr", right).tolist() == [1, 1, 1]
    assert run("nsr", wrong).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("name", ["psr", "nsr", "w-reinforce"])
def test_a_shaped_reward_is_no_outcome(name: str) -> None:
    with pytest.raises(InputError, match=r"^1 rewards are neither 0 nor 1, the first is 0.5; .*score --reward"):
        run(name, SIX)


def test_tokens_outside_the_mask_get_nothing_and_do_not_discount() -> None:
    data = step([4, 2], [1, 0], [0, 0]) | {"loss_mask": np.array([True, False, True, True, False, True])}
    assert run("w-reinforce", data, weight=1.0, gamma=0.5).tolist() == [0.25, 0, 0.5, 1, 0, -1]
    assert run("psr", data, denominator="own").tolist() == pytest.approx([4 / 3, 0, 4 / 3, 4 / 3, 0, 0])


# Unlikeliness.

FOUR = step([1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]) | {"old_logprobs": np.array([-2.0, -1, -3, -0.5])}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("code", [0.638527, 0.496632, -1.489895, 0.354737]),
        ("paper", [0.648746, 0.496100, -1.488300, 0.343454]),
    ],
)
def test_unlikeliness_in_small_numbers(variant: str, expected: list[float]) -> None:
    assert run("unlikeliness", FOUR, variant=variant).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_code_ranks_by_the_mean_token_and_the_paper_by_the_whole_response() -> None:
    # The long response has the likelier tokens and is the less likely whole.
    data = step([1, 3, 1], [1, 1, 0], [0, 0, 0]) | {"old_logprobs": np.array([-2.0, -1, -1, -1, -9])}
    short, long, _ = run("unlikeliness", data, variant="code")
    assert short > long
    short, long, _ = run("unlikeliness", data, variant="paper")
    assert short < long


def test_without_a_penalty_unlikeliness_is_grpo() -> None:
    data = PEER_STEP | {"old_logprobs": np.concatenate(FIXTURE["logprobs"])}
    assert np.array_equal(run("unlikeliness", data, rank_penalty=0.0), run("grpo", PEER_STEP))
    assert not np.allclose(run("unlikeliness", data), run("grpo", PEER_STEP), atol=1e-3)


# Quantile baseline.


@pytest.mark.parametrize(
    ("correct", "baseline"), [(0, 0), (1, 0), (5, 0), (6, 0), (7, 1), (9, 1), (10, 1)]
)  # p <= 1 - K = 0.6
def test_qae_is_a_gate_between_hard_and_easy_prompts(correct: int, baseline: int) -> None:
    reward = np.array([1.0] * correct + [0.0] * (10 - correct))
    assert run("qae", {"reward": reward, "group": np.zeros(10, int)}).tolist() == (reward - baseline).tolist()


def test_qae_counts_shares_exactly() -> None:
    data = {"reward": np.arange(100.0), "group": np.zeros(100, int)}
    for share, index in [(0.07, 6), (0.4, 39), (1.0, 99), (0.0, 0), (0.005, 0)]:
        assert run("qae", data, quantile=share).tolist() == (np.arange(100.0) - index).tolist()


def test_qae_can_divide_by_the_deviation() -> None:
    data = {"reward": np.array([1.0, 0, 0, 0, 3.0]), "group": np.array([0, 0, 0, 0, 1])}
    assert run("qae", data, std=True).tolist() == pytest.approx([2, 0, 0, 0, 0], rel=1e-5)


# Several rewards.

TWO = step([1, 1, 1, 1], [0] * 4, [0, 0, 1, 1]) | {"rewards": np.array([[1.0, 10], [0, 20], [1, 5], [1, 5]])}


def test_gdpo_standardises_each_reward_before_it_adds_them() -> None:
    # Both rewards differ in the first group by one deviation each way, whatever their scale, and not in the second.
    deviation = math.sqrt(2 / 3)  # of +-1, 0, 0
    expected = [1 / deviation, -1 / deviation, 0, 0]
    assert run("gdpo", TWO, weights="1,0").tolist() == pytest.approx(expected, abs=1e-6)
    assert run("gdpo", TWO, weights="2, 1").tolist() == pytest.approx(expected, abs=1e-6)
    assert run("gdpo", TWO, weights="1,3").tolist() == pytest.approx([-value for value in expected], abs=1e-6)


def test_gdpo_in_trls_form_standardises_over_responses() -> None:
    data = TWO | step([5, 1, 1, 1], [0] * 4, [0, 0, 1, 1])
    # +-0.5 / (sqrt(0.5) + 1e-4), 0, 0 over four responses, however long they are
    part = 0.5 / (math.sqrt(0.5) + 1e-4)
    row = part / (part * math.sqrt(2 / 3) + 1e-4)
    assert run("gdpo", data, weights="1,0", variant="trl").tolist() == pytest.approx([row] * 5 + [-row, 0, 0])
    assert run("gdpo", data, weights="1,0")[0] < row  # the long response moves the mean over tokens


def test_a_group_of_one_teaches_nothing_in_trls_gdpo() -> None:
    data = step([1, 1, 1], [0] * 3, [0, 0, 1]) | {"rewards": np.array([[1.0], [0], [7]])}
    found = run("gdpo", data, variant="trl")
    assert found.tolist() == pytest.approx([1, -1, 0], abs=1e-3)
    assert run("gdpo", data)[2] > 1  # verl keeps its reward


def test_gdpo_reads_the_reward_columns_of_a_table(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1, groups=2, samples=2)
    rows = rows.append_column("reward_b", pa.array([0.0, 1, 5, 5], pa.float32()))
    rows = rows.append_column("reward_a", pa.array([1.0, 0, 2, 2], pa.float32()))
    write_scored(tmp_path / "s.parquet", rows)
    found = []
    for flags in ([], ["--only-new"]):
        ran = cli("advantage", "gdpo", "s.parquet", "--weights", "3,1", *flags, "-o", "out.parquet")
        assert ran.code == 0, ran
        with read([str(tmp_path / "out.parquet")]) as source:
            found.append([row[0] > 0 for row in next(iter(source)).rows["advantages"].to_pylist()])
    assert found[0] == found[1]
    assert found[0][:2] == [True, False]  # reward_a comes first, and weighs 3


def test_gdpo_of_one_reward_is_grpo_whitened() -> None:
    data = PEER_STEP | {"rewards": PEER_STEP["reward"][:, None]}
    expected = whiten(run("grpo", PEER_STEP)[PEER_STEP["row_of_token"]], PEER_STEP["loss_mask"])
    assert np.allclose(run("gdpo", data), expected)


@pytest.mark.parametrize("weights", ["1", "1,2,3", "1,nan", "a,b", "1,"])
def test_weights_are_one_number_for_each_reward(weights: str) -> None:
    with pytest.raises(UsageError, match=f"^--weights {weights}: must be 2 numbers"):
        run("gdpo", TWO, weights=weights)


# Algebra.

GROUPS = st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4)), min_size=1, max_size=24)


def of(groups: list[tuple[int, int]]) -> dict[str, Any]:
    return step([1 + i % 3 for i in range(len(groups))], [r / 4 for _, r in groups], [g for g, _ in groups])


@given(GROUPS)
def test_rloo_is_the_mean_of_the_others(groups: list[tuple[int, int]]) -> None:
    data = of(groups)
    reward, group = data["reward"], data["group"]
    for i, found in enumerate(run("rloo", data)):
        others = [reward[j] for j in range(len(reward)) if j != i and group[j] == group[i]]
        assert found == pytest.approx(reward[i] - (np.mean(others) if others else 0), abs=1e-12)


@given(GROUPS)
def test_opo_leaves_no_length_weighted_reward(groups: list[tuple[int, int]]) -> None:
    data = of(groups)
    lengths = np.bincount(data["row_of_token"])
    found = run("opo", data)
    for group in set(data["group"]):
        own = data["group"] == group
        assert own.sum() == 1 or abs((lengths * found)[own].sum()) < 1e-9


@given(GROUPS)
def test_gpgs_alpha_counts_what_teaches(groups: list[tuple[int, int]]) -> None:
    data = of(groups)
    reward, group, centred = data["reward"], data["group"], run("dr-grpo", data)
    rows = range(len(reward))
    alike = [len({reward[j] for j in rows if group[j] == group[i]}) == 1 for i in rows]
    alone = [(group == group[i]).sum() == 1 for i in rows]
    teaches = [not alike[i] or (alone[i] and reward[i] != 0) for i in rows]
    for variant, count in (("verl", np.count_nonzero(reward)), ("paper", sum(teaches))):
        assert np.allclose(run("gpg", data, variant=variant), centred * len(reward) / max(count, 1))
    assert np.allclose(run("gpg", data, f_norm=4.0), run("gpg", data) / 4)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_pass_at_k_is_the_mean_advantage_over_all_subsets(n: int, c: int, k: int) -> None:
    c, k = min(c, n), min(k, n)
    reward = np.array([1.0] * c + [0.0] * (n - c))
    subsets = list(itertools.combinations(range(n), k))
    passed = np.array([reward[list(subset)].max() for subset in subsets])
    rho = passed.mean()
    standardised = (passed - rho) / (math.sqrt(rho * (1 - rho)) + 1e-6)
    found = run("pass@k", {"reward": reward, "group": np.zeros(n, int)}, k=k)
    for i in range(n):
        expected = np.mean([value for subset, value in zip(subsets, standardised, strict=True) if i in subset])
        assert found[i] == pytest.approx(expected, abs=1e-7)


def test_pass_at_k_leaves_shaped_rewards_alone_and_small_groups_out() -> None:
    data = {"reward": np.array([1, 0, 0, 0.5, 1, 0]), "group": np.array([0, 0, 0, 0, 1, 1])}
    found = run("pass@k", data, k=2)
    assert found[3] == 0.5
    assert found[:3].tolist() == pytest.approx([0.999998, -0.333333, -0.333333], abs=1e-6)
    assert run("pass@k", data, k=3)[4:].tolist() == [0, 0]
    with pytest.raises(UsageError, match=r"^--k 0: must be 1 or more"):
        run("pass@k", data, k=0)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    reward = np.r_[np.ones(3), np.zeros(4093)]
    found = run("pass@k", {"reward": reward, "group": np.zeros(4096, int)}, k=512)
    miss = math.comb(4093, 512) / math.comb(4096, 512)
    assert found[0] == pytest.approx(miss / (math.sqrt(miss * (1 - miss)) + 1e-6))


def test_names_with_signs_are_functions_with_words() -> None:
    assert registry.load_function("advantages", "pass@k") is adv.pass_at_k
    assert registry.load_function("advantages", "reinforce++-baseline") is adv.reinforce_plus_plus_baseline
