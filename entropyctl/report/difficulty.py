"""The covariance of advantage and score, by how hard the problems are."""

from __future__ import annotations

from typing import Any

import numpy as np

from entropyctl.forecast import Forecast, columns_for
from entropyctl.report.section import Figure, Section, absent, axis, course, steps_axis
from entropyctl.report.view import View, complete
from entropyctl.show.forecast import LEVELS
from entropyctl.show.text import number

ID, NAME = "difficulty", "Covariance by difficulty"
TITLE = "Do easy or hard problems cost the entropy?"
LEVEL_STYLE = {
    "hard": ("@orange", "solid", "square"),
    "medium": ("@green", "dash", "diamond"),
    "easy": ("@blue", "dot", "circle"),
}
LEAD = (
    "A covariance over the tokens of each step, by the pass rate c/n of the problem that they answer; above 0 it says "
    "that the step lowers the entropy. Above, cov(A, S* − E[S]) (arXiv 2602.03392: its product with −η is the expected "
    "change); below, cov(A, log p) (arXiv 2505.22617)."
)
COVARIANCES = (("cov_A_centred_S", "cov(A, S* − E[S])", "y"), ("cov_A_logp", "cov(A, log p)", "y2"))


class Covariances:
    """Running totals of the forecast, a step at a time."""

    def __init__(self) -> None:
        self._forecast = Forecast(eta=1.0, masks={})
        self._needs = (*columns_for({})[0], "outcome")

    def add(self, view: View) -> None:
        """Add a step; without advantages, statistics and grades it says nothing."""
        rows = complete(view, self._needs)
        if rows is not None:
            self._forecast.add(view.number, rows)

    def section(self) -> Section:
        """The section."""
        steps = sorted(self._forecast.as_dict()["steps"], key=lambda step: step["step"])
        if not steps:
            return absent(
                ID, NAME, TITLE, "scored tables and their advantages (`entropyctl advantage grpo --only-new ...`)"
            )
        return Section(ID, NAME, _title(self._forecast.as_dict()["all"]), LEAD, _figure(steps))


def _title(everything: dict[str, Any]) -> str:
    known = {
        name: of["cov_A_centred_S"]
        for name, of in everything["difficulty"].items()
        if name in LEVEL_STYLE and of["tokens_with_advantage"]
    }
    if not known:
        return "No group of responses disagrees: there is no advantage, and nothing moves the entropy"
    most = max(known, key=lambda name: abs(known[name]))
    does = "lower" if known[most] > 0 else "raise"
    return f"{most.capitalize()} problems {does} the entropy most: cov(A, S* − E[S]) = {number(known[most], 2)}"


def _figure(steps: list[dict[str, Any]]) -> Figure:
    data: list[Figure] = []
    for field, label, y in COVARIANCES:
        for name, (color, dash, symbol) in LEVEL_STYLE.items():
            known = [step for step in steps if step["difficulty"][name]["tokens_with_advantage"]]
            data += course(
                LEVELS[name].replace("<=", "≤").replace(">=", "≥"),
                [step["step"] for step in known],
                np.array([step["difficulty"][name][field] for step in known], np.float64),
                color=color,
                dash=dash,
                symbol=symbol,
                hover=f"step %{{x}}, {name}: %{{customdata}} problems<br>{label} = %{{y:.3g}}<extra></extra>",
                customdata=[step["difficulty"][name]["prompts"] for step in known],
                legendgroup=name,
                showlegend=y == "y",
                xaxis="x",
                yaxis=y,
            )
    layout = {
        "height": 480,
        "xaxis": steps_axis("training step", [step["step"] for step in steps], anchor="y2"),
        "yaxis": axis("cov(A, S* − E[S]), nats", domain=[0.54, 1], zeroline=True),
        "yaxis2": axis("cov(A, log p), nats", domain=[0, 0.46], zeroline=True),
    }
    return {"data": data, "layout": layout}
