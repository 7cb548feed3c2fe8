"""The mathematics of entropy under an update: identities that hold for every distribution, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.dynamics import centred_score, expected_score, predicted_change, s_star, token_statistics

LOGITS = st.lists(st.floats(-6, 6), min_size=2, max_size=30).map(np.array)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def entropy(logits: np.ndarray) -> float:
    p = softmax(logits)
    return float(-(p * np.log(p)).sum())


def all_tokens(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """p, S of every token, H and E[S] of one distribution."""
    size = len(logits)
    stats = token_statistics(np.tile(logits, (size, 1)), np.arange(size))
    return np.exp(stats.logprobs), stats.s_star, float(stats.entropies[0]), float(stats.expected_s[0])


@given(LOGITS)
def test_the_scores_of_all_tokens_sum_to_zero(logits: np.ndarray) -> None:
    _, scores, _, _ = all_tokens(logits)
    assert abs(scores.sum()) < 1e-12


@given(LOGITS)
def test_the_score_is_minus_the_gradient_of_the_entropy(logits: np.ndarray) -> None:
    _, scores, _, _ = all_tokens(logits)
    for k in range(len(logits)):
        up, down = logits.copy(), logits.copy()
        up[k] += 1e-5
        down[k] -= 1e-5
        assert -(entropy(up) - entropy(down)) / 2e-5 == pytest.approx(scores[k], abs=1e-8)


@given(LOGITS)
def test_the_expected_score_is_a_covariance_and_never_negative(logits: np.ndarray) -> None:
    p, scores, _, expected = all_tokens(logits)
    logp = np.log(p)
    covariance = (p * p * logp).sum() - (p * p).sum() * (p * logp).sum()
    assert expected == pytest.approx(covariance, abs=1e-12)
    assert expected == pytest.approx((p * scores).sum(), abs=1e-12)
    assert expected > -1e-12
    assert (p * centred_score(scores, np.full(len(p), expected))).sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_expected_score_of_a_uniform_distribution_is_zero(size: int) -> None:
    logits = np.full((1, size + 3), -np.inf)
    logits[0, :size] = 0.3
    stats = token_statistics(logits, np.array([0]))
    assert stats.entropies[0] == pytest.approx(math.log(size), abs=1e-12)
    assert stats.expected_s[0] == pytest.approx(0, abs=1e-12)
    assert stats.s_star[0] == pytest.approx(0, abs=1e-12)
    assert stats.sum_p2[0] == pytest.approx(1 / size)


@given(LOGITS)
def test_the_sign_of_a_score_is_that_of_p_against_the_typical_probability(logits: np.ndarray) -> None:
    p, scores, h, _ = all_tokens(logits)
    clear = np.abs(p - math.exp(-h)) > 1e-9
    assert np.array_equal((scores > 0)[clear], (p > math.exp(-h))[clear])
    assert scores.min() >= -math.exp(-h - 1) - 1e-12
    assert scores.min() >= -1 / math.e


def test_the_smallest_score_for_a_given_entropy() -> None:
    h = 1.3
    logprobs = np.linspace(-8, -1e-3, 20_001)
    scores = s_star(logprobs, np.full(len(logprobs), h))
    assert logprobs[scores.argmin()] == pytest.approx(-(h + 1), abs=1e-3)
    assert scores.min() == pytest.approx(-math.exp(-(h + 1)), abs=1e-8)


@settings(max_examples=50)
@given(logits=LOGITS, choice=st.integers(0, 10_000), advantage=st.sampled_from([-2.0, -0.5, 0.7, 1.5]))
def test_the_predicted_change_is_right_to_first_order(logits: np.ndarray, choice: int, advantage: float) -> None:
    k = choice % len(logits)
    p, scores, h, expected = all_tokens(logits)
    step = np.eye(len(logits))[k] - p  # the logits of one position, moved along its policy gradient
    errors = []
    for eta in (1e-2, 5e-3):
        predicted = predicted_change(np.array([advantage]), scores[k : k + 1], np.array([expected]), eta=eta)[0]
        errors.append(abs(entropy(logits + eta * advantage * step) - h - predicted))
    assert errors[0] <= 4 * (1e-2 * advantage) ** 2  # O(eta^2) with a constant that is small
    assert errors[1] <= 0.3 * errors[0] + 1e-12  # half the step, a quarter of the error


@given(LOGITS)
def test_in_expectation_it_is_the_covariance_of_the_entropy_mechanism(logits: np.ndarray) -> None:
    p, scores, _, expected = all_tokens(logits)
    advantages = np.sin(np.arange(len(p)) * 1.7)
    advantages -= (p * advantages).sum()
    mean = (p * predicted_change(advantages, scores, np.full(len(p), expected))).sum()
    logp = np.log(p)
    product = p * advantages
    covariance = (p * logp * product).sum() - (p * logp).sum() * (p * product).sum()
    assert mean == pytest.approx(-covariance, abs=1e-12)


def test_the_factors_of_the_predicted_change() -> None:
    found = predicted_change(
        np.array([1.0, -1.0, 0.0]), np.array([0.5, 0.5, 0.5]), np.array([0.25, 0.25, 0.25]),
        weights_N=np.array([1.0, 0.5, 1.0]), ratios_N=np.array([2.0, 1.0, 1.0]), eta=0.1,
    )  # fmt: skip
    assert found.tolist() == pytest.approx([-0.05, 0.0125, 0.0])


def test_statistics_by_hand() -> None:
    stats = token_statistics(np.log([[0.5, 0.25, 0.25]]), np.array([1]))
    h = 1.5 * math.log(2)
    assert stats.entropies[0] == pytest.approx(h)
    assert stats.logprobs[0] == pytest.approx(math.log(0.25))
    assert stats.s_star[0] == pytest.approx(0.25 * (h + math.log(0.25)))
    assert stats.sum_p2[0] == pytest.approx(0.375)
    assert stats.expected_s[0] == pytest.approx(h * 0.375 + 0.25 * math.log(0.5) + 0.125 * math.log(0.25))
    assert expected_score(np.array([h]), np.array([0.375]), np.array([-0.3465735903])) == pytest.approx(
        stats.expected_s[0]
    )


def test_a_temperature_divides_the_logits() -> None:
    logits = np.array([[1.0, 2.0, 4.0]])
    hot, scaled = token_statistics(logits, np.array([2]), temperature=2.0), token_statistics(logits / 2, np.array([2]))
    assert all(np.array_equal(a, b) for a, b in zip(hot, scaled, strict=True))
    assert hot.entropies[0] > token_statistics(logits, np.array([2])).entropies[0]


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_edges_are_finite(scale: float) -> None:
    one_hot = np.array([[0.0, -np.inf, -np.inf], [scale, 0.0, -scale], [scale, scale, scale]])
    stats = token_statistics(one_hot, np.array([0, 0, 0]))
    assert all(np.isfinite(values).all() for values in stats)
    assert stats.entropies[0] == 0 and stats.s_star[0] == 0 and stats.expected_s[0] == 0
    lost = token_statistics(one_hot[:1], np.array([1]))  # a token of probability zero
    assert lost.logprobs[0] == -np.inf and lost.s_star[0] == 0
