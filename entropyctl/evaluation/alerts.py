"""Rules over the history of an evaluation: `pass@32 < previous - 2se`. Each speaks once, until it no longer holds."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.errors import UsageError
from entropyctl.evaluation.history import Entry
from entropyctl.evaluation.metric import check_k, check_metric, metric
from entropyctl.laws.pass_at_k import pass_at_k

HOLDS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_RULE = re.compile(
    rf"\s*(?P<metric>[\w@]+)\s*(?P<op><=|>=|<|>)\s*"
    rf"(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<of>previous|first|best)|(?P<number>-?{_NUMBER}))"
    rf"(?:\s*(?P<sign>[-+])\s*(?P<margin>{_NUMBER})\s*(?P<se>se)?)?\s*"
)
EXAMPLE = "'pass@32 < previous - 2se', 'entropy < 0.1*first' or 'pass@1 < 0.3'"


class Rule(NamedTuple):
    """METRIC OP BOUND, the bound a number or [FACTOR*](previous|first|best), with [+|- MARGIN[se]] behind it."""

    text: str
    metric: str
    op: str
    factor: float
    of: str | None  # previous, first or best of the series; None: the number in `factor`
    margin: float
    in_se: bool


def parse_rule(text: str) -> Rule:
    """A rule out of its text.

    Raises:
        UsageError: it is none, or there is no such metric.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise UsageError(f"--alert '{text}': is no rule; write {EXAMPLE}")
    check_metric(match["metric"], f"--alert '{text}'")
    if match["se"] and "@" not in match["metric"]:
        raise UsageError(f"--alert '{text}': only pass@K, avg@n and cons@n have a standard error; give a plain margin")
    factor = float(match["number"] or match["factor"] or 1.0)
    margin = float(f"{match['sign'] or ''}{match['margin'] or 0}")
    return Rule(text.strip(), match["metric"], match["op"], factor, match["of"], margin, bool(match["se"]))


class Alert(NamedTuple):
    """What a rule says of an evaluation."""

    holds: bool
    fires: bool  # it holds, and did not when it was last asked of an evaluation
    words: str


def look(rule: Rule, evals: pa.Table, summary: dict[str, Any], facts: dict[str, Any], before: Sequence[Entry]) -> Alert:
    """Hold an evaluation against a rule.

    The standard error is that of the difference between the two evaluations, paired by problem over those that both
    have; against a number it is that of the metric itself. No rule holds one of whose numbers is not known: over
    earlier evaluations while there are none that know the metric (pass@32 is not known of 8 responses), or with the
    standard error of a single problem.

    Args:
        rule: what is asked.
        evals: the counts by problem.
        summary: their numbers, with all k.
        key: of the evaluation; earlier ones of the same key are no reference, but the same policy with fewer samples.
        before: earlier evaluations of the series, oldest first.

    Raises:
        UsageError: its k is above the n of the evaluation.
        InputError: an earlier one is damaged.
    """
    check_k(rule.metric, summary["pooled"]["n"], f"--alert '{rule.text}'")
    value = metric(summary, rule.metric)
    others = [entry for entry in before if rule.of and entry.facts.get("key") != facts.get("key")]
    reference = _reference(rule, [(metric(entry.summary, rule.metric), entry) for entry in others])
    if value is None or (rule.of is not None and reference is None):
        return Alert(False, False, "")
    error = _standard_error(rule.metric, evals, reference[1].rows if reference else None) if rule.in_se else 1.0
    if error is None:
        return Alert(False, False, "")
    bound = rule.factor * (reference[0] if reference else 1.0) + rule.margin * error
    holds = bool(HOLDS[rule.op](value, bound))
    held = next((entry.alerts[rule.text] for entry in reversed(before) if rule.text in entry.alerts), False)
    words = f"{rule.text}: {rule.metric} is {value:.4g} at policy version {facts.get('policy_version', '?')}"
    if reference:
        words += f", {rule.of} {reference[0]:.4g} at version {reference[1].facts.get('policy_version', '?')}"
    return Alert(holds, holds and not held, words + (f", se {error:.2g}" if rule.in_se else ""))


def _reference(rule: Rule, found: Sequence[tuple[float | None, Entry]]) -> tuple[float, Entry] | None:
    """The value and the evaluation that a rule compares with."""
    known = [(value, entry) for value, entry in found if value is not None]
    if not known:
        return None
    if rule.of == "best":
        return max(known, key=lambda one: one[0])
    return known[-1 if rule.of == "previous" else 0]


def _standard_error(name: str, evals: pa.Table, others: pa.Table | None) -> float | None:
    """Of the mean over problems of a metric, or of its difference to another evaluation's; None for one problem."""
    here = _by_problem(name, evals)
    there = None if others is None else _by_problem(name, others)
    values = [value - (0.0 if there is None else there[p]) for p, value in here.items() if there is None or p in there]
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def _by_problem(name: str, evals: pa.Table) -> dict[str, float]:
    kind, _, k = name.partition("@")
    n, c = (np.array(evals[column].to_pylist()) for column in ("n", "c"))
    if kind == "cons":
        values = [value or 0.0 for value in evals["majority_correct"].to_pylist()]
    elif kind == "avg":
        values = (c / n).tolist()
    else:
        values = pass_at_k(n, c, int(n.min()) if k == "n" else int(k)).tolist()
    return dict(zip(evals["prompt_id"].to_pylist(), values, strict=True))
