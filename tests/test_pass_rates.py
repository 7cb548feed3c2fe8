"""How pass rates are distributed, how they move, and what a paired comparison of two policies may say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import comb

from entropyctl.laws.paired import paired_curve
from entropyctl.laws.pass_rates import discoveries, distribution, fisher_exact, movement


def test_problems_never_sometimes_and_always_solved() -> None:
    found = distribution(np.array([8, 8, 8, 10, 10]), np.array([0, 8, 4, 3, 9]))
    assert found == {
        "all_wrong": 1,
        "mixed": 3,
        "all_right": 1,
        "histogram": [0, 0, 0, 1, 0, 1, 0, 0, 0, 1],  # 3/10 lies in the bin from 0.3, not below it
    }


def test_where_problems_went() -> None:
    eight = np.full(5, 8)
    found = movement(eight, np.array([0, 0, 4, 8, 4]), eight, np.array([0, 8, 8, 0, 4]))
    assert found["from_to"]["all_wrong"] == {"all_wrong": 1, "mixed": 0, "all_right": 1}
    assert found["from_to"]["mixed"] == {"all_wrong": 0, "mixed": 1, "all_right": 1}
    assert found["from_to"]["all_right"] == {"all_wrong": 1, "mixed": 0, "all_right": 0}
    assert (found["rose"], found["fell"], found["same"]) == (2, 1, 2)
    # 0 to 8 of 8 has p = 2/12870; 4 to 8 of 8 has p 0.077, which is noise.
    assert (found["rose_beyond_noise"], found["fell_beyond_noise"], found["beyond_noise"]) == (1, 1, [1, 3])


def test_equal_rates_of_unlike_numbers_are_the_same() -> None:
    assert movement(np.array([6]), np.array([2]), np.array([3]), np.array([1]))["same"] == 1


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_fishers_test_adds_up_all_splits_that_are_no_likelier(n_a: int, n_b: int, data: st.DataObject) -> None:
    c_a, c_b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    weights = {x: comb(n_a, x, exact=True) * comb(n_b, c_a + c_b - x, exact=True) for x in range(c_a + c_b + 1)}
    expected = sum(w for w in weights.values() if w <= weights[c_a]) / sum(weights.values())
    found = fisher_exact(np.array([n_a]), np.array([c_a]), np.array([n_b]), np.array([c_b]))
    assert found[0] == pytest.approx(expected, abs=1e-9)


def test_the_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    # The example of the paper: 15 p-values, of which the first four stay at 5 %.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p = np.array([*p, 0.7590, 1.0])
    assert np.flatnonzero(discoveries(p, 0.05)).tolist() == [0, 1, 2, 3]
    assert discoveries(np.array([]), 0.05).tolist() == []


def test_a_policy_that_sharpens_is_better_for_few_samples_and_worse_for_many() -> None:
    """A solves every problem at 0.2; B three of ten always and the others never."""
    n = np.full(60, 32)
    a = np.random.default_rng(0).binomial(32, 0.2, 60)
    b = np.where(np.arange(60) % 10 < 3, 32, 0)
    found = paired_curve(n, a, n, b)
    assert found.problems == 60
    assert found.difference[[0, 31]] == pytest.approx([0.3 - a.mean() / 32, 0.3 - (a > 0).mean()])
    assert found.better == [] and found.worse == [(3, 32)]
    assert found.verdict("base", "trained") == "trained is worse than base at k = 3 to 32; undecided at the others"
    back = paired_curve(n, b, n, a)
    assert back.better == found.worse and back.difference == pytest.approx(-found.difference)


def test_a_policy_against_itself_shows_no_difference_and_says_what_is_not_ruled_out() -> None:
    n = np.full(20, 8)
    c = np.random.default_rng(1).binomial(8, 0.5, 20)
    found = paired_curve(n, c, n, c)
    assert (found.difference == 0).all() and (found.low < 0).all() and (found.high > 0).all()
    words = found.verdict()
    assert words.startswith("no difference is shown at any k up to 8; at k = 2 anything from -0.1")
    assert "equal" not in words


def test_one_problem_shows_nothing_of_others() -> None:
    found = paired_curve(np.array([8]), np.array([0]), np.array([8]), np.array([8]))
    assert np.isnan(found.low).all() and found.better == []
    assert found.verdict() == "one problem shows nothing of others; compare on several"


def test_unlike_n_are_compared_up_to_the_smaller() -> None:
    found = paired_curve(np.full(4, 16), np.array([1, 2, 3, 4]), np.full(4, 8), np.array([1, 2, 3, 4]))
    assert len(found.difference) == 8


def test_the_band_holds_the_whole_curve_as_often_as_it_says() -> None:
    """400 pairs of evaluations of 40 problems whose true curves are known."""
    rng = np.random.default_rng(2)
    k_K = np.arange(1, 17)
    grid = rng.beta(0.5, 1.0, 100_000)
    truth_K = np.array([((1 - grid) ** k).mean() - ((1 - grid**0.8) ** k).mean() for k in k_K])
    n, held = np.full(40, 16), 0
    for _ in range(400):
        p = rng.beta(0.5, 1.0, 40)
        found = paired_curve(n, rng.binomial(16, p), n, rng.binomial(16, p**0.8))
        held += bool(((found.low <= truth_K) & (truth_K <= found.high)).all())
    assert 0.93 <= held / 400 <= 0.995
