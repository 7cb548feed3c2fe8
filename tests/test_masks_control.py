"""Masks that control by weight, controller, drift, chance or budget: their authors' numbers, and their mathematics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from entropyctl.dynamics import predicted_change
from entropyctl.errors import UsageError
from entropyctl.masks import (
    budget,
    entropic,
    importance,
    overlong,
    probability,
    random,
    rejection,
    sequence,
    steer,
)
from entropyctl.masks._random import uniform
from entropyctl.masks._runs import runs
from entropyctl.masks.budget import calibrated
from entropyctl.metrics import PastMetrics
from entropyctl.table import new_record, read, write

from .conftest import ROOT, Cli, scored_rows, write_scored

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
SMALL = json.loads((ROOT / "tests" / "golden" / "entropy_small.json").read_text())
FIXTURE = PEERS["fixture"]


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.array(row) for row in rows])


def yes(count: int) -> np.ndarray:
    return np.ones(count, bool)


GRPO = flat(next(case for case in PEERS["cases"] if case["method"] == "advantage/grpo")["advantages"])
STEER_CASES = [case for case in PEERS["cases"] if case["method"] == "mask/steer"]

# --- steer ---


@pytest.mark.parametrize("case", STEER_CASES, ids=[str(case["params"]) for case in STEER_CASES])
def test_steer_weighs_as_its_authors_code_does(case: dict[str, Any]) -> None:
    params = dict(case["params"])
    old = flat(FIXTURE["logprobs"])
    new = old if params.pop("policy") == "on-policy" else flat(FIXTURE["new_logprobs"])
    weights = steer(new, old, flat(FIXTURE["entropies"]), GRPO, yes(len(old)), **params).weights
    np.testing.assert_allclose(weights, flat(case["weights"]), rtol=1e-6)


@pytest.mark.parametrize("policy", ["onpolicy", "offpolicy"])
@pytest.mark.parametrize("linear", [True, False])
def test_steer_gives_the_numbers_of_the_small_fixture(policy: str, linear: bool) -> None:
    upper = 1.2 if linear else 1.0
    expected = flat(SMALL[f"STEER linear={linear} [0.8,{upper}] {policy}"])
    new = flat(SMALL["logp_old" if policy == "onpolicy" else "logp_new"])
    weights = steer(
        new,
        flat(SMALL["logp_old"]),
        flat(SMALL["H_old"]),
        flat(SMALL["A_grpo"]),
        flat(SMALL["mask"]) == 1,
        map="linear" if linear else "exponential",
        w_min=0.8,
        w_max=upper,
    ).weights
    np.testing.assert_allclose(weights, expected, atol=3e-6)  # the fixture has six decimals


def test_steer_as_the_paper_has_it_is_exponential_and_has_no_floor() -> None:
    # |Omega| = |A| (1 - p) |log p + H| with p = 1/2, H = log 2 + 0.01: 0.005 |A|
    logp, H, A = np.full(3, np.log(0.5)), np.full(3, np.log(2) + 0.01), np.array([1.0, -0.5, 0.0])
    paper = steer(logp, logp, H, A, yes(3), variant="paper").weights
    np.testing.assert_allclose(paper, [0.8, 0.8**0.5, 1.0], rtol=1e-12)
    authors = steer(logp, logp, H, A, yes(3), map="exponential").weights  # 0.02 in place of max|Omega| = 0.005
    np.testing.assert_allclose(authors, [0.8**0.25, 0.8**0.125, 1.0], rtol=1e-12)
    assert steer(logp, logp, H, A, yes(3)).weights.tolist() == pytest.approx([0.8, 1.0, 1.2])


def test_steer_gives_tokens_that_are_alike_the_middle_and_nothing_outside_the_mask() -> None:
    logp, H, A = np.full(3, -0.7), np.full(3, 1.0), np.array([1.0, 1.0, np.nan])
    mask = np.array([True, True, False])
    assert steer(logp, logp, H, A, mask, w_max=1.0).weights.tolist() == [0.9, 0.9, 0.0]
    assert steer(logp, logp, H, 0 * A, mask, variant="paper").weights.tolist() == [1.0, 1.0, 0.0]


# --- entropic ---


def test_the_controller_follows_the_trace_of_the_reference() -> None:
    # two tokens, one above high_prob: N / N_hp = 2, so the weight of that one is 1 + 2 alpha
    state: dict[str, float] = {}
    logp, A = np.log([0.99, 0.5]), np.array([1.0, 1.0])
    alphas, integrals = [], []
    for H in (0.5, 0.3, 0.1, 0.05):
        compiled = entropic(np.full(2, H), A, logp, yes(2), state)
        alphas.append((compiled.weights[0] - 1) / 2)
        assert compiled.weights[1] == 1
        state = compiled.state
        integrals.append(state["integral"])
    np.testing.assert_allclose(alphas, [0.4, 0.204, 0.006, -0.044], rtol=1e-12)
    np.testing.assert_allclose(integrals, [0.4, 0.6, 0.6, 0.55], rtol=1e-12)


def test_the_controllers_weights_have_the_gradient_of_the_authors_loss() -> None:
    rng = np.random.default_rng(0)
    p, A, H = rng.uniform(0.8, 1, 40), rng.normal(size=40), rng.uniform(0, 1, 40)
    alpha = np.clip(0.01 * 3 + (H.mean() - 0.1), -1, 1)
    high = p > 0.95
    gradient = -A / 40 - alpha * high * np.abs(A) / high.sum()  # of mean(-r A) + alpha mean_hp(-r |A|) at r = 1
    weights = entropic(H, A, np.log(p), yes(40), {"integral": 3.0}).weights
    np.testing.assert_allclose(-weights * A / 40, gradient, rtol=1e-12)
    assert weights.min() < 0
    plain = entropic(H, A, np.log(p), yes(40), {"integral": 3.0}, variant="plain").weights
    np.testing.assert_allclose(plain, 1 + alpha * high * np.sign(A), rtol=1e-12)


def test_alpha_is_clipped_and_anti_windup_stops_the_integral_while_it_is() -> None:
    arguments = (np.array([3.0]), np.array([-1.0]), np.array([0.0]), yes(1))
    wound = entropic(*arguments, {"integral": 5.0})
    assert wound.weights.tolist() == [0.0] and wound.state == {"integral": pytest.approx(7.9)}
    held = entropic(*arguments, {"integral": 5.0}, anti_windup=True)
    assert held.weights.tolist() == [0.0] and held.state == {"integral": 5.0}
    # an error that leads out of saturation is integrated
    out = entropic(np.array([0.0]), *arguments[1:], {"integral": 500.0}, anti_windup=True)
    assert out.state == {"integral": pytest.approx(499.9)}


def test_a_step_without_tokens_leaves_the_controller_as_it_was() -> None:
    nothing = np.zeros(2, bool)
    compiled = entropic(np.full(2, 9.0), np.ones(2), np.full(2, 800.0), nothing, {"integral": 0.25})
    assert compiled.weights.tolist() == [1.0, 1.0] and compiled.state == {"integral": 0.25}


# --- probability ---


def test_unlikely_positives_are_weighed_up() -> None:
    logp = np.array([-5.0, -1.0, -2.0, -3.0, -4.0, -0.1, -9.0, -0.2])
    A = np.array([1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0])
    assert probability(logp, A, yes(8)).weights.tolist() == [2, 1, 1, 1, 1, 1, 1, 1]
    assert probability(logp, A, yes(8), apply_to="both").weights.tolist() == [2, 1, 1, 1, 1, 2, 1, 1]
    assert probability(logp, A, yes(8), apply_to="negative", factor=3).weights.tolist() == [1, 1, 1, 1, 1, 3, 1, 1]
    assert probability(logp, A, yes(8), fraction=0.4, factor=0.5).weights.tolist() == [0.5, 1, 1, 1, 0.5, 1, 1, 1]
    assert probability(logp, A, yes(8), fraction=0).weights.tolist() == [1] * 8


def test_equally_likely_tokens_are_weighed_alike_and_a_fraction_is_not_rounded_up_by_arithmetic() -> None:
    ties = np.array([-1.0, -1.0, -0.5])
    assert probability(ties, np.ones(3), yes(3)).weights.tolist() == [2, 2, 1]
    logp = -np.arange(100.0)
    assert 0.07 * 100 > 7
    assert probability(logp, np.ones(100), yes(100), fraction=0.07).weights.sum() == 100 + 7


# --- sequence, importance, rejection: between the sampling engine and the trainer ---


def test_bad_responses_that_the_policy_has_left_are_dropped() -> None:
    rows = np.array([0, 0, 1, 1, 2, 2])
    rollout = np.zeros(6)
    logp = np.array([-0.3, 0.0, -0.3, 0.0, -0.1, -0.05])
    A = np.array([-1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    assert sequence(rollout, logp, logp, A, yes(6), rows).weights.tolist() == [0, 1, 1, 1, 1, 1]
    assert sequence(rollout, logp, logp, A, yes(6), rows, delta=1e-4).weights.tolist() == [0, 1, 1, 1, 0, 0]
    mask = np.array([True, True, True, True, True, False])  # the mean is then 0.1: the bound itself is kept
    assert sequence(rollout, logp, logp, A, mask, rows).weights.tolist() == [0, 1, 1, 1, 1, 1]
    assert sequence(rollout, -logp, logp, A, yes(6), rows).weights.tolist() == [1] * 6
    assert sequence(rollout, logp, logp, 0 * A, yes(6), rows).weights.tolist() == [1] * 6
    old = np.array([0.0, 0.0, 0.0, 0.0, 0.4, 0.4])  # slime's and Trinity-RFT's, where the step started
    assert sequence(rollout, logp, old, A, yes(6), rows, anchor="old").weights.tolist() == [0, 1, 1, 1, 0, 0]
    assert sequence(rollout, logp, logp, A, yes(6), rows, anchor="old").weights.tolist() == [1] * 6


# verl 0.9.1 on the fixture of METHODS_CORE 14: x = log p_train - log p_rollout of three responses
X = np.array([0.1, -0.3, 0.5, -0.4, 0.2, 0.05, -0.1, 0.25, -0.02])
ROWS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
ZERO = np.zeros(9)


def weights_of(**flags: Any) -> list[float]:
    return importance(ZERO, X, yes(9), ROWS, **flags).weights


def test_importance_weights_are_verls() -> None:
    truncated = [1.10517092, 0.74081822, 1.2, 0.67032005, 1.2, 1.0512711, 0.90483742, 1.2, 0.98019867]
    np.testing.assert_allclose(weights_of(high=1.2), truncated, rtol=1e-7)
    masked = [1.10517092, 0, 0, 0, 0, 1.0512711, 0.90483742, 0, 0.98019867]
    np.testing.assert_allclose(weights_of(preset="icepop", low=0.9, high=1.2), masked, rtol=1e-7)
    rows = np.array([1.1, 0.77880078, 1.1])
    np.testing.assert_allclose(weights_of(preset="tis-sequence", high=1.1), rows[ROWS], rtol=1e-7)


def test_the_presets_stand_for_their_fields_settings() -> None:
    x = np.log([0.4, 2.5, 6.0])
    rows = np.array([0, 0, 1])
    run = {name: importance(ZERO[:3], x, yes(3), rows, preset=name) for name in ("tis", "icepop", "trl")}
    np.testing.assert_allclose(run["tis"].weights, [0.4, 2, 2])
    np.testing.assert_allclose(run["icepop"].weights, [0, 2.5, 0])
    np.testing.assert_allclose(run["trl"].weights, [1, 1, 0])
    assert all(compiled.loss_mask is None for compiled in run.values())  # masked tokens stay counted
    np.testing.assert_allclose(importance(ZERO[:3], x, yes(3), rows, preset="tis-sequence").weights, [1, 1, 2])
    np.testing.assert_allclose(importance(ZERO[:3], x, yes(3), rows, mode="mask", level="sequence").weights, [1, 1, 0])


def test_importance_weights_are_normalised_over_tokens_or_over_responses() -> None:
    mask = np.array([True] * 8 + [False])
    tokens = importance(ZERO, X, mask, ROWS, normalise=True).weights
    assert tokens[mask].mean() == pytest.approx(1) and tokens[8] == 0
    rows = importance(ZERO, X, mask, ROWS, normalise=True, level="sequence").weights
    assert rows[[0, 3, 7]].mean() == pytest.approx(1)
    gone = importance(ZERO, X, mask, ROWS, normalise=True, mode="mask", low=9, high=10).weights
    assert gone.tolist() == [0] * 9


def test_ratios_beyond_all_bounds_stay_numbers() -> None:
    x = np.array([900.0, -900.0])
    weights = importance(np.zeros(2), x, yes(2), np.array([0, 1]), high=1e300).weights
    np.testing.assert_allclose(weights, np.exp([20, -20]))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3), st.booleans()), max_size=20))
def test_sums_over_rows_are_those_of_their_tokens_wherever_these_stand(tokens: list[tuple[int, int, bool]]) -> None:
    row, value, valid = (np.array([token[i] for token in tokens], kind) for i, kind in enumerate((int, float, bool)))
    of = runs(row)
    count = max(row.tolist(), default=-1) + 1
    assert of.rows == count
    assert of.sums(value).tolist() == [value[row == number].sum() for number in range(count)]
    assert of.counts(valid).tolist() == [valid[row == number].sum() for number in range(count)]
    assert of.counts(np.ones(len(row), bool)).tolist() == [(row == number).sum() for number in range(count)]
    assert of.largest(value, -1.0).tolist() == [value[row == number].max(initial=-1) for number in range(count)]
    assert of.spread(np.arange(count)).tolist() == row.tolist()


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({"statistic": "token_k1", "low": 0.8, "high": 1.2}, "100 0111 01"),
        ({"statistic": "token_k2", "high": 0.04}, "100 0111 11"),
        ({"statistic": "token_k3", "high": 0.04}, "100 0111 11"),
        ({"statistic": "seq_sum_k1", "low": 0.8, "high": 1.3}, "000 1111 00"),
        ({"statistic": "seq_mean_k1", "low": 0.9, "high": 1.1}, "111 1111 00"),
        ({"statistic": "seq_max_k2", "high": 0.1}, "000 1111 11"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["statistic"],
)
def test_rejection_keeps_what_verl_keeps(flags: dict[str, Any], kept: str) -> None:
    compiled = rejection(ZERO, X, yes(9), ROWS, **flags)
    assert compiled.weights is None
    assert "".join("01"[int(k)] for k in compiled.loss_mask) == kept.replace(" ", "")


def test_the_bounds_of_k1_are_of_the_inverse_ratio_and_are_kept_themselves() -> None:
    x = np.log([1 / 1.3, 1 / 1.2 + 1e-12, 1.0, 9.99, 10.1])
    kept = rejection(np.zeros(5), x, yes(5), np.arange(5), statistic="token_k1", low=0.1, high=1.2).loss_mask
    assert kept.tolist() == [False, True, True, True, False]
    edge = rejection(np.zeros(1), np.array([0.2]), yes(1), np.zeros(1, int), statistic="token_k2", high=0.2**2 / 2)
    assert edge.loss_mask.tolist() == [True]
    # a high bound alone is also the inverse of the low one
    alone = rejection(np.zeros(5), x, yes(5), np.arange(5), statistic="token_k1", high=1.25).loss_mask
    assert alone.tolist() == [False, True, True, False, False]


def test_rejections_in_a_pipe_are_verls_list() -> None:
    """A response stays or goes as a whole, so statistics of responses come out the same in any order."""
    first = rejection(ZERO, X, yes(9), ROWS, statistic="seq_max_k2", high=0.1).loss_mask
    second = rejection(ZERO, X, first, ROWS, statistic="seq_mean_k1", low=0.9, high=1.1).loss_mask
    third = rejection(ZERO, X, second, ROWS, statistic="token_k2", high=0.04).loss_mask
    each = [
        rejection(ZERO, X, yes(9), ROWS, statistic="seq_max_k2", high=0.1).loss_mask,
        rejection(ZERO, X, yes(9), ROWS, statistic="seq_mean_k1", low=0.9, high=1.1).loss_mask,
        rejection(ZERO, X, yes(9), ROWS, statistic="token_k2", high=0.04).loss_mask,
    ]
    assert third.tolist() == np.logical_and.reduce(each).tolist() == [False] * 4 + [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("statistic", "x", "kept"),
    [
        ("seq_sum_k1", [0.69, 0.7], [True, False]),
        ("seq_mean_k1", [0.0009, 0.0011], [True, False]),
        ("seq_mean_k3", [0.13, 0.15], [True, False]),  # k3 = 0.0088, 0.0118
    ],
)
def test_the_default_bounds_of_rejection_are_verls_presets(statistic: str, x: list[float], kept: list[bool]) -> None:
    compiled = rejection(np.zeros(2), np.array(x), yes(2), np.arange(2), statistic=statistic)
    assert compiled.loss_mask.tolist() == kept


# --- random, overlong ---


def test_random_numbers_belong_to_the_token_and_the_seed() -> None:
    keys = np.arange(10, dtype=np.uint64)
    assert np.array_equal(uniform(keys, 1)[::-1], uniform(keys[::-1], 1))
    assert not np.any(uniform(keys, 1) == uniform(keys, 2))


def test_random_drops_a_fraction_and_a_smaller_one_is_part_of_a_larger() -> None:
    keys = np.arange(100_000, dtype=np.uint64)
    A = np.where(np.arange(100_000) % 2, 1.0, -1.0)
    small = random(keys, A, yes(100_000), fraction=0.1).weights == 0
    large = random(keys, A, yes(100_000), fraction=0.3).weights == 0
    assert abs(small.mean() - 0.1) < 0.004 and abs(large.mean() - 0.3) < 0.006  # four standard deviations
    assert not (small & ~large).any()
    one_sided = random(keys, A, yes(100_000), fraction=0.3, apply_to="negative").weights == 0
    assert np.array_equal(one_sided, large & (A < 0))
    assert random(keys, A, yes(100_000), fraction=0).weights.min() == 1
    assert random(keys, A, yes(100_000), fraction=1).weights.max() == 0
    other = random(keys, A, yes(100_000), fraction=0.3, seed=1).weights == 0
    assert abs((other & large).mean() - 0.09) < 0.004


def test_responses_that_were_cut_off_leave_the_loss() -> None:
    reasons = np.array(["stop", "length", "abort"], object)
    mask, rows = np.array([True, False, True, True, True]), np.array([0, 0, 1, 1, 2])
    assert overlong(reasons, mask, rows).loss_mask.tolist() == [True, False, False, False, True]
    counted = overlong(reasons, mask, rows, variant="counted")
    assert counted.loss_mask is None and counted.weights.tolist() == [1, 1, 0, 0, 1]


# --- budget ---


def on_policy(score: list[float], advantages: list[float], **flags: Any) -> np.ndarray:
    """The budget's weights for tokens with these S* - E[S], on policy, at a mean entropy of 0.5."""
    count, zero = len(score), np.zeros(len(score))
    history = flags.pop("history", {})
    flags = {"eta": 1.0} | flags
    return budget(
        np.array(score), zero, np.array(advantages), zero, zero, zero + 0.5, zero + 1, yes(count), history, **flags
    ).weights


