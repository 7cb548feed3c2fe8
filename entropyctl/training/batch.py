"""The rows of a step as the arrays that training needs, and their cut into mini-batches.

`B` responses, `N` response tokens behind one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.table.columns import flat_values, row_lengths

Array = npt.NDArray[Any]

NEEDS = (
    "prompt_id",
    "prompt_tokens",
    "tokens",
    "loss_mask",
    "logprobs",
    "entropies",
    "s_star",
    "expected_s",
    "advantages",
)
OPTIONAL = ("weights", "kl_coefs", "reward")


@dataclass(frozen=True)
class Batch:
    """Responses to train on."""

    sequences: list[tuple[list[int], list[int]]]  # B (prompt, response) token ids
    lengths: Array  # [B] int64
    loss_mask: Array  # [N] bool
    old_logprobs: Array  # [N] float32, nats
    advantages: Array  # [N] float32
    weights: Array  # [N] float32
    kl_coefs: Array  # [N] float32

    @property
    def starts(self) -> Array:
        """`[B + 1]` where each response's tokens begin."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def take(self, rows: Array) -> Batch:
        """Some of the responses, in the order given."""
        starts = self.starts
        at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows] or [np.zeros(0, np.int64)])
        flat = (x[at] for x in (self.loss_mask, self.old_logprobs, self.advantages, self.weights, self.kl_coefs))
        return Batch([self.sequences[i] for i in rows], self.lengths[rows], *flat)

    def learning_rows(self) -> Array:
        """Responses that have a token with a gradient; the others need no forward pass."""
        active_N = self.loss_mask & ((self.weights * self.advantages != 0) | (self.kl_coefs != 0))
        row_N = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.flatnonzero(np.bincount(row_N, active_N, minlength=len(self.lengths)))


def read_batch(rows: pa.Table) -> Batch:
    """The rows of a step. Without weights every weight is 1, without kl_coefs every coefficient 0."""
    count = int(row_lengths(rows["tokens"]).sum())

    def column(name: str, missing: float) -> Array:
        return flat_values(rows[name]) if name in rows.column_names else np.full(count, missing, np.float32)

    return Batch(
        sequences=list(zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True)),
        lengths=row_lengths(rows["tokens"]),
        loss_mask=flat_values(rows["loss_mask"]).astype(bool),
        old_logprobs=flat_values(rows["logprobs"]),
        advantages=flat_values(rows["advantages"]),
        weights=column("weights", 1.0),
        kl_coefs=column("kl_coefs", 0.0),
    )


def mini_batches(prompt_ids: list[str], count: int) -> list[Array]:
    """Rows of each of `count` mini-batches, in the table's order; the samples of a prompt stay together.

    Args:
        prompt_ids: `[B]` problem of each row.
        count: how many; fewer come back when there are fewer problems.
    """
    groups = list(dict.fromkeys(prompt_ids))
    parts = np.array_split(np.arange(len(groups)), min(count, max(len(groups), 1)))
    number = {name: i for i, name in enumerate(groups)}
    group_B = np.array([number[name] for name in prompt_ids], np.int64)
    return [np.flatnonzero(np.isin(group_B, part)) for part in parts if len(part)]
