"""A section of the page: what it says in a sentence, how to read it, and its figure.

Figures are plotly's, as plain values. A colour in them is the name of a role ("@blue"), which the page replaces by the
colour that the role has in its theme.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.show.text import number, shorten

Figure = dict[str, Any]

# Over so few steps each has a tick of its own.
FEW = 12
# From so many steps on a curve is drawn by its running mean over a tenth of them.
MANY = 40
# From the earliest to the latest of several of one kind.
SEQUENCE = ("@seq1", "@seq2", "@seq3", "@seq4", "@seq5", "@seq6")


class Table(NamedTuple):
    """Cells under titles; the columns named in `text` are text, all others numbers."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[str] = ()


class Section(NamedTuple):
    """What the page shows under a heading."""

    id: str
    name: str  # a word or two, for the list of contents
    title: str
    lead: str = ""
    figure: Figure | None = None
    table: Table | None = None
    notes: Sequence[str] = ()
    missing: str | None = None  # what would bring it, where there is nothing to show


def absent(id: str, name: str, title: str, missing: str) -> Section:
    """A section for which there are no data."""
    return Section(id, name, title, missing=missing)


def plain(text: str, longest: int = 40) -> str:
    """Words of data for a figure: plotly reads tags and entities in its texts."""
    return html.escape(shorten(text, longest), quote=False)


def listed(values: Iterable[Any] | npt.NDArray[Any]) -> list[float | None]:
    """Numbers for a figure, six digits of each; None where there is none."""
    found = np.array([np.nan if value is None else value for value in values], np.float64)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in found]


def axis(title: str, **more: Any) -> Figure:
    """An axis with its title."""
    return {"title": {"text": title}, **more}


def steps_axis(title: str, steps: Sequence[float] | npt.NDArray[Any], **more: Any) -> Figure:
    """An axis of whole numbers."""
    return axis(title, tickformat="d", **({"dtick": 1} if np.ptp(steps) <= FEW else {}), **more)


def by_order(order: Sequence[float] | npt.NDArray[Any], title: str) -> Figure:
    """A marker whose colour says which point comes when: step, or policy version."""
    bar = {"title": {"text": title}, "thickness": 10, "outlinewidth": 0, "x": 1.01, "xpad": 4}
    bar |= {"tickformat": "d", "ticklabelposition": "outside bottom"}
    if np.ptp(order) <= FEW:
        bar["dtick"] = 1
    return {
        "size": 10,
        "color": listed(order),
        "colorscale": "@sequence",
        "line": {"color": "@surface", "width": 1},
        "colorbar": bar,
        "showscale": len(order) > 1,
    }


def course(
    name: str,
    x: Any,
    y: npt.NDArray[Any],
    *,
    color: str,
    hover: str,
    dash: str = "solid",
    symbol: str = "circle",
    **more: Any,
) -> list[Figure]:
    """A quantity from step to step; of many steps the single ones stand back behind their running mean.

    Args:
        name: for the legend and the table of numbers.
        x: the steps.
        y: NaN where it is not known.
        color: a role.
        hover: what is said of a point, as plotly's template.
        dash: of the line.
        symbol: of the points.
        more: fields of both traces.
    """
    base = {
        "type": "scatter",
        "x": listed(x),
        "line": {"color": color, "width": 2.5, "dash": dash},
        "hovertemplate": hover,
    }
    marker = {"color": color, "size": 8, "symbol": symbol}
    if len(y) < MANY:
        return [{**base, "name": name, "mode": "lines+markers", "y": listed(y), "marker": marker, **more}]
    width = len(y) // 20
    single = {"line": {"color": color, "width": 1}, "opacity": 0.4, "mode": "lines", **more, "showlegend": False}
    mean = {"name": f"{name}, mean of {2 * width + 1} steps", "mode": "lines", "y": listed(_smooth(y, width)), **more}
    return [{**base, "name": name, "y": listed(y), **single}, {**base, **mean}]


def _smooth(values: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """Means over `width` values to either side, as many as are known."""
    known = ~np.isnan(values)
    window = np.ones(2 * width + 1)
    total, count = (
        np.convolve(part, window)[width : width + len(values)]
        for part in (np.where(known, values, 0.0), known.astype(float))
    )
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], color: str = "@band", **name: Any) -> list[Figure]:
    """The area between two lines, with a name for the legend or without."""
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": color, "showlegend": bool(name), **name}
    return [{**edge, "y": low, "showlegend": False}, {**edge, "y": high, **fill}]


def moved(first: float, last: float, unit: str = "") -> str:
    """`fell from 1.2 to 0.4 nats`."""
    ends = [number(float(value), 3) for value in (first, last)]
    if ends[0] == ends[1]:
        return f"stayed at {ends[0]}{unit}"
    return f"{'rose' if last > first else 'fell'} from {ends[0]} to {ends[1]}{unit}"


def sentence(line: str) -> str:
    """A line that begins with a capital."""
    return line[:1].upper() + line[1:]


def share(part: float) -> str:
    """`4.8 %`."""
    return f"{100 * part:.3g} %"


def spread_over(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to count - 1 in equal distances, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()}) if count else []
