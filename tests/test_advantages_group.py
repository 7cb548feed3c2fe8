"""Estimators that compare the responses of a group or whiten a step: their authors' numbers, and algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.advantages._whiten import whiten

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
