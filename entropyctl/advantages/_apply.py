"""Running an estimator on the rows of a step, and choosing its informative groups."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import Estimate, PerRow, PerToken, RowReward, TokenReward
from entropyctl.errors import EntropyctlError, InputError
from entropyctl.inputs import greedy, group, inputs, is_per_token, spread_last, token_rewards
from entropyctl.registry import inputs_of
from entropyctl.table.columns import (
    flat_values,
    list_column,
    row_column,
    row_lengths,
    row_of_token,
    row_values,
    with_column,
)


@dataclass
class AdvantageSummary:
    """Running totals over steps."""

    rows: int = 0
    groups: int = 0
    informative_groups: int = 0
    reward: float = 0.0  # summed over the samples
    samples: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Rows, groups, informative groups, and mean reward of the samples: greedy baseline rows are none."""
        return {
            "rows": self.rows,
            "groups": self.groups,
            "informative_groups": self.informative_groups,
            "reward": self.reward / max(self.samples, 1),
        }


def informative_groups(rows: pa.Table) -> Array:
    """`[B]` True where some responses of the row's group are correct and some are not (DAPO: 0 < #correct < G).

    Decided by exact equality in the `outcome` column, where wrong, unparsable, timeout and error all mean "not
    correct": a deviation of shaped float rewards calls groups informative that are not. Without that column,
    rewards are compared for equality. A greedy baseline row is no sample: it has no say, and follows its group.
    """
    group_B, sampled_B = group(rows), ~greedy(rows)
    if "outcome" in rows.column_names:
        code_B = np.array([outcome == "correct" for outcome in rows["outcome"].to_pylist()], np.int64)
    else:
        code_B = row_values(rows["reward"])
    groups = int(group_B.max()) + 1 if len(group_B) else 0
    first_G = np.zeros(groups, code_B.dtype)
    first_G[group_B[sampled_B][::-1]] = code_B[sampled_B][::-1]
    mixed_G = np.zeros(groups, bool)
    np.logical_or.at(mixed_G, group_B, sampled_B & (code_B != first_G[group_B]))
    return mixed_G[group_B]


def keep_first_groups(rows: pa.Table, count: int) -> pa.Table:
    """The rows of the first `count` informative groups of the step, in order of appearance."""
    informative_B = informative_groups(rows)
    group_B = group(rows)
    chosen = np.unique(group_B[informative_B])[:count]
    return rows.take(row_column(np.flatnonzero(np.isin(group_B, chosen)), pa.int64()))


# The columns that a function makes, by what it says that it returns.
MAKES = {
    PerRow: ("advantages",),
    PerToken: ("advantages",),
    RowReward: ("reward", "token_rewards"),
    TokenReward: ("reward", "token_rewards"),
    Estimate: ("advantages", "returns"),
}


class Applied(NamedTuple):
    """The rows of a step with what a function made, and what it remembers."""

    rows: pa.Table
    state: dict[str, float] | None


def kind_of(function: Callable[..., Any]) -> Any:
    """What a function returns: a key of `MAKES`. One without such an annotation returns advantages, per token if it
    reads a number per token.
    """
    hint = typing.get_type_hints(function, include_extras=True).get("return")
    known = next((kind for kind in MAKES if kind == hint), None)
    if known is not None:
        return known
    return PerToken if any(is_per_token(name) for name in inputs_of(function)) else PerRow


def shapes_reward(function: Callable[..., Any]) -> bool:
    """Whether a function changes the reward, after which advantages that were there before are out of date."""
    return kind_of(function) in (RowReward, TokenReward)


def makes(function: Callable[..., Any]) -> tuple[str, ...]:
    """The columns that a function makes; `token_rewards` and `returns` only where there is something to say."""
    return MAKES[kind_of(function)]


