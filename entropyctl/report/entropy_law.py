"""Performance against e^H with the fitted law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, MismatchError
from entropyctl.laws.collect import check_definitions, collect, definitions
from entropyctl.laws.points import Points, from_columns
from entropyctl.laws.report import RunLaw, law_of
from entropyctl.report.progress import Curves
from entropyctl.report.section import Figure, Section, absent, axis, band, by_order, listed, sentence
from entropyctl.show.law import doubts, formula
from entropyctl.show.text import number
from entropyctl.table.columns import column_from
from entropyctl.table.rows import Rows

ID, NAME = "law", "The entropy law"
TITLE = "How much performance does the remaining entropy buy?"
# Fewer points than this carry no law; single steps are looked at where there are fewer evaluations.
FEWEST = 3
POINTS = "these points"  # their name in messages
E_H = "e<sup>H</sup>"  # as plotly writes it


def section(metrics: Sequence[Rows], evals: Sequence[Rows], curves: Curves | None) -> Section:
    """The section.

    Args:
        metrics: of the run.
        evals: of the run; where three versions of the policy have some, they are the points, as in `fit-law`.
        curves: entropy and reward of each step, the points where there are no metrics either.
    """
    try:
        points, what = _points(metrics, evals, curves)
    except (InputError, MismatchError) as error:
        return absent(ID, NAME, TITLE, f"points that go together: {error}")
    if not points or not points.entropy:
        return absent(ID, NAME, TITLE, "metrics of several steps (`update --metrics`), or evals of several versions")
    lead = (
        f"A point is a {points.order_is}: {what} against e^H ({points.origin}). "
        "The law R = −a e^H + b is a straight line here; where it meets H = 0, at e^H = 1, is the ceiling b − a."
    )
    try:
        found = law_of(points, path=POINTS)
    except InputError as error:
        notes = [sentence(f"{str(error).removeprefix(f'{POINTS}: ')}."), *points.notes]
        return Section(ID, NAME, "These points carry no law", lead, _figure(points, None, what), notes=notes)
    low, high = found.law.ceiling_interval
    ends = f"{number(low, 3)} to {number(high, 3)}"
    title = f"At zero entropy the law puts {what} at {number(found.law.ceiling, 3)} ({ends})"
    if max(points.performance) <= 1 < found.law.ceiling:
        title = f"{what} rises as e^H falls, but not down to zero entropy, where the law would put it above 1"
        title = sentence(title) if what == "reward" else title
    if found.law.a_interval[0] <= 0:
        title = f"Whether {what} falls with e^H, these points do not show"
    notes = [_fit(found), *doubts(found), *points.notes]
    return Section(ID, NAME, title, lead, _figure(points, found, what), notes=notes)


def _points(metrics: Sequence[Rows], evals: Sequence[Rows], curves: Curves | None) -> tuple[Points | None, str]:
    """The points, and what their performance is."""
    if evals:
        inputs = [*metrics, *evals]
        points = collect(inputs, None, None, None)
        if len(points.entropy) >= FEWEST or not metrics:
            check_definitions(definitions(inputs, points), (), inputs)
            return points, "pass@1"
    if metrics:
        points = collect(metrics, None, None, None)
        check_definitions(definitions(metrics, points), (), metrics)
        return points, "reward"
    if curves is None:
        return None, "reward"
    known = ~np.isnan(curves.entropy) & ~np.isnan(curves.reward)
    columns = {"step": curves.step, "entropy": curves.entropy, "reward": curves.reward}
    rows = pa.table({name: column_from(values[known].tolist(), pa.float64()) for name, values in columns.items()})
    return from_columns(rows, "entropy", "reward", "the responses"), "reward"


def _fit(found: RunLaw) -> str:
    law = found.law
    level = f"{100 * law.confidence:g} % intervals"
    a, b = (f"{number(low, 3)} to {number(high, 3)}" for low, high in (law.a_interval, law.b_interval))
    return (
        f"{formula(law)}; {level}: a {a}, b {b}; {law.points} points, rmse {number(law.rmse, 3)}, "
        f"r² {number(law.r2, 3)}."
    )


def _figure(points: Points, found: RunLaw | None, what: str) -> Figure:
    x = np.exp(np.array(points.entropy))
    data = _law(found, float(x.max())) if found else []
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"a {points.order_is}",
            "x": listed(x),
            "y": listed(points.performance),
            "customdata": [list(pair) for pair in zip(listed(points.order), listed(points.entropy), strict=True)],
            "marker": by_order(points.order, points.order_is.removeprefix("policy ")),
            "hovertemplate": f"{points.order_is} %{{customdata[0]}}<br>H %{{customdata[1]:.4g}} nats, {E_H} %{{x:.4g}}"
            f"<br>{what} %{{y:.4g}}<extra></extra>",
        }
    )
    layout = {
        "height": 430,
        "xaxis": axis(f"{E_H}  (H: mean entropy of a token, nats)"),
        "yaxis": axis(what),
    }
    return {"data": data, "layout": layout}


def _law(found: RunLaw, right: float) -> list[Figure]:
    """The line from H = 0 to the largest entropy, its band, and the ceiling."""
    law = found.law
    x = np.linspace(1.0, right + 0.02 * (right - 1), 60)
    half = law.line.half_width(x, law.confidence)
    level = f"{100 * law.confidence:g} %"
    low, high = law.ceiling_interval
    return [
        *band(listed(x), listed(law.line.at(x) - half), listed(law.line.at(x) + half), name=f"{level} confidence band"),
        {
            "type": "scatter",
            "mode": "lines",
            "name": formula(law).replace("e^H", E_H),
            "x": listed(x),
            "y": listed(law.line.at(x)),
            "line": {"color": "@ink", "width": 2},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"ceiling b − a = {number(law.ceiling, 3)}",
            "x": [1.0],
            "y": listed([law.ceiling]),
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": listed([high - law.ceiling]),
                "arrayminus": listed([law.ceiling - low]),
                "color": "@orange",
                "thickness": 2,
                "width": 6,
            },
            "marker": {"symbol": "diamond", "size": 12, "color": "@orange"},
            "hovertemplate": f"ceiling %{{y:.4g}}<br>{level} interval {low:.4g} to {high:.4g}<extra></extra>",
        },
    ]
