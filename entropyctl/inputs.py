"""What the positional parameters of a mask or an estimator stand for: columns of a step, and what follows from them.

A parameter that is named like a column is that column: `[N]` with the rows' tokens behind one another where it has a
number per token, `[B]` where it has one per row. The names in `DERIVED` are made from columns, and those in `GIVEN`
come from outside the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table.columns import (
    VALUES_AT_ONCE,
    codes,
    filled,
    flat_values,
    null_rows,
    one_chunk,
    row_column,
    row_lengths,
    row_values,
    values_or,
)
from entropyctl.table.columns import row_of_token as rows_of_tokens
from entropyctl.table.conform import row_name
from entropyctl.table.schema import known_column
from entropyctl.table.types import is_list

Array = npt.NDArray[Any]

# What the caller hands over: memory of earlier steps, and the metrics of earlier steps.
GIVEN = ("state", "history")
REWARD_PREFIX = "reward_"


class Derived(NamedTuple):
    """An input that is made from columns."""

    needs: tuple[str, ...]
    optional: tuple[str, ...]
    make: Callable[[pa.Table], Any]


def inputs(rows: pa.Table, names: Iterable[str], given: Mapping[str, Any] | None = None) -> list[Any]:
    """The arguments of a method for the rows of a step, in the order of `names`.

    Args:
        rows: one step, with the columns that `needs` and `optional` name where it has them.
        names: the method's positional parameters.
        given: values for the names in `GIVEN`; without one, `state` and `history` are empty.
    """
    return [_input(rows, name, given or {}) for name in names]


def needs(names: Iterable[str]) -> list[str]:
    """Columns that must be there for these inputs."""
    return _columns(names, lambda derived: derived.needs)


def optional(names: Iterable[str]) -> list[str]:
    """Columns that these inputs use where they are there."""
    return _columns([name for name in names if name in DERIVED], lambda derived: derived.optional)


def _columns(names: Iterable[str], part: Callable[[Derived], tuple[str, ...]]) -> list[str]:
    columns = (part(DERIVED[name]) if name in DERIVED else (name,) for name in names if name not in GIVEN)
    found = (column for some in columns for column in some)
    return list(dict.fromkeys(found))


def is_per_token(name: str) -> bool:
    """Whether an input has a number for each token."""
    column = known_column(name)
    return name in PER_TOKEN or (column is not None and column.per == "token")


def _input(rows: pa.Table, name: str, given: Mapping[str, Any]) -> Any:
    if name in GIVEN:
        return given.get(name, {})
    if name in DERIVED:
        return DERIVED[name].make(rows)
    if is_per_token(name) or (known_column(name) is None and is_list(rows[name].type)):
        values = flat_values(rows[name])
        return values.astype(bool, copy=False) if name == "loss_mask" else values
    column = rows[name]
    return np.array(column.to_pylist(), object) if pa.types.is_string(column.type) else row_values(column)


def group(rows: pa.Table) -> Array:
    """`[B]` a number for each problem of the step, in order of first appearance."""
    return codes(rows["prompt_id"])


def row_of_token(rows: pa.Table) -> Array:
    """`[N]` the row of each token."""
    return rows_of_tokens(lengths(rows))


def lengths(rows: pa.Table) -> Array:
    """`[B]` tokens of each response, counted or not."""
    return row_lengths(rows["loss_mask"])


def step_number(rows: pa.Table) -> int:
    """The number of the step; 0 for a table without rows."""
    return int(row_values(rows["step"].slice(0, 1))[0]) if rows.num_rows else 0


def correct(rows: pa.Table) -> Array:
    """`[B]` True where the grader called the response correct."""
    return np.array([outcome == "correct" for outcome in rows["outcome"].to_pylist()], bool)


def cluster(rows: pa.Table) -> Array:
    """`[B]` equal for two responses of a group that give the same answer.

    The grader has verified correct responses as equal to the reference, so they are one cluster. Others are the
    same where it read the same answer out of them; one without an answer is like no other.
    """
    keys: dict[tuple[Any, ...], int] = {}
    found = zip(group(rows).tolist(), correct(rows).tolist(), rows["predicted"].to_pylist(), strict=True)
    numbers = []
    for index, (problem, right, predicted) in enumerate(found):
        answer = same_answer(right, predicted)
        key = (problem, index) if answer is None else (problem, "", answer)
        numbers.append(keys.setdefault(key, len(keys)))
    return np.array(numbers, np.int64)


def same_answer(right: bool, predicted: str | None) -> Hashable | None:
    """What is equal for two responses to a problem that give the same answer; None is like no other."""
    return True if right else predicted


def token_key(rows: pa.Table) -> Array:
    """`[N]` uint64 the identity of a token: a hash of step, prompt and sample, and its position."""
    from hashlib import blake2b  # loads OpenSSL, for which the masks that need no identity should not wait

    names = zip(*(rows[name].to_pylist() for name in ("step", "prompt_id", "sample")), strict=True)
    words = [blake2b(repr(key).encode(), digest_size=8).digest() for key in names]
    row_B = np.frombuffer(b"".join(words), np.uint64)
    lengths_B = lengths(rows)
    first_B = (np.cumsum(lengths_B) - lengths_B).astype(np.uint64)
    step = np.uint64(0x9E3779B97F4A7C15)
    # A token's key is its row's word + step x position; unsigned arrays wrap around.
    key_N = np.repeat(row_B - step * first_B, lengths_B)
    for start in range(0, len(key_N), VALUES_AT_ONCE):
        part = key_N[start : start + VALUES_AT_ONCE]
        part += step * np.arange(start, start + len(part), dtype=np.uint64)
    return key_N


def token_rewards(rows: pa.Table) -> Array:
    """`[N]` the reward of each token: the table's, or else the response's on its last counted token."""
    if "token_rewards" in rows.column_names and rows["token_rewards"].null_count == 0:
        return flat_values(rows["token_rewards"])
    mask_N, row_N = flat_values(rows["loss_mask"]).astype(bool), row_of_token(rows)
    return values_or(rows, "token_rewards", spread_last(row_values(rows["reward"]), mask_N, row_N))


def spread_last(values_B: Array, loss_mask_N: Array, row_N: Array) -> Array:
    """`[N]` a row's number on its last counted token, 0 elsewhere."""
    found_N = np.zeros(len(row_N))
    counted = np.flatnonzero(loss_mask_N)
    last = counted[np.append(row_N[counted][1:] != row_N[counted][:-1], True)] if len(counted) else counted
    found_N[last] = values_B[row_N[last]]
    return found_N


