"""pass@k is the mean over all subsets of k responses; the majority is the most frequent answer."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.laws import majority_correct, pass_at_k, pass_curve


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


@pytest.mark.parametrize(
    ("counts", "correct", "expected"),
    [
        ([3, 2], [True, False], 1.0),
        ([3, 2], [False, True], 0.0),
        ([2, 2], [True, False], 0.5),
        ([2, 2, 2, 1], [False, True, False, True], 1 / 3),
        ([1], [False], 0.0),
        ([], [], None),
    ],
)
def test_a_tie_for_the_majority_counts_the_fraction_that_is_correct(
    counts: list[int], correct: list[bool], expected: float | None
) -> None:
    assert majority_correct(counts, correct) == expected
