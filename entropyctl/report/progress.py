"""Entropy and reward against step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.report.section import Figure, Section, absent, axis, course, moved, steps_axis
from entropyctl.report.view import View
from entropyctl.table.rows import Rows

Floats = npt.NDArray[np.float64]
ID, NAME = "progress", "Entropy and reward"


class Curves(NamedTuple):
    """Step, entropy (nats, token mean) and reward of each step; NaN where it is not known."""

    step: Floats
    entropy: Floats
    reward: Floats
    origin: str  # for people


def of_metrics(metrics: Sequence[Rows]) -> Curves | None:
    """The curves that `update` wrote; None without metrics."""
    if not metrics:
        return None
    columns = [
        np.array([value for entry in metrics for value in _numbers(entry, name)], np.float64)
        for name in ("step", "entropy", "reward")
    ]
    order = np.argsort(columns[0], kind="stable")
    step, entropy, reward = (values[order] for values in columns)
    return Curves(step, entropy, reward, "as `update` measured them")


def _numbers(entry: Rows, name: str) -> list[float]:
    rows = entry.rows
    values = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
    return [np.nan if value is None else float(value) for value in values]


class OfResponses:
    """The same, out of the responses themselves."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float, float]] = []

    def add(self, view: View) -> None:
        """Add a step."""
        entropies = view.values.get("entropies", np.empty(0))
        known_N = view.own[: len(entropies)] & ~np.isnan(entropies)
        entropy = float(entropies[known_N].mean(dtype=np.float64)) if known_N.any() else np.nan
        reward_B = view.numbers("reward")
        known_B = ~np.isnan(reward_B)
        self._points.append((view.number, entropy, float(reward_B[known_B].mean()) if known_B.any() else np.nan))

    def curves(self) -> Curves | None:
        """The curves; None where no step has an entropy or a reward."""
        points = np.array(sorted(self._points), np.float64).reshape(-1, 3)
        if np.isnan(points[:, 1:]).all():
            return None
        return Curves(points[:, 0], points[:, 1], points[:, 2], "means over the responses")


def section(curves: Curves | None) -> Section:
    """The section."""
    if curves is None or not len(curves.step):
        return absent(
            ID, NAME, "Entropy and reward against step", "metrics (`entropyctl update --metrics DIR`), or scored tables"
        )
    lead = (
        "Above, the mean entropy H of the tokens that the policy chose, in nats; below, the mean reward of the "
        f"responses; {curves.origin}, step by step."
    )
    return Section(ID, NAME, _title(curves), lead, _figure(curves))


def _title(curves: Curves) -> str:
    parts = []
    for name, values, unit in (("entropy", curves.entropy, " nats"), ("the reward", curves.reward, "")):
        known = values[~np.isnan(values)]
        if len(known) > 1:
            ends = max(len(known) // 10, 1)
            parts.append(f"{name} {moved(float(known[:ends].mean()), float(known[-ends:].mean()), unit)}")
    steps = f"over {len(curves.step)} steps"
    text = " while ".join(parts)
    return f"{text[0].upper()}{text[1:]} {steps}" if parts else "Entropy and reward of one step"


def _figure(curves: Curves) -> Figure:
    data: list[Figure] = []
    for name, values, color, y, unit in (
        ("entropy", curves.entropy, "@blue", "y", " nats"),
        ("reward", curves.reward, "@orange", "y2", ""),
    ):
        hover = f"step %{{x}}<br>{name} %{{y:.4g}}{unit}<extra></extra>"
        data += course(name, curves.step, values, color=color, hover=hover, xaxis="x", yaxis=y)
    layout = {
        "height": 460,
        "xaxis": steps_axis("training step", curves.step, anchor="y2"),
        "yaxis": axis("entropy, nats", domain=[0.54, 1], rangemode="tozero"),
        "yaxis2": axis("reward", domain=[0, 0.46]),
        "showlegend": False,
    }
    return {"data": data, "layout": layout}
