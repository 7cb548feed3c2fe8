"""What a method's positional parameters are given out of a table's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.errors import InputError
from entropyctl.inputs import inputs


def step(**columns: Any) -> pa.Table:
    """Three rows of 2, 0 and 1 tokens; a list of lists is a number per token, any other list one per row."""
    rows: dict[str, Any] = {
        "step": pa.array([4] * 3, pa.int64()),
        "prompt_id": ["p"] * 3,
        "sample": pa.array(range(3), pa.int32()),
        "loss_mask": [[True, True], [], [True]],
        "reward": pa.array([1.0, 0.0, 0.5], pa.float32()),
    }
    for name, values in columns.items():
        per_token = any(isinstance(value, list) for value in values)
        rows[name] = pa.array(values, pa.list_(pa.float32()) if per_token else pa.float32())
    return pa.table(rows)


def one(rows: pa.Table, name: str) -> Any:
    (found,) = inputs(rows, [name])
    return np.asarray(found).tolist()


def test_a_row_that_was_not_scored_again_keeps_its_own_statistics() -> None:
    rows = step(logprobs=[[-1.0, -2.0], [], [-3.0]], old_logprobs=[[-1.5, -2.5], [], None])
    assert one(rows, "old_logprobs") == [-1.5, -2.5, -3.0]
    assert one(rows.drop_columns(["old_logprobs"]), "old_logprobs") == [-1.0, -2.0, -3.0]


def test_a_row_without_rewards_of_tokens_has_its_reward_on_its_last() -> None:
    assert one(step(token_rewards=[[0.25, 0.75], [], None]), "token_rewards") == [0.25, 0.75, 0.5]
    assert one(step(), "token_rewards") == [0.0, 1.0, 0.5]


def test_what_lies_on_a_row_may_be_null() -> None:
    assert one(step(weights=[None, [], [0.5]]), "weights") == [1.0, 1.0, 0.5]
    rows = step().append_column("base_mask", pa.array([[True, False], None, None], pa.list_(pa.bool_())))
    assert one(rows, "base_mask") == [True, False, True]


def test_a_column_of_the_users_own_is_per_token_where_it_is_a_list() -> None:
    rows = step(surprise=[[1.0, 2.0], [], [3.0]], length_bonus=[5.0, 6.0, 7.0])
    assert one(rows, "surprise") == [1.0, 2.0, 3.0]
    assert one(rows, "length_bonus") == [5.0, 6.0, 7.0]


def test_a_reward_among_several_that_is_null_is_not_a_zero() -> None:
    assert one(step(reward_b=[1.0, 2.0, 3.0], reward_a=[4.0, 5.0, 6.0]), "rewards") == [[4, 1], [5, 2], [6, 3]]
    with pytest.raises(InputError, match="sample 1: 'reward_a' is null"):
        inputs(step(reward_a=[1.0, None, 1.0]), ["rewards"])
