"""Scored responses, counted by problem, and what the counts say of the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.inputs import same_answer, samples
from entropyctl.laws._answers import Clusters, mean_logprobs, uncertainty
from entropyctl.laws._student import mean_interval
from entropyctl.laws.pass_at_k import majority_correct, pass_curve
from entropyctl.table import notice
from entropyctl.table.columns import column_from, flat_values, row_lengths, row_of_token
from entropyctl.table.conform import row_name
from entropyctl.table.schema import load_schema

OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "error")
FAILURES = OUTCOMES[2:]
# What an evaluation reads, where it is there; only the first two must be.
OPTIONAL = (
    *("policy_version", "data_source", "predicted", "finish_reason", "tokens", "entropies", "greedy"),
    *("logprobs", "loss_mask"),
)
COLUMNS = ("prompt_id", "outcome", *OPTIONAL)
NEEDS = COLUMNS[:2]

Row = dict[str, Any]


@dataclass
class _Problem:
    """Running counts of one problem under one version of the policy."""

    outcomes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    right: set[str] = field(default_factory=set)
    clusters: Clusters = field(default_factory=Clusters)
    data_source: str | None = None
    truncated: int | None = None
    tokens: int = 0
    nats: float = 0.0
    measured_tokens: int = 0

    def as_row(self) -> Row:
        answers = self.answers.most_common()
        return {
            "data_source": self.data_source,
            "n": self.outcomes.total(),
            "c": self.outcomes["correct"],
            "majority_correct": majority_correct(
                [count for _, count in answers], [answer in self.right for answer, _ in answers]
            ),
            "predictions": [
                {"predicted": answer, "count": count, "correct": answer in self.right} for answer, count in answers
            ],
            "truncated": self.truncated,
            **{outcome: self.outcomes[outcome] for outcome in FAILURES},
            "entropy": self.nats / self.measured_tokens if self.measured_tokens else None,
            "tokens": self.tokens,
        }


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
        announce: told how many greedy rows were left out.

    Returns:
        An `evals` table, problems in order of first appearance.

    Raises:
        InputError: there are no rows, or an outcome is none of `OUTCOMES`.
    """
    problems: dict[tuple[int, str], _Problem] = {}
    left_out = 0
    for rows in steps:
        drawn = samples(rows)
        left_out += rows.num_rows - drawn.num_rows
        _count(problems, drawn, path)
    if left_out:
        announce(f"{path}: left out {left_out} greedy baseline responses")
    if not problems:
        raise InputError(f"{path}: holds no rows; there is nothing to evaluate")
    counted = [{"policy_version": v, "prompt_id": p, **problem.as_row()} for (v, p), problem in problems.items()]
    answered = any(problem.answers for problem in problems.values())
    of_answers = uncertainty([problem.clusters for problem in problems.values()], answers_were_read=answered)
    for row, entropy in zip(counted, of_answers.entropies, strict=True):
        row |= {"semantic_entropy": entropy, "semantic_entropy_of": of_answers.source}
    columns = load_schema("evals").columns
    return pa.table({c.name: column_from([row[c.name] for row in counted], c.arrow_type) for c in columns})


def _count(problems: dict[tuple[int, str], _Problem], rows: pa.Table, path: str) -> None:
    def values(name: str, missing: Any = None) -> list[Any]:
        return rows[name].to_pylist() if name in rows.column_names else [missing] * rows.num_rows

    nats_B, measured_B, tokens_B = _entropies(rows)
    logprob_B, known_B = mean_logprobs(rows)
    versions, sources, finishes = values("policy_version", 0), values("data_source"), values("finish_reason")
    outcomes, answers = values("outcome"), values("predicted")
    for i, prompt_id in enumerate(values("prompt_id")):
        if outcomes[i] not in OUTCOMES:
            raise InputError(
                f"{path}: row {row_name(rows, i)}: its outcome is {outcomes[i]}; "
                f"it must be one of {', '.join(OUTCOMES)}, as `entropyctl score --reward` writes"
            )
        problem = problems.setdefault((versions[i] or 0, prompt_id), _Problem())
        problem.outcomes[outcomes[i]] += 1
        problem.data_source = problem.data_source or sources[i]
        if finishes[i] is not None:
            problem.truncated = (problem.truncated or 0) + (finishes[i] == "length")
        if answers[i] is not None:
            problem.answers[answers[i]] += 1
            if outcomes[i] == "correct":
                problem.right.add(answers[i])
        answer = same_answer(outcomes[i] == "correct", answers[i])
        problem.clusters.add(answer, float(logprob_B[i]) if known_B[i] else None)
        problem.tokens += int(tokens_B[i])
        problem.measured_tokens += int(measured_B[i])
        problem.nats += float(nats_B[i])


