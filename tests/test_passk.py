"""pass@k is the mean over all subsets of k responses."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.laws import pass_at_k, pass_curve
from entropyctl.laws.pass_at_k import sampling_variance


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (8, 1, 4, 0.5),
        (8, 4, 4, 0.985714285714),
        (200, 3, 100, 0.876884422111),
        (8, 1, 8, 1.0),
        (8, 0, 8, 0.0),
        (8, 8, 1, 1.0),
        (1, 0, 1, 0.0),
    ],
)
def test_known_values(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(np.array([n]), np.array([c]), k)[0] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_mean_over_every_subset_of_k_responses(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    correct = [True] * c + [False] * (n - c)
    subsets = [any(subset) for subset in combinations(correct, k)]
    assert pass_at_k(np.array([n]), np.array([c]), k)[0] == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=6))
def test_a_curve_rises_from_the_average_to_whether_any_is_correct(problems: list[tuple[int, float]]) -> None:
    n = np.array([n for n, _ in problems])
    c = np.array([round(n * share) for n, share in problems])
    curve = pass_curve(n, c, int(n.min()))
    assert curve[:, 0] == pytest.approx(c / n)
    assert (np.diff(curve, axis=1) >= -1e-12).all()
    assert ((curve >= 0) & (curve <= 1)).all()
    full = n == n.min()
    assert (curve[full, -1] == (c[full] > 0)).all()


def test_problems_of_different_n_stand_side_by_side() -> None:
    assert pass_at_k(np.array([2, 4]), np.array([1, 1]), 2) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_of_1_to_n_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the smallest n, 4; it is {k}"):
        pass_at_k(np.array([8, 4]), np.array([1, 1]), k)


def test_more_correct_responses_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        pass_at_k(np.array([4]), np.array([5]), 1)


def test_sampling_alone_moves_a_curve_as_draws_of_its_rate_do() -> None:
    """c' of n = 6 responses at the rate (c + 1/2) / 7: the variance of pass@k over all c', by listing them."""
    n, k = 6, 3
    for c in range(n + 1):
        p = (c + 0.5) / (n + 1)
        chance = [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]
        curve = [1 - math.comb(n - x, k) / math.comb(n, k) for x in range(n + 1)]
        mean = sum(w * y for w, y in zip(chance, curve, strict=True))
        expected = sum(w * (y - mean) ** 2 for w, y in zip(chance, curve, strict=True))
        found = sampling_variance(np.array([n, n + 1]), np.array([c, 0]), k)
        assert found[0, k - 1] == pytest.approx(expected, rel=1e-9)
        assert found[0, 0] == pytest.approx(p * (1 - p) / n, rel=1e-9)