def test_the_budget_drops_the_tokens_that_change_most_per_advantage() -> None:
    # dH = -A score: -0.4, -0.2, -0.1, +0.3; their sum is -0.4, and 0 is wanted: the first alone makes it good
    score, A = [0.4, 0.1, 0.1, 0.3], [1.0, 2.0, 1.0, -1.0]
    np.testing.assert_allclose(on_policy(score, A), [0, 1, 1, 1], atol=1e-12)
    # up to a sum of 0.15 the two next, which cost the same per nat, go by half
    np.testing.assert_allclose(on_policy(score, A, target_change=0.15 / 4), [0, 0.5, 0.5, 1], atol=1e-12)
    # half of the fall is allowed
    np.testing.assert_allclose(on_policy(score, A, target_change=-0.2 / 4), [0.5, 1, 1, 1], atol=1e-12)
    # a larger fall than is predicted: what raises goes
    np.testing.assert_allclose(on_policy(score, A, target_change=-0.55 / 4), [1, 1, 1, 0.5], atol=1e-12)


def test_where_the_target_cannot_be_met_the_budget_comes_as_near_as_tokens_allow() -> None:
    score, A = [0.4, 0.1, 0.0, 0.3], [1.0, 2.0, 1.0, -1.0]
    assert on_policy(score, A, target_change=5).tolist() == [0, 0, 1, 1]
    assert on_policy(score, A, target_change=-5).tolist() == [1, 1, 1, 0]
    assert on_policy([0.0, 0.0], [1.0, 0.0], target_change=5).tolist() == [1, 1]