def rewards(rows: pa.Table) -> Array:
    """`[B, M]` the columns that are called `reward_...`, by name.

    Raises:
        InputError: there is none, or one of a row is null.
    """
    names = sorted(name for name in rows.column_names if name.startswith(REWARD_PREFIX))
    if not names:
        raise InputError(
            f"no column '{REWARD_PREFIX}...' in the table; "
            "make each by `entropyctl score --reward ... --reward-as NAME`"
        )
    for name in names:
        if (null_B := null_rows(rows[name])).any():
            row = row_name(rows, int(null_B.argmax()))
            raise InputError(f"row {row}: '{name}' is null; give every response each of its rewards")
    return np.stack([row_values(rows[name]).astype(np.float64) for name in names], axis=1)


def greedy(rows: pa.Table) -> Array:
    """`[B]` True for the greedy baseline row of a prompt; none where the table has no such rows."""
    if "greedy" not in rows.column_names:
        return np.zeros(rows.num_rows, bool)
    return filled(one_chunk(rows["greedy"]), False)


def step_correct(rows: pa.Table) -> Array:
    """`[N]` True where the token lies in a step that `step_labels` calls correct."""
    return in_correct_steps(rows["step_labels"], lengths(rows))


def samples(rows: pa.Table) -> pa.Table:
    """The rows without greedy baseline rows, which are no draws of the policy."""
    greedy_B = greedy(rows)
    return rows.take(row_column(np.flatnonzero(~greedy_B), pa.int64())) if greedy_B.any() else rows


