"""The responses of a step as arrays: `B` rows, `N` tokens behind one another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.inputs import base_mask, samples
from entropyctl.masks._laid import laid_on
from entropyctl.table import Step
from entropyctl.table.columns import (
    list_column,
    null_rows,
    row_column,
    row_lengths,
    row_of_token,
    row_values,
    values_or,
    with_column,
)

Array = npt.NDArray[Any]

# Numbers for each token that a report reads where they are there.
PER_TOKEN = ("entropies", "logprobs", "s_star", "expected_s", "advantages", "rollout_logprobs")
MASKS = ("loss_mask", "base_mask", "weights", "kl_coefs")
TEXTS = ("prompt", "answer", "response", "predicted", "data_source", "outcome", "finish_reason")
# What a mask does to a token: nothing (or it scales it), no gradient is left, a KL penalty is added.
MARKS = ("kept", "masked", "penalised")
COLUMNS = (
    *("step", "prompt_id", "sample", "tokens", "policy_version", "reward", "greedy", "old_logprobs"),
    *(*PER_TOKEN, *MASKS, *TEXTS),
)


class View(NamedTuple):
    """A step, without greedy baseline rows, which are no draws of the policy."""

    number: int
    rows: pa.Table
    lengths: Array  # [B] tokens of each response
    row: Array  # [N] the row of each token
    own: Array  # [N] the policy chose the token itself, masked or not
    mark: Array | None  # [N] index into MARKS; None where no mask has been laid
    weight: Array | None  # [N] the factor that the masks left of each token's gradient; None as above
    values: dict[str, Array]  # [N] numbers for each token by column, NaN in rows where the column is null

    def has(self, *names: str) -> bool:
        """Whether there are numbers for each token under all these names."""
        return all(name in self.values for name in names)

    def texts(self, name: str) -> list[Any]:
        """A column's value for each row; None for each where there is no such column."""
        return self.rows[name].to_pylist() if name in self.rows.column_names else [None] * self.rows.num_rows

    def numbers(self, name: str) -> Array:
        """`[B]` float64 of a column, NaN where it is null or not there."""
        if name not in self.rows.column_names:
            return np.full(self.rows.num_rows, np.nan)
        return np.where(null_rows(self.rows[name]), np.nan, row_values(self.rows[name]).astype(np.float64))

    def means(self, values_N: Array) -> Array:
        """`[B]` mean of a number over each response's own tokens that have it; NaN where none has."""
        known_N = self.own & ~np.isnan(values_N)
        count_B = np.bincount(self.row[known_N], minlength=len(self.lengths))
        sum_B = np.bincount(self.row[known_N], values_N[known_N], len(self.lengths))
        return np.where(count_B > 0, sum_B / np.maximum(count_B, 1), np.nan)


def view(step: Step) -> View | None:
    """What a report looks at; None for a step without rows of the policy.

    Raises:
        InputError: the rows have no token lists at all.
    """
    rows = samples(step.rows)
    if not rows.num_rows:
        return None
    rows = _with_loss_mask(rows)
    lengths_B = row_lengths(rows["loss_mask"])
    own_N, mark_N, weight_N = base_mask(rows), None, None
    if {"weights", "kl_coefs", "base_mask"} & set(rows.column_names):
        laid = laid_on(rows)
        weight_N = np.where(laid.loss_mask, 1.0 if laid.weights is None else laid.weights, 0.0)
        penalised_N = False if laid.kl_coefs is None else laid.loss_mask & (laid.kl_coefs != 0)
        mark_N = np.where(weight_N == 0, 1, np.where(penalised_N, 2, 0))
    return View(
        number=step.number,
        rows=rows,
        lengths=lengths_B,
        row=row_of_token(lengths_B),
        own=own_N,
        mark=mark_N,
        weight=weight_N,
        values={name: values_or(rows, name, np.float32(np.nan)) for name in PER_TOKEN if name in rows.column_names},
    )


def complete(view: View, names: tuple[str, ...]) -> pa.Table | None:
    """The rows in which none of these columns is null; None where a column is missing, or no row is left."""
    if not set(names) <= set(view.rows.column_names):
        return None
    missing_B = np.zeros(view.rows.num_rows, bool)
    for name in names:
        missing_B |= null_rows(view.rows[name])
    if missing_B.all():
        return None
    return view.rows.filter(row_column(~missing_B, pa.bool_())) if missing_B.any() else view.rows


def _with_loss_mask(rows: pa.Table) -> pa.Table:
    """The rows of a program that does not say which tokens the policy chose: all of them."""
    if "loss_mask" in rows.column_names and not rows["loss_mask"].null_count:
        return rows
    known = [name for name in ("tokens", *PER_TOKEN) if name in rows.column_names]
    if not known:
        raise InputError("the responses have no tokens and no numbers for each token; name rollouts or scored tables")
    lengths_B = np.max([row_lengths(rows[name]) for name in known], axis=0)
    everything = list_column(np.ones(int(lengths_B.sum()), bool), lengths_B, pa.bool_())
    return with_column(rows, "loss_mask", everything)