def test_a_target_entropy_is_a_change_from_the_mean_entropy() -> None:
    score, A = [0.4, 0.1, 0.1, 0.3], [1.0, 2.0, 1.0, -1.0]
    by_entropy = on_policy(score, A, target_entropy=0.5 - 0.05)
    np.testing.assert_allclose(by_entropy, on_policy(score, A, target_change=-0.05), atol=1e-12)


def test_the_step_size_is_calibrated_from_the_runs_own_history() -> None:
    # realised is three times what was predicted at a learning rate of 1e-3, so the logits move as with eta = 3e-3
    history = {
        "predicted_change": np.array([-0.01, 0.02, np.nan]),
        "realised_change": np.array([-0.03, 0.06, 1.0]),
        "learning_rate": np.array([1e-3, 1e-3, 1e-3]),
    }
    assert calibrated(history) == pytest.approx(3e-3)
    score, A = [0.4, 0.1], [1.0, -1.0]
    expected = on_policy(score, A, target_change=-3e-4, eta=3e-3)
    np.testing.assert_allclose(on_policy(score, A, target_change=-3e-4, eta=None, history=history), expected)
    assert expected.tolist() == pytest.approx([0.75, 1])
    given = on_policy(score, A, target_change=-0.05, eta=1.0, history=history)
    assert given.tolist() == pytest.approx([0.5, 1])  # a step size that is asked for goes before the history


