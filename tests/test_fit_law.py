"""R = -a e^H + b is fitted exactly, with intervals that cover, and says what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest

from entropyctl.errors import InputError
from entropyctl.laws import fit_law

# Qwen2.5-7B on mathematics, read off figure 7 of arXiv 2505.22617.
A, B = 0.210, 0.598


def published(entropy: np.ndarray) -> np.ndarray:
    return -A * np.exp(entropy) + B


def test_points_on_the_published_curve_give_the_published_numbers() -> None:
    entropy = np.array([0.9, 0.6, 0.4, 0.2, 0.1, 0.05])
    fit = fit_law(entropy, published(entropy))
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.210, 0.598, 0.388), abs=1e-12)
    assert fit.rmse < 1e-12
    assert fit.r2 == pytest.approx(1)
    assert fit.points == 6
    assert fit.predict(np.array([0.0]))[0] == pytest.approx(0.388)


def test_a_worked_example() -> None:
    # x = e^H = 1, 2, 3, 4 and R = 3, 2, 2, 1: Sxx = 5, Sxy = -3, so a = 0.6 and b = 2 + 0.6 * 2.5.
    # Residuals 0.1, -0.3, 0.3, -0.1: SSE = 0.2, s^2 = 0.1; t of 2 degrees of freedom at 95 % is 4.302652730.
    fit = fit_law(np.log([1, 2, 3, 4]), [3, 2, 2, 1])
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.6, 3.5, 2.9))
    assert fit.rmse == pytest.approx(0.2236067977)
    assert fit.r2 == pytest.approx(0.9)
    half_a = 4.302652730 * (0.1 / 5) ** 0.5
    half_b = 4.302652730 * (0.1 * (1 / 4 + 2.5**2 / 5)) ** 0.5
    half_ceiling = 4.302652730 * (0.1 * (1 / 4 + 1.5**2 / 5)) ** 0.5
    assert fit.a_interval == pytest.approx((0.6 - half_a, 0.6 + half_a))
    assert fit.b_interval == pytest.approx((3.5 - half_b, 3.5 + half_b))
    assert fit.ceiling_interval == pytest.approx((2.9 - half_ceiling, 2.9 + half_ceiling))


def test_the_95_percent_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(20240607)
    entropy = np.array([1.2, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
    draws, covered = 2000, np.zeros(3)
    for _ in range(draws):
        fit = fit_law(entropy, published(entropy) + rng.normal(0, 0.02, len(entropy)))
        truths = zip((A, B, B - A), (fit.a_interval, fit.b_interval, fit.ceiling_interval), strict=True)
        covered += [low <= truth <= high for truth, (low, high) in truths]
    # Three standard errors of a share of 0.95 in 2000 draws are 0.015.
    assert (abs(covered / draws - 0.95) < 0.015).all(), covered / draws


def test_a_wider_level_gives_a_wider_interval() -> None:
    points = np.log([1, 2, 3, 4]), [3, 2, 2, 1]
    narrow, wide = fit_law(*points, confidence=0.5), fit_law(*points, confidence=0.99)
    assert narrow.a_interval is not None and wide.a_interval is not None
    assert wide.a_interval[0] < narrow.a_interval[0] < narrow.a_interval[1] < wide.a_interval[1]


def test_two_points_are_fitted_exactly_and_have_no_intervals() -> None:
    fit = fit_law([0.0, np.log(2)], [0.5, 0.3])
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.2, 0.7, 0.5))
    assert (fit.a_interval, fit.b_interval, fit.ceiling_interval) == (None, None, None)


def test_performance_that_never_varies_has_no_r2() -> None:
    fit = fit_law([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    assert fit.r2 is None
    assert fit.a == 0


@pytest.mark.parametrize(
    ("entropy", "performance", "words"),
    [
        ([0.5], [0.1], r"1 point\(s\) of entropy and performance; a law needs at least two"),
        ([], [], r"0 point\(s\)"),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], "all 3 points have the entropy 0.5"),
        ([0.5, float("nan")], [0.1, 0.2], "point 2 is .H nan, R 0.2."),
        ([0.5, 0.6], [float("inf"), 0.2], "point 1 is .H 0.5, R inf."),
        ([0.5, 800.0], [0.1, 0.2], "point 2"),
    ],
)
def test_points_that_carry_no_law_are_refused_in_words(
    entropy: list[float], performance: list[float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        fit_law(entropy, performance, path="x.csv")
