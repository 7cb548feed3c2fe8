"""The rows of a step as the arrays that training needs, and their cut into mini-batches.

`B` responses, `N` response tokens behind one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.inputs import inputs, is_per_token, needs, optional
from entropyctl.masks._laid import laid_on
from entropyctl.table.columns import row_lengths
from entropyctl.table.columns import row_of_token as rows_of_tokens

Array = npt.NDArray[Any]

# What every update reads; an objective adds what it reads itself.
SEQUENCES = ("prompt_id", "prompt_tokens", "tokens", "loss_mask")
STATISTICS = ("logprobs", "entropies", "s_star", "expected_s")
OPTIONAL = ("weights", "kl_coefs", "reward")

# What an objective or a mask that runs live is given anew in every forward pass, and not out of the table.
CURRENT = (*STATISTICS, "sum_p2", "loss_mask", "row_of_token", "weights")


@dataclass(frozen=True)
class Batch:
    """Responses to train on."""

    sequences: list[tuple[list[int], list[int]]]  # B (prompt, response) token ids
    lengths: Array  # [B] int64
    loss_mask: Array  # [N] bool
    weights: Array  # [N] float32
    kl_coefs: Array  # [N] float32
    inputs: Mapping[str, Any]  # by name, as entropyctl.inputs has them: [N], [B] or one for the step
    places: tuple[Array, ...] | None = None  # B, where in the responses the N tokens stand; None: all of them

    @property
    def starts(self) -> Array:
        """`[B + 1]` where each response's tokens begin."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @property
    def row_of_token(self) -> Array:
        """`[N]` the response of each token."""
        return rows_of_tokens(self.lengths)

    @property
    def advantages(self) -> Array | None:
        """`[N]` float32, where the objective reads them."""
        return self.inputs.get("advantages")

    @property
    def old_logprobs(self) -> Array | None:
        """`[N]` float32 log p under the policy that the step started from, nats; where anything reads them."""
        return self.inputs.get("old_logprobs")

    @property
    def chosen(self) -> Array:
        """`[N]` bool, the tokens that the policy itself chose: the loss mask as it was before any mask."""
        return np.asarray(self.inputs.get("base_mask", np.ones(len(self.loss_mask), bool)))

    def take(self, rows: Array) -> Batch:
        """Some of the responses, in the order given."""
        starts = self.starts
        at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows] or [np.zeros(0, np.int64)])
        taken: dict[str, Any] = {}
        for name, values in self.inputs.items():
            whole = isinstance(values, dict) or np.ndim(values) == 0  # one for the step
            taken[name] = values if whole else values[at if is_per_token(name) else rows]
        return Batch(
            [self.sequences[i] for i in rows],
            self.lengths[rows],
            self.loss_mask[at],
            self.weights[at],
            self.kl_coefs[at],
            taken,
            None if self.places is None else tuple(self.places[i] for i in rows),
        )

    def only(self, keep_N: Array, uncut_beyond: int | None = None) -> Batch:
        """The same responses with some of their tokens, cut behind the last of them.

        What stands before a token is what it is predicted from; what stands behind it is nobody's business.

        Args:
            keep_N: bool, the tokens that stay; at least one of each response.
            uncut_beyond: of a text with more tokens the model computes all of them otherwise, so it stays whole.
        """
        starts = self.starts
        places = tuple(np.flatnonzero(keep_N[a:b]) for a, b in itertools.pairwise(starts))

        def cut(prompt: list[int], response: list[int], place: Array) -> tuple[list[int], list[int]]:
            whole = uncut_beyond is not None and len(prompt) + len(response) - 1 > uncut_beyond
            return prompt, response if whole else response[: place[-1] + 1]

        return Batch(
            [cut(*texts, place) for texts, place in zip(self.sequences, places, strict=True)],
            np.array([len(place) for place in places], np.int64),
            self.loss_mask[keep_N],
            self.weights[keep_N],
            self.kl_coefs[keep_N],
            {k: v[keep_N] if is_per_token(k) and np.ndim(v) else v for k, v in self.inputs.items()},
            places,
        )

    def masked(self, loss_mask: Array, weights: Array | None, kl_coefs: Array | None) -> Batch:
        """The same responses under another mask; None is weights of 1, coefficients of 0."""
        ones = np.ones(len(loss_mask), np.float32)
        return replace(
            self,
            loss_mask=loss_mask,
            weights=ones if weights is None else weights,
            kl_coefs=0 * ones if kl_coefs is None else kl_coefs,
        )

    def learning(self, *, by_advantage: bool) -> Array:
        """`[N]` bool, the tokens that have a gradient.

        Args:
            by_advantage: nothing but the policy loss and the penalties of the mask pulls, so that a token with
                neither an advantage nor a coefficient has no gradient.
        """
        if not by_advantage or self.advantages is None:
            return self.loss_mask
        return self.loss_mask & ((self.weights * self.advantages != 0) | (self.kl_coefs != 0))

    def rows_with(self, some_N: Array) -> Array:
        """The responses that have one of these tokens; the others need no forward pass."""
        return np.flatnonzero(np.bincount(self.row_of_token, some_N, minlength=len(self.lengths)))


def columns_for(reads: tuple[str, ...], always: tuple[str, ...] = SEQUENCES) -> tuple[list[str], list[str]]:
    """Columns that must be there, and those that are used where they are, for what the parts of an update read.

    Args:
        reads: inputs of the objective and of masks that run live.
        always: columns that are needed whatever those read.
    """
    statistics = STATISTICS if "advantages" in reads and always == SEQUENCES else ()
    needed = [*always, *statistics, *needs(_from_table(reads))]
    return list(dict.fromkeys(needed)), [*OPTIONAL, *optional(_from_table(reads))]


def _from_table(reads: tuple[str, ...]) -> list[str]:
    return [name for name in reads if name not in CURRENT]


def read_batch(rows: pa.Table, reads: tuple[str, ...], *, forward: bool = True) -> Batch:
    """The rows of a step. A weight that was not computed is 1, a coefficient 0.

    Args:
        rows: one step.
        reads: the inputs of everything that will work on the batch.
        forward: whether the sequences are wanted, for a forward pass; else the batch has none.
    """
    lengths_B = row_lengths(rows["loss_mask"])
    ones_N = np.ones(lengths_B.sum(), np.float32)
    laid = laid_on(rows)
    names = _from_table(reads)
    tokens = (rows[name].to_pylist() if forward else [] for name in ("prompt_tokens", "tokens"))
    return Batch(
        sequences=list(zip(*tokens, strict=True)),
        lengths=lengths_B,
        loss_mask=laid.loss_mask,
        weights=ones_N if laid.weights is None else laid.weights,
        kl_coefs=0 * ones_N if laid.kl_coefs is None else laid.kl_coefs,
        inputs=dict(zip(names, inputs(rows, names), strict=True)),
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
