"""An evaluation put into its history, and held against rules and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from entropyctl.errors import UsageError
from entropyctl.evaluation.alerts import Rule, look
from entropyctl.evaluation.evaluation import Evaluation
from entropyctl.evaluation.history import History
from entropyctl.evaluation.metric import check_k, check_metric, metric
from entropyctl.laws.summary import summarise
from entropyctl.table import again, notice
from entropyctl.table.header import Record


def remember(history: History, found: Evaluation, record: Record, rules: Sequence[Rule]) -> list[str]:
    """Add an evaluation to the history, and say which rules it breaks that the one before it did not.

    Others that would add to the history wait meanwhile, so that each evaluation is held against those before it.

    Args:
        history: where it is added, unless it stands there already.
        found: the evaluation.
        record: of this run.
        rules: what is watched.

    Returns:
        A line for each rule that fires.
    """
    if found.entry is not None:
        return []
    with history.adding():
        before = history.series(found.facts["series"])
        summary = summarise(found.evals)
        alerts = [(rule, look(rule, found.evals, summary, found.facts, before)) for rule in rules]
        history.add(
            found.evals,
            again(record, evaluation=found.facts, alerts={rule.text: alert.holds for rule, alert in alerts}),
            summary,
            context=found.context,
            chain=found.chain,
            inputs=found.inputs,
        )
    return [alert.words for _, alert in alerts if alert.fires]


@contextmanager
def said_whatever_follows(lines: Sequence[str]) -> Iterator[None]:
    """Alerts that an error would swallow are said before it: the history has it that they were, and is silent then."""
    try:
        yield
    except BaseException:
        for line in lines:
            notice(f"eval: {line}")
        raise


def parse_threshold(text: str) -> tuple[str, float]:
    """`pass@8=0.3` as a metric and its bound; a number alone is one of avg@n.

    Raises:
        UsageError: it is neither.
    """
    name, equals, bound = text.rpartition("=")
    try:
        value = float(bound)
    except ValueError:
        raise UsageError(f"--fail-under {text}: must be METRIC=NUMBER, such as pass@8=0.3, or a number") from None
    check_metric(name if equals else "avg@n", f"--fail-under {text}")
    return name if equals else "avg@n", value


def under(found: Evaluation, thresholds: Sequence[tuple[str, float]]) -> list[str]:
    """A line for each threshold that the evaluation stays below.

    Raises:
        UsageError: a k is above n, or the evaluation does not know the metric.
    """
    lines, summary = [], summarise(found.evals) if thresholds else {}
    at = f" at policy version {found.facts['policy_version']}" if "task" in found.facts else ""
    for name, bound in thresholds:
        check_k(name, summary["pooled"]["n"], "--fail-under")
        value = metric(summary, name)
        if value is None:
            raise UsageError(f"--fail-under: {name} is not known of these responses; choose another")
        if value < bound:
            lines.append(f"{name} is {value:.4f}{at}, below --fail-under {bound:g}")
    return lines