def in_correct_steps(column: pa.ChunkedArray | pa.Array, lengths_B: Array) -> Array:
    """Which tokens lie in a step that is called correct.

    Args:
        column: `step_labels`, `[B]`; a null row has no correct token.
        lengths_B: `[B]` tokens of each response.

    Returns:
        `[N]` bool, the rows behind one another.

    Raises:
        InputError: a step reaches beyond its response, or its place is null.
    """
    column = one_chunk(column)
    steps = column.flatten()
    fields = dict(zip((field.name for field in steps.type), steps.flatten(), strict=True))
    row_S = np.repeat(np.arange(len(column)), row_lengths(column))
    start_S, end_S = filled(fields["start"], -1).astype(np.int64), filled(fields["end"], -1).astype(np.int64)
    bad = np.flatnonzero((start_S < 0) | (end_S < start_S) | (end_S > lengths_B[row_S]))
    if len(bad):
        row = int(row_S[bad[0]])
        raise InputError(
            f"row number {row} of the step: 'step_labels' has the tokens {start_S[bad[0]]} to {end_S[bad[0]]} of a "
            f"response of {lengths_B[row]}; label it again with `entropyctl score --steps`"
        )
    correct_S = filled(fields["correct"], False)
    first_B = np.cumsum(lengths_B) - lengths_B
    change_N = np.zeros(int(lengths_B.sum()) + 1, np.int64)
    np.add.at(change_N, (first_B[row_S] + start_S)[correct_S], 1)
    np.add.at(change_N, (first_B[row_S] + end_S)[correct_S], -1)
    return np.cumsum(change_N)[:-1] > 0


def base_mask(rows: pa.Table) -> Array:
    """`[N]` the loss mask as it was before any mask."""
    return values_or(rows, "base_mask", True) if "base_mask" in rows.column_names else flat_values(rows["loss_mask"])


def weights(rows: pa.Table) -> Array:
    """`[N]` the weight that the masks before have given each token; 1 where there were none."""
    if "weights" in rows.column_names:
        return values_or(rows, "weights", np.float32(1))
    return np.broadcast_to(np.float32(1), int(lengths(rows).sum()))


def _old(name: str) -> Derived:
    """The statistic of the policy that the step started from: the row's own unless it was scored again."""
    old = f"old_{name}"

    def make(rows: pa.Table) -> Array:
        return values_or(rows, old if old in rows.column_names else name, flat_values(rows[name]))

    return Derived((name,), (old,), make)


DERIVED: dict[str, Derived] = {
    "group": Derived(("prompt_id",), (), group),
    "row_of_token": Derived(("loss_mask",), (), row_of_token),
    "lengths": Derived(("loss_mask",), (), lengths),
    "step": Derived((), (), step_number),
    "correct": Derived(("outcome",), (), correct),
    "cluster": Derived(("prompt_id", "outcome", "predicted"), (), cluster),
    "token_key": Derived(("prompt_id", "loss_mask"), (), token_key),
    "token_rewards": Derived(("reward", "loss_mask"), ("token_rewards",), token_rewards),
    "base_mask": Derived(("loss_mask",), ("base_mask",), base_mask),
    "weights": Derived(("loss_mask",), ("weights",), weights),
    "greedy": Derived((), ("greedy",), greedy),
    "step_correct": Derived(("step_labels", "loss_mask"), (), step_correct),
    "rewards": Derived((), (), rewards),
    "old_logprobs": _old("logprobs"),
    "old_entropies": _old("entropies"),
}
PER_TOKEN = {"row_of_token", "token_key", "base_mask", "token_rewards", "step_correct", "old_logprobs", "old_entropies"}