@pytest.mark.parametrize("realised", [[0.03, -0.06], [0.0, 0.0]], ids=["opposite", "none"])
def test_a_history_that_says_nothing_leaves_the_learning_rate_as_the_step_size(realised: list[float]) -> None:
    """As `forecast` does, so that both speak of the same changes."""
    empty = np.zeros(0)
    assert calibrated({}) == 1.0
    assert calibrated({"predicted_change": empty, "realised_change": empty, "learning_rate": empty}) == 1.0
    history = {"predicted_change": np.array([-0.01, 0.02]), "learning_rate": np.array([1e-6, 2e-6])}
    assert calibrated(history | {"realised_change": np.array(realised)}) == 2e-6


def write_metrics(directory: Path, step: int, realised: float) -> None:
    """The metrics of a step of learning rate 1 that was predicted to change the entropy by 1."""
    numbers = {"entropy": 1.0, "entropy_after": 1.0, "learning_rate": 1.0, "predicted_change": 1.0}
    row = pa.table({"step": [step], "realised_change": [realised]} | {name: [x] for name, x in numbers.items()})
    directory.mkdir(exist_ok=True)
    with write(str(directory / f"step-{step:06d}.parquet"), "metrics", new_record("update", {})) as sink:
        sink.put(step, row)


def test_a_step_is_calibrated_by_the_steps_before_it_alone(cli: Cli, tmp_path: Path) -> None:
    """A step that is run again when the run has gone on gives the numbers that it gave."""
    write_scored(tmp_path / "s.parquet", scored_rows(2), scored_rows(3))
    assert cli("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q").code == 0
    command = ("mask", "budget", "--target-change", "-0.002", "--history", "metrics", "a.parquet", "-q", "--json")
    write_metrics(tmp_path / "metrics", 1, 0.25)
    write_metrics(tmp_path / "metrics", 2, 0.75)
    first = cli(*command, "-o", "first.parquet")
    write_metrics(tmp_path / "metrics", 3, 7.0)  # neither step 2 nor step 3 may know
    write_metrics(tmp_path / "metrics", 4, 9.0)
    again = cli(*command, "-o", "again.parquet")
    assert (first.code, again.text) == (0, first.text), again
    summary = {}
    for eta in (0.25, 0.5):  # what steps 2 and 3 were calibrated to
        ran = cli(
            "mask", "budget", "--target-change", "-0.002", "--eta", eta, "a.parquet", "-o", f"{eta}.parquet", "-q"
        )
        assert ran.code == 0, ran
        summary[eta] = [step.rows["weights"].to_pylist() for step in read_steps(tmp_path / f"{eta}.parquet")]
    found = [step.rows["weights"].to_pylist() for step in read_steps(tmp_path / "first.parquet")]
    assert found == [summary[0.25][0], summary[0.5][1]]
    assert found != summary[0.25] != summary[0.5]


