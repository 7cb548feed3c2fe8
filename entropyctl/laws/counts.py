"""Scored responses counted by policy version and problem, a step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.laws._answers import Answers, mean_logprobs, word_codes
from entropyctl.table.columns import filled, flat_values, one_chunk, row_lengths, row_of_token
from entropyctl.table.conform import row_name

Array = npt.NDArray[Any]

OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "error")
FAILURES = OUTCOMES[2:]


class Counts:
    """Running counts. Memory is that of the problems and their different answers, however many steps there are.

    Attributes:
        problems: version of the policy and name of each problem, in order of first appearance: number -> key.
        outcomes: `[P, 5]` responses of each problem by outcome, in the order of `OUTCOMES`.
        finish_reasons: `[P]` by reason.
        sources: the data source of each problem; None where none is known.
        answers: what was answered.
    """

    def __init__(self, path: str) -> None:
        """Begin with nothing; `path` is the input's name, for messages."""
        self._path = path
        self.problems: dict[tuple[int, str], int] = {}
        self.outcomes: Array = np.zeros((0, len(OUTCOMES)), np.int64)
        self.finish_reasons: dict[str, Array] = {}
        self.sources: list[str | None] = []
        self.answers = Answers()
        self._sums = {name: np.zeros(0) for name in ("nats", "measured", "tokens")}

    def add(self, rows: pa.Table) -> None:
        """Count a step.

        Raises:
            InputError: an outcome is none of `OUTCOMES`.
        """
        problem_B = self._problem(rows)
        outcome_B = self._outcome(rows)
        count = len(self.problems)
        cells = np.bincount(problem_B * len(OUTCOMES) + outcome_B, minlength=count * len(OUTCOMES))
        self.outcomes = _plus(self.outcomes, cells.reshape(count, len(OUTCOMES)))
        self._note_sources(rows, problem_B)
        for reason, chosen_B in _words(rows, "finish_reason"):
            before = self.finish_reasons.get(reason, np.zeros(0, np.int64))
            self.finish_reasons[reason] = _plus(before, np.bincount(problem_B[chosen_B], minlength=count))
        for name, number_B in zip(self._sums, _entropies(rows), strict=True):
            self._sums[name] = _plus(self._sums[name], np.bincount(problem_B, number_B, count))
        self.answers.add(rows, problem_B, outcome_B == 0, *mean_logprobs(rows))

    @property
    def tokens(self) -> Array:
        """`[P]` tokens of each problem's responses."""
        return self._sums["tokens"].astype(np.int64)

    def entropy(self) -> list[float | None]:
        """The token-mean entropy of each problem's responses, nats; None where they carry none."""
        sums = zip(self._sums["nats"].tolist(), self._sums["measured"].tolist(), strict=True)
        return [nats / measured if measured else None for nats, measured in sums]

    def _problem(self, rows: pa.Table) -> Array:
        """`[B]` the number of each row's problem."""
        name_B, names = word_codes(rows["prompt_id"])
        known = "policy_version" in rows.column_names
        version_B = filled(one_chunk(rows["policy_version"])) if known else np.zeros(rows.num_rows, np.int64)
        versions, of_version_B = np.unique(version_B, return_inverse=True)
        key_B = of_version_B * len(names) + name_B
        first_K = np.full(len(versions) * len(names), rows.num_rows)
        first_K[key_B[::-1]] = np.arange(rows.num_rows)[::-1]  # of equal places the last one is kept: the first row
        number_K = np.zeros(len(first_K), np.int64)
        for key in np.argsort(first_K, kind="stable")[: np.count_nonzero(first_K < rows.num_rows)].tolist():
            one = (int(versions[key // len(names)]), names[key % len(names)])
            number_K[key] = self.problems.setdefault(one, len(self.problems))
        self.sources += [None] * (len(self.problems) - len(self.sources))
        return number_K[key_B]

    def _outcome(self, rows: pa.Table) -> Array:
        """`[B]` the place of each row's outcome in `OUTCOMES`."""
        code_B, words = word_codes(rows["outcome"])
        place = np.array([OUTCOMES.index(word) if word in OUTCOMES else -1 for word in [*words, None]])
        outcome_B = place[code_B]
        if (outcome_B < 0).any():
            row = int((outcome_B < 0).argmax())
            raise InputError(
                f"{self._path}: row {row_name(rows, row)}: its outcome is {rows['outcome'][row].as_py()}; "
                f"it must be one of {', '.join(OUTCOMES)}, as `entropyctl score --reward` writes"
            )
        return outcome_B

    def _note_sources(self, rows: pa.Table, problem_B: Array) -> None:
        for word, chosen_B in _words(rows, "data_source"):
            for problem in np.unique(problem_B[chosen_B]).tolist():
                self.sources[problem] = self.sources[problem] or word


def _words(rows: pa.Table, name: str) -> Iterator[tuple[str, Array]]:
    """The different words of a column, in order of first appearance, and the rows that have each."""
    if name in rows.column_names:
        code_B, words = word_codes(rows[name])
        for code, word in enumerate(words):
            yield word, code_B == code


def _plus(total: Array, addition: Array) -> Array:
    """The sum of counts of problems, of which the later one knows more."""
    grown = addition.astype(total.dtype)
    grown[: len(total)] += total
    return grown


def _entropies(rows: pa.Table) -> tuple[Array, Array, Array]:
    """`[B]` each: the sum of the row's entropies, how many there are, and how many tokens it has."""
    tokens_B = measured_B = np.zeros(rows.num_rows, np.int64)
    nats_B = np.zeros(rows.num_rows)
    if "entropies" in rows.column_names:
        tokens_B = measured_B = row_lengths(rows["entropies"])
        nats_B = np.bincount(row_of_token(measured_B), flat_values(rows["entropies"]), rows.num_rows)
    if "tokens" in rows.column_names:
        tokens_B = row_lengths(rows["tokens"])
    return nats_B, measured_B, tokens_B
