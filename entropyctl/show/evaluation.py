"""An evaluation as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from entropyctl.show.console import print_table
from entropyctl.show.text import number, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console


def shown_ks(pass_at_k: dict[str, Any], chosen: bool) -> list[str]:
    """The k that a table shows: those that were asked for, else powers of two and the largest."""
    ks = [int(k) for k in pass_at_k]
    return [str(k) for k in ks if chosen or k == ks[-1] or k & (k - 1) == 0]


def print_evaluation(to: Console, summary: dict[str, Any], chosen_ks: bool = False) -> None:
    """Print what `laws.summary.summarise` returned: a line for each policy version and data source.

    Args:
        to: where it goes.
        summary: the evaluation.
        chosen_ks: the k were asked for, so all are shown.
    """
    ks = shown_ks(summary["pooled"]["pass@k"], chosen_ks)
    by_policy, by_source = summary["by_policy"], summary["by_data_source"]
    several = len(by_source) > len(by_policy)
    groups = [{"data_source": "pooled", **group} for group in by_policy] + by_source if several else [*by_policy]
    if len(by_policy) > 1:
        groups.append({"policy_version": "all", **summary["pooled"]})
    lines = [_line(group, ks, summary["confidence"]) for group in groups]
    filled = [name for name in lines[0] if any(line[name] for line in lines)]
    print_table(to, filled, [[line[name] for name in filled] for line in lines], left=["policy", "data source"])
    for group in by_policy:
        of = f"policy {group['policy_version']}: " if len(by_policy) > 1 else ""
        to.print(f"{of}{_pass_rates(group['pass_rates'])}")
    failures = {name: summary["pooled"][name] for name in ("unparsable", "timeout", "error")}
    if any(failures.values()):
        counts = ", ".join(f"{name} {count}" for name, count in failures.items())
        to.print(f"not graded, counted as not correct: {counts}")


def _pass_rates(found: dict[str, Any]) -> str:
    shares = "".join(_bar(count, max(found["histogram"])) for count in found["histogram"])
    between = f"sometimes {found['mixed']}" + (f" (0 {shares} 1)" if found["mixed"] else "")
    return f"problems solved: never {found['all_wrong']}, {between}, always {found['all_right']}"


def _bar(count: int, most: int) -> str:
    """Of a small histogram: a digit from 0 to 9, which any terminal and a mail can show."""
    return str(-(-9 * count // most)) if most else "0"


def print_comparison(to: Console, found: dict[str, Any], chosen: Sequence[int] = ()) -> None:
    """Print how two policies compare on the same problems.

    Args:
        to: where it goes.
        found: what `laws.comparison.compare` returned.
        chosen: the k whose differences are shown, by default powers of two and the largest; the verdict is of all.
    """
    longest = len(found["difference"])
    ks = [k for k in chosen if k <= longest] or [k for k in range(1, longest + 1) if k == longest or k & (k - 1) == 0]
    to.print(f"against {visible(found['against'])}, {found['problems']} problems that both have:", style="bold")
    level = f"{100 * found['confidence']:g} % band over all k"
    rows = []
    for k in ks:
        difference, low, high = (found[name][k - 1] for name in ("difference", "low", "high"))
        band = "" if low is None else f"{low:+.3f} to {high:+.3f}"
        rows.append([f"pass@{k}", f"{difference:+.3f}", band])
    print_table(to, ["", "difference", level], rows, left=[""])
    to.print(found["verdict"])
    moved = found["movement"]
    words = [f"{name} {moved[name]} ({moved[f'{name}_beyond_noise']} beyond noise)" for name in ("rose", "fell")]
    to.print(f"pass rates: {', '.join(words)}, same {moved['same']}")
    names = {"all_wrong": "never", "mixed": "sometimes", "all_right": "always"}
    cells = [[names[kind], *(str(row[other]) for other in names)] for kind, row in moved["from_to"].items()]
    print_table(to, ["solved before \\ now", *names.values()], cells, left=["solved before \\ now"])
    for which, where in (("only_here", "only here"), ("only_there", "only there")):
        if found[which]:
            to.print(f"left out: {found[which]} problems that are {where}")


def _line(group: dict[str, Any], ks: list[str], confidence: float) -> dict[str, str]:
    def mean(entry: dict[str, float] | None) -> str:
        return f"{entry['mean']:.3f}" if entry else ""

    average, consensus = group["avg@n"], group["cons@k"] or {}
    return {
        "policy": str(group["policy_version"]),
        "data source": shorten(group.get("data_source", ""), 30),
        "problems": str(group["problems"]),
        "n": str(group["n"]),
        "avg@n": mean(average),
        f"{100 * confidence:g} % interval": "" if average["low"] is None else _range(average),
        **{f"pass@{k}": mean(group["pass@k"].get(k)) for k in ks},
        **{f"cons@{k}": mean(entry) for k, entry in consensus.items()},
        "truncated": "" if group["truncated"] is None else f"{100 * group['truncated']:.1f} %",
        "entropy": "" if group["entropy"] is None else number(group["entropy"]),
    }


def _range(entry: dict[str, float]) -> str:
    return f"{entry['low']:.3f} to {entry['high']:.3f}"
