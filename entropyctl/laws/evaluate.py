"""Scored responses, counted by problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.inputs import samples
from entropyctl.laws._answers import Answers
from entropyctl.laws.counts import FAILURES, OUTCOMES, Counts
from entropyctl.table import notice
from entropyctl.table.columns import column_from, row_column
from entropyctl.table.schema import load_schema

# What an evaluation reads, where it is there; only the first two must be.
OPTIONAL = (
    *("policy_version", "data_source", "predicted", "finish_reason", "tokens", "entropies", "greedy"),
    *("logprobs", "loss_mask"),
)
COLUMNS = ("prompt_id", "outcome", *OPTIONAL)
NEEDS = COLUMNS[:2]


def evaluate(steps: Iterable[pa.Table], path: str = "the input", announce: Callable[[str], None] = notice) -> pa.Table:
    """Count scored responses by policy version and problem.

    Answers are equal when the grader read the same string out of them. For the semantic entropy all correct answers
    are one, since the grader verified that each equals the reference, and a response without an answer is one of its
    own. Memory is that of the counts, whatever the number of steps. Greedy baseline rows are no draws of the policy
    and are left out.

    Args:
        steps: tables of scored responses, with the columns `COLUMNS` where they are there; a response without
            `policy_version` is of version 0.
        path: the input's name, for messages.
        announce: told how many greedy rows were left out, and where several steps are taken for one policy.

    Returns:
        An `evals` table, problems in order of first appearance.

    Raises:
        InputError: there are no rows, or an outcome is none of `OUTCOMES`.
    """
    counts = Counts(path)
    left_out = unknown = 0
    for rows in steps:
        drawn = samples(rows)
        left_out += rows.num_rows - drawn.num_rows
        if drawn.num_rows:
            counts.add(drawn)
            unknown += "policy_version" not in drawn.column_names or drawn["policy_version"].null_count > 0
    if left_out:
        announce(f"{path}: left out {left_out} greedy baseline responses")
    if unknown > 1:
        announce(
            f"{path}: {unknown} steps do not say which version of a policy they are of, and are counted as one policy; "
            "evaluate the files of a step alone"
        )
    if not counts.problems:
        raise InputError(f"{path}: holds no rows; there is nothing to evaluate")
    return evals_of(counts)


def as_last_evaluated(evals: pa.Table) -> pa.Table:
    """Of each problem and version of the policy the last row: one that was evaluated again counts once.

    Args:
        evals: an `evals` table, evaluations in the order in which they were made, as in a history.
    """
    keys = zip(evals["policy_version"].to_pylist(), evals["prompt_id"].to_pylist(), strict=True)
    last = sorted({key: row for row, key in enumerate(keys)}.values())
    return evals if len(last) == evals.num_rows else evals.take(row_column(np.array(last), pa.int64()))


def evals_of(counts: Counts) -> pa.Table:
    """The counts as an `evals` table."""
    count = len(counts.problems)
    reasons = {reason: _as_long_as(count, n_P) for reason, n_P in counts.finish_reasons.items()}
    known_P = sum(reasons.values(), np.zeros(count, np.int64)) > 0
    truncated_P = reasons.get("length", np.zeros(count, np.int64))
    entropies, source = counts.answers.uncertainty(count)
    columns = {column.name: column.arrow_type for column in load_schema("evals").columns}
    found: dict[str, Any] = {
        "policy_version": [version for version, _ in counts.problems],
        "prompt_id": [prompt_id for _, prompt_id in counts.problems],
        "data_source": counts.sources,
        "n": counts.outcomes.sum(axis=1).tolist(),
        "c": counts.outcomes[:, 0].tolist(),
        "majority_correct": _majorities(counts.answers, count),
        "finish_reasons": _reasons(reasons, count),
        "truncated": [n if known else None for n, known in zip(truncated_P.tolist(), known_P.tolist(), strict=True)],
        **{name: counts.outcomes[:, OUTCOMES.index(name)].tolist() for name in FAILURES},
        "entropy": counts.entropy(),
        "semantic_entropy": entropies,
        "semantic_entropy_of": [source] * count,
        "tokens": counts.tokens.tolist(),
    }
    arrays = {name: column_from(found[name], kind) for name, kind in columns.items() if name in found}
    arrays["predictions"] = counts.answers.predictions(columns["predictions"], count)
    return pa.table({name: arrays[name] for name in columns})


def _as_long_as(count: int, n_P: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.pad(n_P, (0, count - len(n_P)))


def _reasons(reasons: dict[str, npt.NDArray[Any]], count: int) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for reason, n_P in reasons.items():
        for problem in np.flatnonzero(n_P).tolist():
            found[problem].append({"reason": reason, "count": int(n_P[problem])})
    return found


def _majorities(answers: Answers, count: int) -> list[float | None]:
    """`majority_correct` of each problem."""
    found = answers.by_answer()
    most_P = np.zeros(count, np.int64)
    np.maximum.at(most_P, found.problem, found.responses)
    tied_E = found.responses == most_P[found.problem]
    tied_P = np.bincount(found.problem[tied_E], minlength=count)
    right_P = np.bincount(found.problem[tied_E & found.right], minlength=count)
    return [right / tied if tied else None for right, tied in zip(right_P.tolist(), tied_P.tolist(), strict=True)]
