"""pass@k of policy versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from entropyctl.report.section import SEQUENCE, Figure, Section, absent, axis, band, listed, sentence, spread_over
from entropyctl.show.text import number

ID, NAME = "passk", "pass@k"
TITLE = "How much do more attempts help?"
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MISSING = "evals (`entropyctl eval -o FILE`), or scored tables with an `outcome`"


def section(summary: dict[str, Any] | None, origin: str) -> Section:
    """Curves of pass@k with their intervals.

    Args:
        summary: what `laws.summary.summarise` says of the evaluations.
        origin: whose responses they count, for people.
    """
    if summary is None:
        return absent(ID, NAME, TITLE, MISSING)
    groups = summary["by_policy"]
    shown = [groups[i] for i in spread_over(len(groups), len(SEQUENCE))]
    level = f"{100 * summary['confidence']:g} %"
    lead = (
        "pass@k = 1 − C(n−c, k) / C(n, k): the chance that one of k responses to a problem is right, without bias, "
        f"mean over the problems; {origin}. Bands are {level} intervals: what another draw of problems from the same "
        "source, and of responses to them, would give."
    )
    notes = [] if len(shown) == len(groups) else [f"{len(shown)} of {len(groups)} versions are drawn."]
    if any(group["pass@k"]["1"]["low"] is None for group in shown):
        notes.append("A version with one problem has no interval.")
    return Section(ID, NAME, _title(groups), lead, _figure(shown), notes=notes)


def _title(groups: Sequence[dict[str, Any]]) -> str:
    first, last = groups[0], groups[-1]
    k = str(min(first["n"], last["n"]))
    ends = {name: (first["pass@k"][name]["mean"], last["pass@k"][name]["mean"]) for name in dict.fromkeys(["1", k])}
    if len(groups) == 1:
        return " and ".join(f"pass@{name} is {number(value, 3)}" for name, (value, _) in ends.items())
    # No word of rise or fall: whether the two differ is for a comparison problem by problem to say.
    between = f"at versions {first['policy_version']} and {last['policy_version']}"
    return f"{sentence(between)}: " + ", ".join(
        f"pass@{name} {' and '.join(number(float(value), 3) for value in pair)}" for name, pair in ends.items()
    )


def _figure(groups: Sequence[dict[str, Any]]) -> Figure:
    data: list[Figure] = []
    colors = [SEQUENCE[i] for i in _steps(len(groups))]
    for i, (group, color) in enumerate(zip(groups, colors, strict=True)):
        ks = [int(k) for k in group["pass@k"]]
        entries = list(group["pass@k"].values())
        low, high = (listed(entry[end] for entry in entries) for end in ("low", "high"))
        # A band for the first and the last: six of them would hide one another.
        if i in (0, len(groups) - 1) and None not in low and len(ks) > 1:
            data += band(ks, low, high, f"{color}-band")
        ends = [
            f"{a:.3f} to {b:.3f}" if a is not None and b is not None else "none" for a, b in zip(low, high, strict=True)
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(ks) <= 64 else "lines",
                "name": f"version {group['policy_version']}",
                "x": ks,
                "y": listed(entry["mean"] for entry in entries),
                "text": ends,
                "line": {"color": color, "width": 2.5, "dash": DASHES[i % len(DASHES)]},
                "marker": {"color": color, "size": 8, "symbol": SYMBOLS[i % len(SYMBOLS)]},
                "hovertemplate": f"version {group['policy_version']}<br>pass@%{{x}} %{{y:.3f}}<br>interval %{{text}}"
                "<extra></extra>",
            }
        )
    most = max(len(group["pass@k"]) for group in groups)
    ticks = [k for k in (2**i for i in range(20)) if k <= most]
    layout = {
        "height": 430,
        "xaxis": axis("k, responses to a problem (logarithmic)", type="log", tickvals=ticks, ticktext=ticks),
        "yaxis": axis("pass@k", rangemode="tozero"),
    }
    return {"data": data, "layout": layout}


def _steps(count: int) -> list[int]:
    """Places in the sequence of colours: the ends for two, the middle between."""
    return [5] if count == 1 else [round(i * (len(SEQUENCE) - 1) / (count - 1)) for i in range(count)]
