"""Running an estimator on the rows of a step, and choosing its informative groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.advantages._groups import Array
from entropyctl.registry import columns_of
from entropyctl.table.columns import (
    filled,
    flat_values,
    list_column,
    row_column,
    row_lengths,
    row_of_token,
    row_values,
    with_column,
)
from entropyctl.table.schema import known_column


@dataclass
class AdvantageSummary:
    """Running totals over steps."""

    rows: int = 0
    groups: int = 0
    informative_groups: int = 0
    reward: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Rows, groups, informative groups and mean reward."""
        return {
            "rows": self.rows,
            "groups": self.groups,
            "informative_groups": self.informative_groups,
            "reward": self.reward / max(self.rows, 1),
        }


def group_numbers(rows: pa.Table) -> Array:
    """`[B]` a number for each problem of the step, in order of first appearance."""
    encoded = rows["prompt_id"].combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return row_values(encoded.indices)


def informative_groups(rows: pa.Table) -> Array:
    """`[B]` True where some responses of the row's group are correct and some are not (DAPO: 0 < #correct < G).

    Decided by exact equality in the `outcome` column, where wrong, unparsable, timeout and error all mean "not
    correct": a deviation of shaped float rewards calls groups informative that are not. Without that column,
    rewards are compared for equality.
    """
    group_B = group_numbers(rows)
    if "outcome" in rows.column_names:
        code_B = np.array([outcome == "correct" for outcome in rows["outcome"].to_pylist()], np.int64)
    else:
        codes = rows["reward"].combine_chunks().dictionary_encode()
        codes = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
        code_B = filled(codes.indices, -1)
    groups = int(group_B.max()) + 1 if len(group_B) else 0
    first_G = np.zeros(groups, code_B.dtype)
    first_G[group_B[::-1]] = code_B[::-1]
    mixed_G = np.zeros(groups, bool)
    np.logical_or.at(mixed_G, group_B, code_B != first_G[group_B])
    return mixed_G[group_B]


def keep_first_groups(rows: pa.Table, count: int) -> pa.Table:
    """The rows of the first `count` informative groups of the step, in order of appearance."""
    informative_B = informative_groups(rows)
    group_B = group_numbers(rows)
    chosen = np.unique(group_B[informative_B])[:count]
    return rows.take(row_column(np.flatnonzero(np.isin(group_B, chosen)), pa.int64()))


def apply_advantage(
    rows: pa.Table, function: Callable[..., Array], params: dict[str, Any], summary: AdvantageSummary | None = None
) -> pa.Table:
    """The rows of a step with `advantages`: zero where `loss_mask` is false.

    Args:
        rows: one step; must have the columns that the estimator reads, and `loss_mask`.
        function: the estimator.
        params: its keyword parameters.
        summary: totals to add this step to.
    """
    names = columns_of(function)
    values = function(*(_input(rows, name) for name in names), **params)
    lengths_B = row_lengths(rows["loss_mask"])
    if not any(_is_per_token(name) for name in names):
        values = np.repeat(values, lengths_B)
    values_N = np.where(flat_values(rows["loss_mask"]), values, 0.0)
    if summary is not None:
        _add(summary, rows)
    return with_column(rows, "advantages", list_column(values_N, lengths_B, pa.float32()))


def _is_per_token(name: str) -> bool:
    column = known_column(name)
    return name == "row_of_token" or (column is not None and column.per == "token")


def _input(rows: pa.Table, name: str) -> Array:
    if name == "group":
        return group_numbers(rows)
    if name == "row_of_token":
        return row_of_token(row_lengths(rows["loss_mask"]))
    return flat_values(rows[name]) if _is_per_token(name) else row_values(rows[name])


def _add(summary: AdvantageSummary, rows: pa.Table) -> None:
    group_B = group_numbers(rows)
    summary.rows += rows.num_rows
    summary.groups += len(np.unique(group_B))
    summary.informative_groups += len(np.unique(group_B[informative_groups(rows)]))
    summary.reward += float(row_values(rows["reward"]).sum(dtype=np.float64))
