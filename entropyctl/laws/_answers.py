"""The answers to problems, counted and weighed as they come in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.dynamics.semantic_entropy import log_sums, semantic_entropy
from entropyctl.table.columns import (
    column_from,
    filled,
    flat_values,
    null_rows,
    one_chunk,
    row_column,
    row_lengths,
    row_of_token,
)

Array = npt.NDArray[Any]

LOGPROBS, COUNTS = "logprobs", "counts"
NO_ANSWER = -1


class Entries(NamedTuple):
    """Answers to problems: one entry for each problem, answer, and whether the grader called it correct.

    A response without an answer that is not correct is an entry of its own: it is like no other.
    """

    problem: Array  # [E] number of the problem
    answer: Array  # [E] number of the answer, below 0 for a response without one
    right: Array  # [E] bool
    responses: Array  # [E] how many
    logmass: Array  # [E] log of the sum over the responses of exp(mean log-probability), nats


class Answers:
    """Running counts of the answers; an answer is the string that the grader read."""

    def __init__(self) -> None:
        """Begin with none."""
        self._numbers: dict[str, int] = {}
        self._parts: list[Entries] = []
        self._alone = 0
        self._unknown = 0

    def add(self, rows: pa.Table, problem_B: Array, right_B: Array, logprob_B: Array, known_B: Array) -> None:
        """Count the answers of a step.

        Args:
            rows: with `predicted` where answers are read.
            problem_B: `[B]` number of the problem.
            right_B: `[B]` whether the grader called the response correct.
            logprob_B: `[B]` mean log-probability of its tokens, nats.
            known_B: `[B]` whether that is known.
        """
        answer_B = np.full(rows.num_rows, NO_ANSWER)
        if "predicted" in rows.column_names:
            code_B, words = word_codes(rows["predicted"])
            numbers = [self._numbers.setdefault(word, len(self._numbers)) for word in words]
            answer_B = np.array([*numbers, NO_ANSWER])[code_B]
        alone = np.flatnonzero((answer_B < 0) & ~right_B)
        answer_B[alone] = NO_ANSWER - 1 - self._alone - np.arange(len(alone))
        self._alone += len(alone)
        self._unknown += int(np.count_nonzero(~known_B))
        ones_B = np.ones(rows.num_rows, np.int64)
        self._parts.append(_added_up(Entries(problem_B, answer_B, right_B, ones_B, logprob_B)))

    def entries(self) -> Entries:
        """All that was counted, each problem, answer and verdict once, in order of first appearance."""
        if len(self._parts) > 1:
            self._parts = [_added_up(Entries(*(np.concatenate(part) for part in zip(*self._parts, strict=True))))]
        return self._parts[0]

    def predictions(self, kind: pa.ListType, problems: int) -> pa.Array:
        """The distinct answers to each problem, most frequent first; those that tie in order of first appearance.

        Args:
            kind: list<struct<predicted, count, correct>>.
            problems: how many problems there are.

        Returns:
            `[P]` lists; an answer is correct when any of its responses was called so.
        """
        found, words = self.by_answer(), column_from(list(self._numbers), pa.string())
        order = np.lexsort((-found.responses, found.problem))
        columns = {
            "predicted": words.take(row_column(found.answer[order], pa.int64())),
            "count": row_column(found.responses[order], pa.int32()),
            "correct": row_column(found.right[order], pa.bool_()),
        }
        fields = kind.value_type
        items = pa.Array.from_buffers(
            fields, len(order), [None], children=[columns[field.name].cast(field.type) for field in fields]
        )
        offsets = np.zeros(problems + 1, np.int32)
        np.cumsum(np.bincount(found.problem, minlength=problems), out=offsets[1:])
        return pa.Array.from_buffers(kind, problems, [None, pa.py_buffer(offsets)], children=[items])

    def by_answer(self) -> Entries:
        """Entries of answers alone, right and wrong ones of the same text as one."""
        all_ = self.entries()
        some = Entries(*(values[all_.answer >= 0] for values in all_))
        group_E, first, count = _groups(some.problem, some.answer)
        right = np.bincount(group_E, some.right, count) > 0
        counts = np.bincount(group_E, some.responses, count).astype(np.int64)
        return Entries(some.problem[first], some.answer[first], right, counts, log_sums(some.logmass, group_E, count))

    def uncertainty(self, problems: int) -> tuple[list[float | None], str | None]:
        """SE = - sum_k p_k log p_k of each problem, nats, p_k the normalised mass of its k-th answer; and its source.

        For the semantic entropy all correct answers are one, since the grader verified that each equals the reference.
        A response's mass is exp of the mean log-probability of its counted tokens where every response of the
        evaluation has one (SENT, arXiv 2512.04359), and 1 otherwise: numbers of both kinds cannot be put in one
        order. None for all where no answer was read anywhere: nothing is known then.
        """
        if not self._numbers:
            return [None] * problems, None
        found = self.entries()
        logmass_E = np.log(found.responses) if self._unknown else found.logmass
        one_E = np.where(found.right, NO_ANSWER, found.answer)
        entropies = semantic_entropy(found.problem, one_E, logmass_E).entropy_G
        return entropies.tolist(), COUNTS if self._unknown else LOGPROBS


def _added_up(found: Entries) -> Entries:
    """Entries that agree in problem, answer and verdict as one."""
    group_E, first, count = _groups(found.problem, found.answer * 2 + found.right)
    counts = np.bincount(group_E, found.responses, count).astype(np.int64)
    logmass = log_sums(found.logmass, group_E, count)
    return Entries(found.problem[first], found.answer[first], found.right[first], counts, logmass)


def _groups(a: Array, b: Array) -> tuple[Array, Array, int]:
    """For each pair of numbers the number of its group of equal pairs, the first of each group, and how many."""
    low = int(b.min(initial=0))
    key = a * (int(b.max(initial=0)) - low + 1) + (b - low)
    group = filled(row_column(key, pa.int64()).dictionary_encode().indices).astype(np.int64)  # by a hash: no sorting
    count = int(group.max(initial=-1)) + 1
    first = np.zeros(count, np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]  # of equal places the last one is kept
    return group, first, count


def word_codes(column: pa.ChunkedArray) -> tuple[Array, list[str]]:
    """`[B]` the number of each row's word, -1 for null, and the different words in order of first appearance."""
    encoded = one_chunk(column).dictionary_encode()
    return filled(encoded.indices, -1).astype(np.int64), encoded.dictionary.to_pylist()


def mean_logprobs(rows: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """`[B]` the mean log-probability of each response's counted tokens (0 without any), and where it is known.

    It is not known where a token has a probability of 0, which no mean survives.
    """
    if "logprobs" not in rows.column_names:
        return np.zeros(rows.num_rows), np.zeros(rows.num_rows, bool)
    lengths_B = row_lengths(rows["logprobs"])
    row_N, logprobs_N = row_of_token(lengths_B), flat_values(rows["logprobs"]).astype(np.float64)
    mask_N = np.ones(len(row_N), bool)
    if "loss_mask" in rows.column_names and np.array_equal(row_lengths(rows["loss_mask"]), lengths_B):
        mask_N = flat_values(rows["loss_mask"]).astype(bool)
    sum_B = np.bincount(row_N[mask_N], logprobs_N[mask_N], rows.num_rows)
    counted_B = np.bincount(row_N[mask_N], minlength=rows.num_rows)
    mean_B = sum_B / np.maximum(counted_B, 1)
    known_B = ~null_rows(rows["logprobs"]) & np.isfinite(mean_B)
    return np.where(known_B, mean_B, 0.0), known_B
