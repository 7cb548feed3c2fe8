"""Points of (entropy, performance) for the law, out of the tables of a run or of any two columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.laws.evaluate import as_last_evaluated
from entropyctl.laws.pass_at_k import pass_at_k


class Points(NamedTuple):
    """Entropies and performances, the steps that they stand at, where they came from, and what was left out."""

    entropy: list[float]
    performance: list[float]
    order: list[float]
    order_is: str  # what `order` counts: step, policy version, row
    origin: str  # for people
    notes: list[str]
    entropies_of: str | None = None  # the table that gave the entropies, where the points are of two: metrics or evals


def from_columns(rows: pa.Table, entropy: str, performance: str, path: str) -> Points:
    """One point for each row in which both columns have a number, with its `step` where there is such a column.

    Raises:
        InputError: a column is missing or holds no numbers.
    """
    H, R = (_numbers(rows, name, path) for name in (entropy, performance))
    steps = _numbers(rows, "step", path) if "step" in rows.column_names else list(range(1, rows.num_rows + 1))
    all_three = [row for row in zip(steps, H, R, strict=True) if None not in row]
    missing = rows.num_rows - len(all_three)
    notes = [f"{missing} row(s) without '{entropy}' or '{performance}' were left out"] if missing else []
    return Points(
        [float(h or 0) for _, h, _ in all_three],
        [float(r or 0) for _, _, r in all_three],
        [float(step or 0) for step, _, _ in all_three],
        "step" if "step" in rows.column_names else "row",
        f"columns '{entropy}' and '{performance}'",
        notes,
    )


def from_run(metrics: pa.Table | None, evals: pa.Table, metric: str, path: str) -> Points:
    """One point for each policy version that was evaluated.

    Performance is the mean over the version's problems of pass@k. Entropy is the evaluations' own, the mean over
    their tokens, where every problem has one; else the mean of the metrics' rows of that version.

    Args:
        metrics: a `metrics` table, or None.
        evals: an `evals` table.
        metric: `pass@1`, `pass@8`, ...
        path: the inputs' names, for messages.

    Raises:
        InputError: no input has entropies.
        UsageError: the metric is not pass@k, or its k is above some n.
    """
    versions: dict[int, list[dict[str, Any]]] = {}
    for row in as_last_evaluated(evals).drop_columns(["predictions"]).to_pylist():
        versions.setdefault(row["policy_version"], []).append(row)
    performance = {version: _performance(rows, metric) for version, rows in versions.items()}
    own = {version: _token_mean(rows) for version, rows in versions.items()}
    if all(value is not None for value in own.values()):
        entropy, origin, given_by = own, "entropies of the evaluations themselves", "evals"
    elif metrics is not None:
        entropy, origin, given_by = (
            _entropy_of_versions(metrics),
            "entropies of the metrics, by policy version",
            "metrics",
        )
    else:
        raise InputError(
            f"{path}: some evaluated responses carry no entropies; add the run's metrics table, "
            "or give them token statistics with `entropyctl score --policy`"
        )
    known = sorted(version for version in performance if entropy.get(version) is not None)
    notes = [f"policy version {v} has no entropy and was left out" for v in sorted(set(performance) - set(known))]
    H, R = [float(entropy[v] or 0.0) for v in known], [performance[v] for v in known]
    return Points(H, R, [float(v) for v in known], "policy version", origin, notes, given_by)


def _numbers(rows: pa.Table, name: str, path: str) -> list[float | None]:
    if name not in rows.column_names:
        raise InputError(f"{path}: has no column '{name}'; it has {', '.join(rows.column_names)}")
    kind = rows.schema.field(name).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(f"{path}: column '{name}' is {kind}; it must hold numbers")
    return rows[name].to_pylist()


def _performance(rows: list[dict[str, Any]], metric: str) -> float:
    match = re.fullmatch(r"pass@([1-9]\d*)", metric)
    if match is None:
        raise UsageError(f"--metric {metric}: must be pass@K, for example pass@1")
    k, fewest = int(match[1]), min(rows, key=lambda row: row["n"])
    if k > fewest["n"]:
        raise UsageError(
            f"--metric {metric}: problem {fewest['prompt_id']} of policy version {fewest['policy_version']} "
            f"has n = {fewest['n']} responses; choose a k up to that"
        )
    return float(pass_at_k(np.array([r["n"] for r in rows]), np.array([r["c"] for r in rows]), k).mean())


def _token_mean(rows: list[dict[str, Any]]) -> float | None:
    if any(row["entropy"] is None for row in rows):
        return None
    return sum(row["entropy"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)


def _entropy_of_versions(metrics: pa.Table) -> dict[int, float | None]:
    found: dict[int, list[float]] = {}
    columns = (metrics[name].to_pylist() for name in ("policy_version", "entropy"))
    for version, entropy in zip(*columns, strict=True):
        if entropy is not None:
            found.setdefault(version, []).append(entropy)
    return {version: sum(values) / len(values) for version, values in found.items()}


def joined(parts: Sequence[Points]) -> Points:
    """The points of several inputs as one list; in the order of their steps where all have steps."""
    points = [point for part in parts for point in zip(part.order, part.entropy, part.performance, strict=True)]
    kinds = {part.order_is for part in parts}
    order_is = kinds.pop() if len(kinds) == 1 else "row"
    if order_is == "row":
        points = [(float(i), h, r) for i, (_, h, r) in enumerate(points, start=1)]
    else:
        points.sort(key=lambda point: point[0])
    return Points(
        [h for _, h, _ in points],
        [r for _, _, r in points],
        [step for step, _, _ in points],
        order_is,
        "; ".join(dict.fromkeys(part.origin for part in parts)),
        [note for part in parts for note in part.notes],
    )
