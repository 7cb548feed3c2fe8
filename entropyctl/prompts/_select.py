"""Choosing and ordering problems by what an evaluation measured of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.prompts._problem import Problem

Order = Literal["semantic-entropy", "pass-rate"]


class Measured(NamedTuple):
    """What is known of a problem: n responses, c of them correct, and the entropy of their answers in nats."""

    n: int
    c: int
    semantic_entropy: float | None = None


class Selection(NamedTuple):
    """The problems that are left, in their order, and how many were dropped, by reason."""

    problems: list[Problem]
    dropped: dict[str, int]


def measurements(evals: pa.Table, version: int | None, path: str) -> tuple[int, dict[str, Measured]]:
    """What one version of a policy achieved on each problem.

    Args:
        evals: an `evals` table.
        version: of the policy; None takes the newest.
        path: the table's name, for messages.

    Returns:
        The version, and its measurements by problem.

    Raises:
        InputError: it is no evals table, a problem is there twice, or its entropies were made in two ways.
        UsageError: there is no such version.
    """
    if missing := {"policy_version", "prompt_id", "n", "c"} - set(evals.column_names):
        raise InputError(f"{path}: has no column '{min(missing)}'; make it with `entropyctl eval -o`")
    rows = evals.select([name for name in COLUMNS if name in evals.column_names]).to_pylist()
    versions = sorted({row["policy_version"] for row in rows})
    if not versions:
        raise InputError(f"{path}: holds no rows; evaluate the problems first")
    if version is not None and version not in versions:
        raise UsageError(f"--version {version}: {path} has the versions {', '.join(map(str, versions))}")
    chosen = versions[-1] if version is None else version
    found: dict[str, Measured] = {}
    rows = [row for row in rows if row["policy_version"] == chosen]
    for row in rows:
        if row["prompt_id"] in found:
            raise InputError(f"{path}: problem {row['prompt_id']} is there twice; give one evaluation of it")
        found[row["prompt_id"]] = Measured(row["n"], row["c"], row.get("semantic_entropy"))
    if len(kinds := {row.get("semantic_entropy_of") for row in rows} - {None}) > 1:
        raise InputError(
            f"{path}: its semantic entropies were made of {' and '.join(sorted(kinds))}, which have no common order; "
            "evaluate all problems in one run"
        )
    return chosen, found


COLUMNS = ("policy_version", "prompt_id", "n", "c", "semantic_entropy", "semantic_entropy_of")


def select(
    problems: Sequence[Problem],
    measured: Mapping[str, Measured],
    *,
    min_pass: Fraction | None = None,
    max_pass: Fraction | None = None,
    informative: bool = False,
    order: Order | None = None,
    descending: bool = False,
    stages: int | None = None,
    stage: int | None = None,
    count: int | None = None,
) -> Selection:
    """Filter problems, put them in order, cut the order into stages, and take the first ones, in this sequence.

    A problem stays where min_pass < c / n < max_pass, as in 2602.03392 (1/16 and 15/16), and, if informative, where
    0 < c < n, as in DAPO (2503.14476). Stage i of N is the i-th of N consecutive parts of the order whose sizes
    differ by at most one; SENT (2512.04359) goes from low to high semantic entropy.

    Args:
        problems: to choose from.
        measured: by name of the problem; problems without are dropped.
        min_pass: drop pass rates up to this one.
        max_pass: drop pass rates from this one on.
        informative: drop problems that are always or never solved.
        order: what to sort by, from low to high; problems that agree stand in the order of their names. Without it
            they stay as given.
        descending: sort from high to low.
        stages: how many parts.
        stage: which one, from 1.
        count: most problems to take.

    Returns:
        What is left, and how many were dropped: `not_evaluated`, `low_pass_rate`, `high_pass_rate`, `uninformative`,
        `no_semantic_entropy`, `other_stages`, `beyond_count`.
    """
    tests: dict[str, Callable[[Measured], bool]] = {
        "low_pass_rate": lambda m: min_pass is not None and Fraction(m.c, m.n) <= min_pass,
        "high_pass_rate": lambda m: max_pass is not None and Fraction(m.c, m.n) >= max_pass,
        "uninformative": lambda m: informative and not 0 < m.c < m.n,
        "no_semantic_entropy": lambda m: order == "semantic-entropy" and m.semantic_entropy is None,
    }
    dropped = dict.fromkeys(("not_evaluated", *tests, "other_stages", "beyond_count"), 0)
    left = [problem for problem in problems if problem.prompt_id in measured and measured[problem.prompt_id].n > 0]
    dropped["not_evaluated"] = len(problems) - len(left)
    for reason, fails in tests.items():
        before = len(left)
        left = [problem for problem in left if not fails(measured[problem.prompt_id])]
        dropped[reason] = before - len(left)
    if order is not None:
        sign = -1 if descending else 1
        left.sort(key=lambda p: (sign * _value(measured[p.prompt_id], order), p.prompt_id))
    part = _stage(left, stages, stage)
    dropped["other_stages"] = len(left) - len(part)
    taken = part[:count]
    dropped["beyond_count"] = len(part) - len(taken)
    return Selection(taken, dropped)


def _value(measured: Measured, order: Order) -> Any:
    if order == "pass-rate":
        return Fraction(measured.c, measured.n)
    return measured.semantic_entropy


def _stage(problems: list[Problem], stages: int | None, stage: int | None) -> list[Problem]:
    if stages is None or stage is None:
        return problems
    return problems[len(problems) * (stage - 1) // stages : len(problems) * stage // stages]
