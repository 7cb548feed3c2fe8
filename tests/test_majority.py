"""cons@k is the mean over all subsets of k responses of whether their most frequent answer is correct."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.laws import consensus_at_k, majority_correct


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
def test_the_majority_shares_a_tie(counts: list[int], correct: list[bool], expected: float | None) -> None:
    assert majority_correct(counts, correct) == expected


def listed(counts: list[int], correct: list[bool], unanswered: int, k: int) -> float:
    """The definition."""
    responses = [i for i, count in enumerate(counts) for _ in range(count)] + [None] * unanswered
    found = []
    for subset in combinations(responses, k):
        votes = [subset.count(i) for i in range(len(counts))]
        voted = [i for i, count in enumerate(votes) if count]
        found.append(majority_correct([votes[i] for i in voted], [correct[i] for i in voted]) or 0.0)
    return float(np.mean(found))


@settings(max_examples=120)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=4), st.integers(0, 3), st.data())
def test_equals_the_mean_over_every_subset(
    answers: list[tuple[int, bool]], unanswered: int, data: st.DataObject
) -> None:
    counts, correct = [count for count, _ in answers], [right for _, right in answers]
    n = sum(counts) + unanswered
    if n:
        k = data.draw(st.integers(1, min(n, 10)))
        if len(list(combinations(range(n), k))) < 4000:
            found = consensus_at_k(counts, correct, unanswered, k)
            assert found == pytest.approx(listed(counts, correct, unanswered, k), abs=1e-11)


@pytest.mark.parametrize("n", [64, 512])
def test_one_vote_is_the_average_and_all_votes_are_the_majority(n: int) -> None:
    counts = [n // 4, n // 2, n // 8]
    correct = [True, False, True]
    unanswered = n - sum(counts)
    assert consensus_at_k(counts, correct, unanswered, 1) == pytest.approx(3 / 8, abs=1e-10)
    assert consensus_at_k(counts, correct, unanswered, n) == 0.0
    # Half of the responses give the wrong answer, a quarter the right one: more votes make it less likely to win.
    curve = [consensus_at_k(counts, correct, unanswered, k) for k in (3, 9, 33)]
    assert curve == sorted(curve, reverse=True) and curve[0] > curve[-1]


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_of_1_to_n_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and n = 3; it is {k}"):
        consensus_at_k([2], [True], 1, k)
