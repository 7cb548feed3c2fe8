"""The answers to a problem as clusters with probabilities, added up response by response."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.dynamics.semantic_entropy import semantic_entropy
from entropyctl.table.columns import flat_values, null_rows, row_lengths, row_of_token

LOGPROBS, COUNTS = "logprobs", "counts"


@dataclass
class Clusters:
    """Running masses of the different answers to one problem."""

    counts: dict[Hashable, int] = field(default_factory=dict)
    logmass: dict[Hashable, float] = field(default_factory=dict)  # log of the sum of exp(mean log-probability)
    unknown: int = 0  # responses without log-probabilities

    def add(self, answer: Hashable | None, logprob: float | None) -> None:
        """Count a response.

        Args:
            answer: equal for two responses that give the same answer; None is like no other.
            logprob: mean log-probability of its tokens, nats; None where it is not known.
        """
        key = (len(self.counts),) if answer is None else answer
        self.counts[key] = self.counts.get(key, 0) + 1
        if logprob is None:
            self.unknown += 1
        else:
            self.logmass[key] = float(np.logaddexp(self.logmass.get(key, -math.inf), logprob))


class Uncertainty(NamedTuple):
    """Semantic entropies of problems, nats, and what the masses of their answers were made of."""

    entropies: Sequence[float | None]
    source: str | None


def uncertainty(problems: Sequence[Clusters], *, answers_were_read: bool) -> Uncertainty:
    """SE = - sum_k p_k log p_k of each problem, p_k the normalised mass of its k-th answer.

    A response's mass is exp of the mean log-probability of its counted tokens where every response of the evaluation
    has one (SENT, arXiv 2512.04359), and 1 otherwise: numbers of both kinds cannot be put in one order.

    Args:
        problems: the clusters of each.
        answers_were_read: whether the grader read an answer anywhere; otherwise nothing is known.
    """
    if not answers_were_read:
        return Uncertainty([None] * len(problems), None)
    with_logprobs = not any(p.unknown for p in problems)
    masses = [
        [p.logmass[key] if with_logprobs else math.log(count) for key, count in p.counts.items()] for p in problems
    ]
    sizes = np.array([len(one) for one in masses])
    found = semantic_entropy(
        np.repeat(np.arange(len(problems)), sizes), np.arange(sizes.sum()), np.array([m for one in masses for m in one])
    )
    return Uncertainty(found.entropy_G.tolist(), LOGPROBS if with_logprobs else COUNTS)


def mean_logprobs(rows: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """`[B]` the mean log-probability of each response's counted tokens (0 without any), and where it is known."""
    if "logprobs" not in rows.column_names:
        return np.zeros(rows.num_rows), np.zeros(rows.num_rows, bool)
    lengths_B = row_lengths(rows["logprobs"])
    row_N, logprobs_N = row_of_token(lengths_B), flat_values(rows["logprobs"]).astype(np.float64)
    mask_N = np.ones(len(row_N), bool)
    if "loss_mask" in rows.column_names and np.array_equal(row_lengths(rows["loss_mask"]), lengths_B):
        mask_N = flat_values(rows["loss_mask"]).astype(bool)
    sum_B = np.bincount(row_N[mask_N], logprobs_N[mask_N], rows.num_rows)
    counted_B = np.bincount(row_N[mask_N], minlength=rows.num_rows)
    return sum_B / np.maximum(counted_B, 1), ~null_rows(rows["logprobs"])
