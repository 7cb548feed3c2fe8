"""Estimators that need tokens, and shapings of rewards and advantages: literal numbers and golden vectors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.advantages import (
    bcpg_nsa,
    entropy_shaping,
    gae,
    kl_in_reward,
    low_probability,
    overlong,
    positive_advantage,
    prime,
    seed_grpo,
)
from entropyctl.dynamics.semantic_entropy import semantic_entropy
from entropyctl.errors import UsageError

from .conftest import ROOT

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
SMALL = json.loads((ROOT / "tests" / "golden" / "entropy_small.json").read_text())
SMALL_MASK = np.array(SMALL["mask"]).ravel().astype(bool)
ONE = np.ones(1, bool)


def small(name: str) -> np.ndarray:
    return np.array(SMALL[name], np.float64).ravel()


def close(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    left, right = np.asarray(found), np.asarray(expected)
    assert left.shape == right.shape
    assert left.ravel().tolist() == pytest.approx(right.ravel().tolist(), rel=tolerance, abs=tolerance)


# Semantic entropy

FOUR = {"group": np.zeros(4, int), "cluster": np.array([7, 7, 1, 4]), "logprob": np.array([-0.2, -0.3, -0.25, -0.5])}


@pytest.mark.parametrize(
    ("estimator", "mass", "expected"),
    [
        ("rao", "normalised", 1.013820),
        ("mean-log", "normalised", 1.181936),
        ("counts", "normalised", 1.039721),
        ("counts", "raw", 1.039721),
        ("mean-log", "raw", 0.101868),
    ],
)
def test_the_semantic_entropy_of_four_answers(estimator: Any, mass: Any, expected: float) -> None:
    found = semantic_entropy(**FOUR, estimator=estimator, mass=mass)
    close(found.entropy_G, [expected])
    assert (found.clusters_G.tolist(), found.size_G.tolist()) == ([3], [4])


def test_groups_do_not_share_answers() -> None:
    found = semantic_entropy(np.array([5, 2, 5, 2]), np.array([1, 1, 2, 1]), np.full(4, -1.0))
    close(found.entropy_G, [0.0, math.log(2)])
    assert found.index_B.tolist() == [1, 0, 1, 0]


def test_semantic_entropy_of_improbable_responses_does_not_underflow() -> None:
    logprob = np.array([-5000.0, -5000.0, -9000.0])
    close(semantic_entropy(np.zeros(3), np.array([0, 1, 2]), logprob).entropy_G, [math.log(2)])
    raw = semantic_entropy(np.zeros(3), np.array([0, 0, 2]), logprob, estimator="mean-log", mass="raw")
    close(raw.entropy_G, [(5000 - math.log(2) + 9000) / 2])


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(-50, 0)), min_size=1, max_size=20),
    shift=st.floats(-300, 0),
    estimator=st.sampled_from(["rao", "counts"]),
)
def test_normalised_semantic_entropy_lies_between_none_and_all_different(
    rows: list[tuple[int, int, float]], shift: float, estimator: Any
) -> None:
    group, cluster, logprob = (np.array(column) for column in zip(*rows, strict=True))
    found = semantic_entropy(group, cluster, logprob, estimator=estimator)
    assert (found.entropy_G >= -1e-12).all()
    assert (found.entropy_G <= np.log(found.clusters_G) + 1e-9).all()
    moved = semantic_entropy(group, cluster, logprob + shift, estimator=estimator)
    close(moved.entropy_G, found.entropy_G)
    mean_log = semantic_entropy(group, cluster, logprob, estimator="mean-log").entropy_G
    assert (mean_log >= np.log(found.clusters_G) - 1e-9).all()


# SEED-GRPO: the four responses above, two tokens each, of which the first is not counted in row 2


def seed_example(**flags: Any) -> np.ndarray:
    logprobs = np.array([-0.1, -0.3, -0.2, -0.4, -99.0, -0.25, -0.5, -0.5])
    loss_mask = np.array([1, 1, 1, 1, 0, 1, 1, 1], bool)
    reward = np.array([1.0, 1, 0, 0])
    return seed_grpo(reward, FOUR["group"], logprobs, np.arange(8) // 2, loss_mask, FOUR["cluster"], **flags)


@pytest.mark.parametrize(
    ("flags", "factor"),
    [
        ({"alpha": 1.0}, 1 - 1.013820 / math.log(4)),
        ({}, 1 - 0.0417 * 1.013820 / math.log(4)),
        ({"alpha": 1.0, "modulation": "exp"}, math.exp(-1.013820 / math.log(4))),
        ({"alpha": 1.0, "modulation": "focal"}, (1 - 1.013820 / math.log(4)) ** 2),
        ({"alpha": 1.0, "modulation": "focal", "focal_gamma": 0.5}, (1 - 1.013820 / math.log(4)) ** 0.5),
        ({"alpha": 1.0, "estimator": "mean-log"}, 1 - 1.181936 / math.log(4)),
        ({"alpha": 1.0, "estimator": "counts"}, 1 - 1.039721 / math.log(4)),
        ({"alpha": 1.0, "estimator": "mean-log", "mass": "raw"}, 1 - 0.101868 / math.log(4)),
        ({"alpha": 9.0}, 0.0),
    ],
)
def test_seed_grpo_makes_advantages_smaller_where_answers_disagree(flags: dict[str, Any], factor: float) -> None:
    close(seed_example(**flags), np.array([0.5, 0.5, -0.5, -0.5]) * factor)


def test_seed_grpo_takes_whole_responses_when_told() -> None:
    found = semantic_entropy(FOUR["group"], FOUR["cluster"], np.array([-0.4, -0.6, -0.25, -1.0])).entropy_G[0]
    close(seed_example(alpha=1.0, likelihood="sum")[0], 0.5 * (1 - found / math.log(4)))


def test_seed_grpo_leaves_prompts_alone_whose_answers_agree() -> None:
    tokens = np.arange(2)
    found = seed_grpo(np.array([1.0, 0]), np.zeros(2), -np.ones(2), tokens, tokens >= 0, np.zeros(2), alpha=1.0)
    assert found.tolist() == [0.5, -0.5]


def test_seed_grpo_knows_no_uncertainty_of_a_single_response() -> None:
    found = seed_grpo(np.ones(1), np.zeros(1), -np.ones(1), np.zeros(1, int), ONE, np.zeros(1), alpha=1.0)
    assert found.tolist() == [0.0]


# Positive-advantage reweighting


def test_the_entropy_guided_factor_follows_its_trace() -> None:
    state: dict[str, float] = {}
    used, after = [], []
    for step, entropy in enumerate([0.5, 0.3, 0.15, 0.1, 0.3], start=1):
        found = positive_advantage(np.array([2.0, -1.0]), np.full(2, entropy), np.ones(2, bool), step, state)
        assert found.state is not None
        used.append(found.advantages.tolist())
        after.append(found.state["lambda"])
        state = found.state
    close(after, [0.05, 0.10, 0.05, 0.0, 0.05])
    close(used, [[0.0, -1.0], [0.1, -1.0], [0.2, -1.0], [0.1, -1.0], [0.0, -1.0]])


def test_the_guiding_entropy_is_of_counted_tokens() -> None:
    mask = np.array([True, False])
    found = positive_advantage(np.ones(2), np.array([0.1, 9.0]), mask, 1, {"lambda": 0.5})
    assert (found.advantages.tolist(), found.state) == ([0.5, 0.0], {"lambda": 0.45})
    nothing = positive_advantage(np.ones(2), np.ones(2), ~mask & mask, 1, {"lambda": 0.5})
    assert (nothing.advantages.tolist(), nothing.state) == ([0.0, 0.0], {"lambda": 0.5})


def test_an_entropy_of_exactly_delta_raises_the_factor() -> None:
    found = positive_advantage(np.ones(1), np.full(1, 0.5), ONE, 1, {"lambda": 0.25}, delta=0.5, step_size=0.125)
    assert found.state == {"lambda": 0.375}


@pytest.mark.parametrize(("step", "factor"), [(1, 0), (50, 0), (75, 0.5), (90, 0.8), (100, 1), (130, 1)])
def test_the_stage_schedule_rises_in_the_second_half(step: int, factor: float) -> None:
    found = positive_advantage(
        np.array([2.0, -1.0]), np.ones(2), np.ones(2, bool), step, {}, schedule="stage", total_steps=100
    )
    close(found.advantages, [2 * factor, -1])
    assert found.state is None


@pytest.mark.parametrize(("epoch", "epochs", "factor"), [(1, 4, 0), (2, 4, 1 / 3), (4, 4, 1), (1, 1, 1)])
def test_the_epoch_schedule_rises_over_the_passes(epoch: int, epochs: int, factor: float) -> None:
    found = positive_advantage(np.ones(1), np.ones(1), ONE, 3, {}, schedule="epoch", epoch=epoch, epochs=epochs)
    close(found.advantages, [factor])


# BCPG-NSA


def test_correct_steps_of_incorrect_responses_weigh_beta() -> None:
    row = np.array([0, 0, 1, 1])
    arguments = (np.array([1.0, 0.0]), np.zeros(2), np.array([True, False]), np.array([1, 0, 1, 0], bool), row)
    assert bcpg_nsa(*arguments).tolist() == [0.5, 0.5, -0.25, -0.5]
    assert bcpg_nsa(*arguments, beta=-0.5).tolist() == [0.5, 0.5, 0.25, -0.5]


# Shapings of advantages


def test_entropy_shaping_is_held_by_the_advantage() -> None:
    advantages, entropies = np.array([1.0, 1.0, -1.0, -1.0, 0.0]), np.array([0.5, 3.0, 0.5, 3.0, 3.0])
    mask = np.ones(5, bool)
    close(entropy_shaping(advantages, entropies, mask), [1.2, 1.5, -0.8, -0.5, 0.0])
    close(entropy_shaping(advantages, entropies, mask, alpha=0.1, kappa=1.0), [1.05, 1.3, -0.95, -0.7, 0.0])


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 12)), max_size=20),
    st.floats(0, 10),
    st.floats(1, 10, exclude_min=True),
)
def test_entropy_shaping_turns_no_sign_and_lowers_nothing(
    tokens: list[tuple[float, float]], alpha: float, kappa: float
) -> None:
    advantages = np.array([a for a, _ in tokens])
    found = entropy_shaping(
        advantages, np.array([h for _, h in tokens]), np.ones(len(tokens), bool), alpha=alpha, kappa=kappa
    )
    assert (found >= advantages).all()
    assert (found * advantages >= 0).all()


def test_improbable_tokens_weigh_less() -> None:
    advantages, logprobs = np.array([1.0, -2.0, 5.0]), np.log([0.5, 0.1, 0.9])
    mask = np.array([True, True, False])
    close(low_probability(advantages, logprobs, mask), [0.9, -2 * 0.82, 0.0])
    close(low_probability(advantages, logprobs, mask, alpha=0.3), [0.85, -2 * 0.73, 0.0])
    close(low_probability(advantages, logprobs, mask, alpha=1.0), [0.5, -0.2, 0.0])


# Shapings of rewards


def test_the_overlong_penalty_grows_over_the_buffer() -> None:
    lengths = np.array([0, 80, 90, 100, 110])
    close(overlong(lengths, max_length=100, buffer=20), [0, 0, -0.5, -1.0, -1.5])
    close(overlong(lengths, max_length=100, buffer=20, variant="paper"), [0, 0, -0.5, -1.0, -1.0])
    close(overlong(lengths, max_length=100, buffer=20, factor=0.5), [0, 0, -0.25, -0.5, -0.75])
    close(overlong(np.array([16384, 18432, 20480])), [0, -0.5, -1.0])


@pytest.mark.parametrize(("estimator", "name"), [("k1", "kl"), ("abs", "abs"), ("k2", "mse"), ("k3", "low_var_kl")])
def test_the_kl_in_the_reward_is_that_of_its_peers(estimator: Any, name: str) -> None:
    found = kl_in_reward(small("logp_new"), small("logp_old"), SMALL_MASK, beta=1.0, estimator=estimator)
    expected = np.where(SMALL_MASK, -small(f"KLpen {name}"), 0)
    assert np.abs(found - expected).max() < 2e-6  # the file has six decimals


def test_the_kl_in_the_reward_in_small_numbers() -> None:
    reward = kl_in_reward(np.array([-1.0, -99.0]), np.array([-1.5, -1.0]), np.array([True, False]))
    assert reward.tolist() == [-0.0005, 0.0]
    far = kl_in_reward(np.array([-900.0]), np.zeros(1), ONE, estimator="k3", beta=1.0)
    assert far.tolist() == [-10.0]


# GAE


def ragged(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, np.float64) for row in rows])


@pytest.mark.parametrize("index", [0, 1])
def test_gae_gives_its_authors_numbers(index: int) -> None:
    fixture = PEERS["fixture"]
    case = [case for case in PEERS["cases"] if case["method"] == "advantage/gae"][index]
    lengths = [len(row) for row in fixture["values"]]
    row_of_token = np.repeat(np.arange(len(lengths)), lengths)
    rewards = np.zeros(len(row_of_token))
    rewards[np.cumsum(lengths) - 1] = fixture["reward"]
    found = gae(rewards, ragged(fixture["values"]), row_of_token, np.ones(len(rewards), bool), **case["params"])
    close(found.advantages, ragged(case["advantages"]))
    assert found.returns is not None
    close(found.returns, ragged(case["returns"]))


def test_gae_steps_over_tokens_that_are_not_counted() -> None:
    mask = np.array([1, 0, 1, 1, 0], bool)
    found = gae(
        np.array([0.0, 7.0, 1.0, 3.0, 9.0]),
        np.array([0.5, 99.0, 0.25, 1.0, 99.0]),
        np.array([0, 0, 0, 1, 1]),
        mask,
        gamma=0.5,
        lam=0.5,
        whiten=False,
    )
    # the last of each row: 1 - 0.25 and 3 - 1; before it 0.5 * 0.25 - 0.5 + 0.25 * 0.75
    assert found.advantages.tolist() == [-0.1875, 0.0, 0.75, 2.0, 0.0]
    assert found.returns is not None
    assert found.returns.tolist() == [0.3125, 0.0, 1.0, 3.0, 0.0]


def test_without_discount_gae_is_what_came_less_what_was_expected() -> None:
    rng = np.random.default_rng(0)
    rewards, values, row = rng.normal(size=9), rng.normal(size=9), np.repeat([0, 1, 2], [4, 2, 3])
    to_go = np.concatenate([np.cumsum(rewards[row == r][::-1])[::-1] for r in range(3)])
    found = gae(rewards, values, row, np.ones(9, bool), whiten=False)
    close(found.returns, to_go)
    close(found.advantages, to_go - values)


# PRIME: four responses of two prompts, the last token of each without process reward

PRIME_MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], bool).ravel()
PROCESS = np.array([[0.1, 0.2, 0], [0.3, 0, 0], [-0.1, 0.05, 0], [0, 0, 0]]).ravel()
CORRECT = np.array([1.0, 0, 1, 0])
PAIRS = np.array([0, 0, 1, 1])
TWELVE = np.arange(12) // 3


def prime_example(process: np.ndarray = PROCESS, **flags: Any) -> Any:
    return prime(CORRECT, PAIRS, process - 2.0, np.full(12, -2.0), TWELVE, PRIME_MASK, **flags)


def test_prime_gives_its_authors_numbers() -> None:
    found = prime_example(beta=1.0, normalise="none")
    expected = [4.25, 4.5, 3.75, -4.5, -6.25, 0, 4.75, 5.666667, 5.083333, -4.916667, 0, 0]
    close(found.returns, expected)
    close(found.advantages[:3], [0.57668507, 0.62675101, 0.47655326])


def test_prime_of_the_recipe_gives_the_last_token_nothing() -> None:
    other = np.where(np.isin(np.arange(12), [2, 4, 8, 9]), 7.0, PROCESS)
    assert prime_example(other).returns.tolist() == prime_example().returns.tolist()
    assert prime_example(other, variant="prime").returns.tolist() != prime_example(variant="prime").returns.tolist()


def test_prime_divides_by_the_largest_sum_to_go() -> None:
    # row 0 has 0.3 to go from its first token, no row has more
    found = prime_example(outcome=0.0).returns
    expected = prime_example(PROCESS / 0.3, beta=1.0, normalise="none", outcome=0.0).returns
    close(found, expected, 1e-4)  # 1e-6 is added to 0.3 beta = 0.015
    close(prime_example(outcome=0.0, beta=1e6).returns, expected)


def test_prime_variants_in_small_numbers() -> None:
    row = np.array([0, 0, 1])
    arguments = (np.array([1.0, 0.0]), np.zeros(2), np.array([2.0, 4.0, 1.0]), np.zeros(3), row, np.ones(3, bool))
    # means 3 and 1; the paper: 2 - 1, 4 - 1, 1 - 3; the codes: 2 (2, 4, 1) - 4
    paper = prime(*arguments, variant="paper", beta=1.0)
    assert paper.returns is not None
    assert paper.returns.tolist() == [4 + 1, 3 + 1, -2 - 1]
    assert paper.advantages.tolist() == paper.returns.tolist()
    code = prime(*arguments, variant="prime", normalise="none")
    assert code.returns is not None
    assert code.returns.tolist() == [4 + 1, 4 + 1, -2 - 1]
    discounted = prime(*arguments, variant="paper", beta=1.0, gamma=0.5, process=2.0, outcome=0.0, whiten=False)
    assert discounted.advantages.tolist() == [5, 6, -4]


def test_a_sequence_has_the_same_mean_in_papers_and_codes() -> None:
    flags: dict[str, Any] = {"outcome": 0.0, "process": 1.0, "normalise": "none", "gamma": 0.0}
    paper = prime_example(variant="paper", beta=1.0, **flags).returns
    code = prime_example(variant="prime", **flags).returns
    for row in range(4):
        at = PRIME_MASK & (row == TWELVE)
        assert paper[at].mean() == pytest.approx(code[at].mean())


def test_a_sample_without_others_has_no_baseline() -> None:
    found = prime(np.ones(1), np.zeros(1), np.array([1.0, 2.0]), np.zeros(2), np.zeros(2, int), np.ones(2, bool),
                  variant="paper", beta=1.0)  # fmt: skip
    assert found.advantages.tolist() == [3 + 1, 2 + 1]


# Flags

TOKENS = (np.ones(1), np.ones(1), np.zeros(1, int), ONE)
RESPONSES = (np.ones(1), np.zeros(1), np.ones(1), np.ones(1), np.zeros(1, int), ONE)
BAD: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (gae, TOKENS, {"gamma": 1.5}, "--gamma 1.5: must lie"),
    (gae, TOKENS, {"lam": -0.5}, "--lam -0.5: must lie"),
    (prime, RESPONSES, {"beta": -1.0}, "--beta -1: must be"),
    (prime, RESPONSES, {"process": math.nan}, "--process nan: must be"),
    (prime, RESPONSES, {"gamma": 2.0}, "--gamma 2: must lie"),
    (overlong, (np.ones(1),), {"buffer": 0}, "--buffer 0: must be"),
    (overlong, (np.ones(1),), {"max_length": 9, "buffer": 10}, "--max-length 9: must be"),
    (overlong, (np.ones(1),), {"factor": -1.0}, "--factor -1: must be"),
    (kl_in_reward, (np.ones(1), np.ones(1), ONE), {"beta": math.nan}, "--beta nan: must be"),
    (low_probability, (np.ones(1), np.ones(1), ONE), {"alpha": 1.5}, "--alpha 1.5: must lie"),
    (entropy_shaping, (np.ones(1), np.ones(1), ONE), {"kappa": 0.5}, "--kappa 0.5: must be"),
    (entropy_shaping, (np.ones(1), np.ones(1), ONE), {"alpha": math.inf}, "--alpha inf: must be"),
    (bcpg_nsa, (np.ones(1), np.ones(1), ONE, ONE, np.zeros(1, int)), {"beta": 1.5}, "--beta 1.5: must lie"),
    (positive_advantage, (np.ones(1), np.ones(1), ONE, 1, {}), {"step_size": 2.0}, "--step-size 2: must lie"),
    (positive_advantage, (np.ones(1), np.ones(1), ONE, 1, {}), {"delta": -1.0}, "--delta -1: must be"),
    (positive_advantage, (np.ones(1), np.ones(1), ONE, 1, {}), {"total_steps": 0}, "--total-steps 0: must be"),
    (positive_advantage, (np.ones(1), np.ones(1), ONE, 1, {}), {"epoch": 3}, "--epoch 3: must lie in 1 to --epochs 2"),
]


@pytest.mark.parametrize(("function", "arguments", "flags", "message"), BAD)
def test_a_flag_out_of_range_is_named(
    function: Any, arguments: tuple[Any, ...], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        function(*arguments, **flags)