def _entropies(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row the sum of its entropies, how many there are, and how many tokens it has."""
    tokens_B = measured_B = np.zeros(rows.num_rows, np.int64)
    nats_B = np.zeros(rows.num_rows)
    if "entropies" in rows.column_names:
        tokens_B = measured_B = row_lengths(rows["entropies"])
        nats_B = np.bincount(row_of_token(measured_B), flat_values(rows["entropies"]), rows.num_rows)
    if "tokens" in rows.column_names:
        tokens_B = row_lengths(rows["tokens"])
    return nats_B, measured_B, tokens_B


def summarise(evals: pa.Table, ks: Sequence[int] | None = None, confidence: float = 0.95) -> dict[str, Any]:
    """Pass@k, avg@n and majority of an `evals` table: pooled, by policy version, and by data source.

    Means give every problem the same weight. Intervals are Student's over problems: what another draw of problems
    from the same source would give. They say nothing of the noise of sampling where all problems agree. In maj@n
    a problem in which no answer was read counts as 0. Entropy is the mean over tokens.

    Versions of a policy are asked the same problems, so their counts are no independent draws of problems. With
    several versions the pooled means weigh every problem of every version the same and have no interval; `problems`
    counts each problem once.

    Args:
        evals: what `evaluate` returned.
        ks: which k to report; by default every k from 1 to the smallest n of the group.
        confidence: level of the intervals.

    Raises:
        UsageError: a k is above the n of some problem.
    """
    rows: list[Row] = evals.drop_columns(["predictions"]).to_pylist()
    if ks:
        _check_ks(rows, ks)
    versions = sorted({row["policy_version"] for row in rows})
    sources = sorted({row["data_source"] for row in rows if row["data_source"] is not None})
    by_policy = {v: [r for r in rows if r["policy_version"] == v] for v in versions}
    by_source = {(v, s): [r for r in by_policy[v] if r["data_source"] == s] for v in versions for s in sources}
    return {
        "confidence": confidence,
        "pooled": _group(rows, ks, confidence if len(versions) == 1 else None),
        "by_policy": [{"policy_version": v, **_group(r, ks, confidence)} for v, r in by_policy.items()],
        "by_data_source": [
            {"policy_version": v, "data_source": s, **_group(r, ks, confidence)} for (v, s), r in by_source.items() if r
        ],
    }


def _check_ks(rows: list[Row], ks: Sequence[int]) -> None:
    fewest = min(rows, key=lambda row: row["n"])
    for k in ks:
        if not 1 <= k <= fewest["n"]:
            raise UsageError(
                f"-k {k}: problem {fewest['prompt_id']} has n = {fewest['n']} responses of policy version "
                f"{fewest['policy_version']}, and pass@k needs 1 <= k <= n; choose a smaller k or sample more"
            )


def _group(rows: list[Row], ks: Sequence[int] | None, confidence: float | None) -> dict[str, Any]:
    n_P, c_P = np.array([r["n"] for r in rows]), np.array([r["c"] for r in rows])
    responses = int(n_P.sum())
    curve_PK = pass_curve(n_P, c_P, max(ks or [int(n_P.min())]))
    majority = [r["majority_correct"] for r in rows]
    measured = [r for r in rows if r["entropy"] is not None]
    weight = sum(r["tokens"] for r in measured)
    truncated = [r["truncated"] for r in rows if r["truncated"] is not None]
    return {
        "problems": len({r["prompt_id"] for r in rows}),
        "responses": responses,
        "n": int(n_P.min()),
        "pass@k": {
            str(k): _interval(curve_PK[:, k - 1], confidence) for k in sorted(set(ks or range(1, int(n_P.min()) + 1)))
        },
        "avg@n": _interval(c_P / n_P, confidence),
        "maj@n": None
        if all(m is None for m in majority)
        else _interval(np.array([m or 0.0 for m in majority]), confidence),
        "truncated": sum(truncated) / responses if truncated else None,
        **{outcome: sum(r[outcome] for r in rows) for outcome in FAILURES},
        "tokens": sum(r["tokens"] for r in rows),
        "entropy": sum(r["entropy"] * r["tokens"] for r in measured) / weight if weight else None,
    }


def _interval(values_P: np.ndarray, confidence: float | None) -> dict[str, float | None]:
    """Mean and interval over problems, none without a confidence; an interval that leaves 0 to 1 is cut there."""
    if confidence is None:
        return {"mean": float(values_P.mean()), "low": None, "high": None}
    mean, low, high = mean_interval(values_P, confidence)
    if low is None or high is None:
        return {"mean": mean, "low": None, "high": None}
    return {"mean": mean, "low": max(low, 0.0), "high": min(high, 1.0)}