def apply_advantage(
    rows: pa.Table,
    function: Callable[..., Any],
    params: Mapping[str, Any],
    summary: AdvantageSummary | None = None,
    given: Mapping[str, Any] | None = None,
) -> Applied:
    """The rows of a step with advantages (zero where `loss_mask` is false), or with the reward shaped.

    Args:
        rows: one step; must have the columns that the function reads, and `loss_mask`.
        function: an estimator or a shaping.
        params: its keyword parameters.
        summary: totals to add this step to.
        given: its `state`, where it reads one.

    Raises:
        InputError: the step has greedy baseline rows, which the estimator would take for samples.
        EntropyctlError: the function returned what is no number per row or token.
    """
    kind = kind_of(function)
    _refuse_greedy(rows, function, kind)
    found = function(*inputs(rows, inputs_of(function), given), **params)
    state = found.state if isinstance(found, Estimate) else None
    if shapes_reward(function):
        rows = _with_reward(rows, found, kind, function.__name__)
    else:
        rows = _with_advantages(rows, found, kind, function.__name__)
    if summary is not None:
        _add(summary, rows)
    return Applied(rows, state)


def _refuse_greedy(rows: pa.Table, function: Callable[..., Any], kind: Any) -> None:
    estimates = kind not in (RowReward, TokenReward) and "advantages" not in inputs_of(function)
    if estimates and "greedy" not in inputs_of(function) and greedy(rows).any():
        raise InputError(
            "the table has greedy baseline rows, which are no samples of a group; "
            "use an estimator that knows them (remax), or roll out without --greedy-baseline"
        )


def _with_advantages(rows: pa.Table, found: Any, kind: Any, name: str) -> pa.Table:
    lengths_B = row_lengths(rows["loss_mask"])
    values = found.advantages if kind is Estimate else found
    values_N = np.repeat(_checked(values, rows.num_rows, name), lengths_B) if kind == PerRow else values
    values_N = np.where(flat_values(rows["loss_mask"]), _checked(values_N, int(lengths_B.sum()), name), 0.0)
    rows = with_column(rows, "advantages", list_column(values_N, lengths_B, pa.float32()))
    if kind is Estimate and found.returns is not None:
        returns_N = _checked(found.returns, int(lengths_B.sum()), name)
        rows = with_column(rows, "returns", list_column(returns_N, lengths_B, pa.float32()))
    return rows


def _with_reward(rows: pa.Table, added: Array, kind: Any, name: str) -> pa.Table:
    """A reward of tokens is the sum of what lies on each; where nothing lies but on the last, no column says so."""
    lengths_B = row_lengths(rows["loss_mask"])
    row_N = row_of_token(lengths_B)
    reward_B = row_values(rows["reward"]).astype(np.float64)
    added = _checked(added, rows.num_rows if kind == RowReward else len(row_N), name)
    if kind == TokenReward or "token_rewards" in rows.column_names:
        mask_N = flat_values(rows["loss_mask"]).astype(bool)
        added_N = spread_last(added, mask_N, row_N) if kind == RowReward else np.where(mask_N, added, 0.0)
        column = list_column(token_rewards(rows) + added_N, lengths_B, pa.float32())
        rows = with_column(rows, "token_rewards", column)
    if kind == TokenReward:
        added = np.bincount(row_N, added_N, minlength=rows.num_rows)
    return with_column(rows, "reward", row_column(reward_B + added, pa.float32()))


def _checked(values: Array, count: int, name: str) -> Array:
    if np.shape(values) != (count,):
        raise EntropyctlError(f"advantage {name}: returned shape {np.shape(values)} for {count}; mend the method")
    if not np.isfinite(values).all():
        raise EntropyctlError(
            f"advantage {name}: computed a number that is not finite; this is a bug, please report it"
        )
    return np.asarray(values)


def _add(summary: AdvantageSummary, rows: pa.Table) -> None:
    group_B = group(rows)
    summary.rows += rows.num_rows
    summary.groups += len(np.unique(group_B))
    summary.informative_groups += len(np.unique(group_B[informative_groups(rows)]))
    sampled_B = ~greedy(rows)
    summary.samples += int(sampled_B.sum())
    summary.reward += float(row_values(rows["reward"])[sampled_B].sum(dtype=np.float64))