def read_steps(path: Path) -> list[Any]:
    with read([str(path)]) as source:
        return list(source)


def test_the_metrics_are_read_as_the_run_writes_them(tmp_path: Path) -> None:
    """In a loop of resident stages the mask runs from before the first metrics to after the last."""
    past = PastMetrics(str(tmp_path / "metrics"))
    assert past.before(1)["step"].tolist() == []
    for step in (1, 2, 3):
        write_metrics(tmp_path / "metrics", step, 0.5)
        assert past.before(step + 1)["step"].tolist() == list(range(1, step + 1))
    assert past.before(2)["step"].tolist() == [1]


def test_before_the_first_metrics_nothing_is_calibrated(cli: Cli, scored: Path, tmp_path: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    ran = cli("mask", "budget", "--history", "run/metrics", "a.parquet", "-o", "m.parquet", "-q")
    assert (ran.code, "run/metrics: holds no metrics yet" in ran.line) == (0, True), ran
    (tmp_path / "run").mkdir()
    write_metrics(tmp_path / "run" / "metrics", 2, 0.5)  # of the second step, so that neither has one before it
    ran = cli("mask", "budget", "--history", "run/metrics", "a.parquet", "-o", "m.parquet", "-q")
    words = "entropyctl: run/metrics: holds no metrics of steps before {}; nothing is calibrated there"
    assert (ran.code, ran.err.splitlines()) == (0, [words.format(1), words.format(2)]), ran
    ran = cli("mask", "budget", "--history", "metrics.parquet", "a.parquet", "-o", "m.parquet", "-q")
    assert (ran.code, "metrics.parquet: no such file" in ran.line) == (3, True), ran


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.02, -0.02, 0.2, -0.2, 3.0, -3.0]),
    st.booleans(),
    st.sampled_from([[1.0], [1.0, 0.0], [0.8, 1.2, 2.0], [1.0, -0.5]]),  # none, clip, STEER, EntroPIC
)
def test_the_budget_is_the_optimum_of_the_linear_program(
    seed: int, count: int, target: float, ties: bool, earlier: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    S, ES, A, delta = (rng.normal(size=count) * scale for scale in (0.2, 0.05, 1.0, 0.1))
    if ties:
        S, ES, A, delta = np.round(S, 1), np.round(ES, 1), np.round(A), 0 * delta
    mask = rng.random(count) < 0.8
    H = rng.uniform(0, 1, count)
    v = rng.choice(earlier, count)
    weights = budget(S, ES, A, delta, 0 * delta, H, v, mask, {}, target_change=target, eta=0.5).weights
    change = predicted_change(A, S, ES, weights_N=v, ratios_N=np.exp(delta), eta=0.5)[mask]
    w, mass, wanted = weights[mask], np.abs(v * A)[mask], target * mask.sum()
    assert ((weights >= 0) & (weights <= 1)).all()
    reachable = np.clip(wanted, change[change < 0].sum(), change[change > 0].sum())
    assert w @ change == pytest.approx(reachable, abs=1e-9)
    if not mask.any():
        return
    solved = linprog(-mass, A_eq=change[None], b_eq=[reachable], bounds=(0, 1), method="highs")
    assert solved.success
    assert w @ mass == pytest.approx(-solved.fun, rel=1e-7, abs=1e-7)
    assert (w[mass == 0] == 1).all()


def test_at_the_end_of_a_pipe_the_budget_meets_the_target_for_all_masks(cli: Cli, scored: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    for earlier in (("steer", "--w-min", "0.1"), ("top-entropy", "--variant", "trl", "--fraction", "0.9"), ("clip-b",)):
        assert cli("mask", *earlier, "a.parquet", "-o", "m.parquet", "-q").code == 0
        ran = cli("mask", "budget", "--eta", "1", "m.parquet", "-o", "b.parquet", "--json", "-q")
        found = json.loads(ran.text)
        assert abs(found["predicted_change_before"]) > 1e-4, ran
        assert abs(found["predicted_change_after"]) < 1e-7, ran


@pytest.mark.parametrize("kind", ["random", "few levels", "every 64th is an outlier"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999, 2.0])
def test_a_long_steps_budget_drops_the_tokens_of_the_highest_ratio(kind: str, share: float) -> None:
    """A sample guesses where the threshold lies; a guess that misleads must not show."""
    rng = np.random.default_rng(1)
    score, A = rng.normal(size=200_000), rng.choice([-1.0, 0.5, 1.0], 200_000)
    if kind == "few levels":
        score = np.round(score)
    elif kind == "every 64th is an outlier":
        score[::64] *= 1e4
    change = -A * score
    available = -change[change < 0].sum()
    target = (change.sum() + share * available) / len(change)
    weights = on_policy(score, A, target_change=target)
    assert (weights[change >= 0] == 1).all()
    if share > 1:
        assert (weights[change < 0] == 0).all()
        return
    assert (change * weights).mean() == pytest.approx(target, abs=1e-9 * np.abs(change).mean())
    ratio, weight = np.abs(score)[change < 0], weights[change < 0]
    edge = ratio[weight < 1].min()
    assert (weight[ratio > edge] == 0).all()
    assert len(set(weight[ratio == edge])) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_budget_is_a_threshold_whatever_order_the_tokens_stand_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, A = np.round(rng.normal(size=25), 1), np.round(rng.normal(size=25))
    weights = on_policy(list(score), list(A), target_change=0.1)
    order = rng.permutation(25)
    np.testing.assert_allclose(
        on_policy(list(score[order]), list(A[order]), target_change=0.1), weights[order], atol=1e-9
    )
    part = np.unique(weights[(weights > 0) & (weights < 1)].round(9))
    assert len(part) <= 1  # the tokens at the threshold share one weight
    wrong = score * A > 0 if weights.min() < 1 else np.zeros(25, bool)
    if weights[wrong].size and weights.min() < 1 and (weights[wrong] > 0).any():
        assert np.abs(score[wrong & (weights == 0)]).min(initial=9) >= np.abs(score[wrong & (weights > 0)]).max()


# --- flags ---

T, B = np.zeros(2), yes(2)
CALLS = {
    steer: (T, T, T, T, B),
    entropic: (T, T, T, B, {}),
    probability: (T, T, B),
    sequence: (T, T, T, T, B, np.zeros(2, int)),
    importance: (T, T, B, np.zeros(2, int)),
    rejection: (T, T, B, np.zeros(2, int)),
    random: (np.zeros(2, np.uint64), T, B),
    budget: (T, T, T, T, T, T, T + 1, B, {}),
}


@pytest.mark.parametrize(
    ("function", "flags", "message"),
    [
        (steer, {"w_min": -0.1}, "--w-min -0.1: must be a finite number, 0 or above"),
        (steer, {"w_min": 0.0, "map": "exponential"}, "--w-min 0: must lie above 0, up to 1"),
        (steer, {"w_max": 0.5}, "--w-max 0.5: must be a finite number, at least --w-min (0.8)"),
        (steer, {"floor": np.nan}, "--floor nan: must be a finite number, 0 or above"),
        (entropic, {"target": -1.0}, "--target -1: must be a finite number, 0 or above"),
        (entropic, {"k_i": np.inf}, "--k-i inf: must be a finite number, 0 or above"),
        (entropic, {"high_prob": 1.5}, "--high-prob 1.5: must lie in [0, 1]"),
        (probability, {"factor": np.inf}, "--factor inf: must be a finite number, 0 or above"),
        (probability, {"fraction": 2.0}, "--fraction 2: must lie in [0, 1]"),
        (sequence, {"delta": -0.1}, "--delta -0.1: must be a finite number, 0 or above"),
        (importance, {"high": np.inf}, "--high inf: must be a finite number, at least the lower bound (0)"),
        (importance, {"preset": "icepop", "low": 9.0}, "--high 5: must be a finite number, at least the lower bound"),
        (rejection, {"low": 0.0}, "--low 0: must be a finite number above 0"),
        (rejection, {"high": np.nan}, "--high nan: must be a finite number above 0"),
        (rejection, {"low": 3.0}, "--low 3: must be at most the other bound (2)"),
        (rejection, {"high": 0.5}, "--high 0.5: must be at least the other bound (2)"),
        (rejection, {"statistic": "token_k2", "low": 0.5}, "--low 0.5: must be left out, token_k2 has an upper bound"),
        (rejection, {"statistic": "token_k3", "high": -1.0}, "--high -1: must be a finite number, 0 or above"),
        (random, {"fraction": -0.5}, "--fraction -0.5: must lie in [0, 1]"),
        (random, {"seed": -1}, "--seed -1: must be a whole number"),
        (budget, {"target_change": np.nan}, "--target-change nan: must be a finite number"),
        (budget, {"target_entropy": -1.0}, "--target-entropy -1: must be a finite number, 0 or above"),
        (budget, {"target_entropy": 1.0, "target_change": 0.0}, "--target-entropy 1: must stand alone"),
        (budget, {"eta": 0.0}, "--eta 0: must be a finite number above 0"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_flag_that_makes_no_sense_is_named(function: Any, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        function(*CALLS[function], **flags)
    assert str(raised.value).startswith(message)
