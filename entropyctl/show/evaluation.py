"""An evaluation as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entropyctl.show.console import print_table
from entropyctl.show.text import number, shorten

if TYPE_CHECKING:
    from rich.console import Console


def shown_ks(pass_at_k: dict[str, Any], chosen: bool) -> list[str]:
    """The k that a table shows: those that were asked for, else powers of two and the largest."""
    ks = [int(k) for k in pass_at_k]
    return [str(k) for k in ks if chosen or k == ks[-1] or k & (k - 1) == 0]


def print_evaluation(to: Console, summary: dict[str, Any], chosen_ks: bool = False) -> None:
    """Print what `laws.evaluate.summarise` returned: a line for each policy version and data source.

    Args:
        to: where it goes.
        summary: the evaluation.
        chosen_ks: the k were asked for, so all are shown.
    """
    ks = shown_ks(summary["pooled"]["pass@k"], chosen_ks)
    by_policy, by_source = summary["by_policy"], summary["by_data_source"]
    groups = [*by_policy, *(by_source if len(by_source) > len(by_policy) else [])]
    if len(by_policy) > 1:
        groups.append({"policy_version": "all", **summary["pooled"]})
    lines = [_line(group, ks, summary["confidence"]) for group in groups]
    filled = [name for name in lines[0] if any(line[name] for line in lines)]
    print_table(to, filled, [[line[name] for name in filled] for line in lines], left=["policy", "data source"])
    failures = {name: summary["pooled"][name] for name in ("unparsable", "timeout", "error")}
    if any(failures.values()):
        counts = ", ".join(f"{name} {count}" for name, count in failures.items())
        to.print(f"not graded, counted as not correct: {counts}")


def _line(group: dict[str, Any], ks: list[str], confidence: float) -> dict[str, str]:
    def mean(entry: dict[str, float] | None) -> str:
        return f"{entry['mean']:.3f}" if entry else ""

    average = group["avg@n"]
    return {
        "policy": str(group["policy_version"]),
        "data source": shorten(group.get("data_source", ""), 30),
        "problems": str(group["problems"]),
        "n": str(group["n"]),
        "avg@n": mean(average),
        f"{100 * confidence:g} % interval": "" if average["low"] is None else _range(average),
        **{f"pass@{k}": mean(group["pass@k"].get(k)) for k in ks},
        "maj@n": mean(group["maj@n"]),
        "truncated": "" if group["truncated"] is None else f"{100 * group['truncated']:.1f} %",
        "entropy": "" if group["entropy"] is None else number(group["entropy"]),
    }


def _range(entry: dict[str, float]) -> str:
    return f"{entry['low']:.3f} to {entry['high']:.3f}"
