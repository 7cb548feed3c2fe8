"""Predicted against realised change of the entropy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from entropyctl.errors import InputError
from entropyctl.laws.step_size import StepSize, fit_step_size
from entropyctl.metrics import history_of
from entropyctl.report.section import Figure, Section, absent, axis, band, by_order, listed, sentence
from entropyctl.show.law import remarks
from entropyctl.show.text import number
from entropyctl.table.rows import Rows

Floats = npt.NDArray[np.float64]
ID, NAME = "changes", "Forecast of the change"
TITLE = "Did the entropy move as predicted?"
LEAD = (
    "A point is a step. Predicted: the mean of −η w r A (S* − E[S]) over its tokens, with η the learning rate; "
    "realised: the entropy of the same tokens after the update less that before it. The theory moves each token's "
    "logits alone, so sign and order mean more than size; the slope of the line is what one η was worth."
)


def section(metrics: Sequence[Rows]) -> Section:
    """The section."""
    if not metrics:
        return absent(ID, NAME, TITLE, "metrics (`entropyctl update --metrics DIR`)")
    parts = [history_of(entry.rows, entry.path) for entry in metrics]
    history = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    known = np.isfinite(history["predicted_change"]) & np.isfinite(history["realised_change"])
    if not known.any():
        return absent(ID, NAME, TITLE, "metrics of steps whose rows have `s_star`, `expected_s` and `advantages`")
    history = {name: values[known] for name, values in history.items()}
    try:
        found = fit_step_size(history, path="these metrics")
    except InputError as error:
        agree = int((history["predicted_change"] * history["realised_change"] > 0).sum())
        title = f"Forecast and realised change had the same sign in {agree} of {known.sum()} steps"
        return Section(
            ID,
            NAME,
            title,
            LEAD,
            _figure(history, None),
            notes=[f"No line: {str(error).removeprefix('these metrics: ')}."],
        )
    title = f"Forecast and realised change had the same sign in {found.same_sign} of {found.steps} steps"
    return Section(
        ID, NAME, title, LEAD, _figure(history, found), notes=[_formula(found), *map(sentence, remarks(found))]
    )


def _formula(found: StepSize) -> str:
    low, high = found.slope_interval
    level = f"{100 * found.confidence:g} % interval"
    return (
        f"realised = {number(found.slope)} × predicted ({level} {number(low)} to {number(high)}): "
        f"η = {number(found.eta)} at a learning rate of {number(found.learning_rate)}."
    )


def _figure(history: dict[str, Floats], found: StepSize | None) -> Figure:
    predicted, realised = history["predicted_change"], history["realised_change"]
    data: list[Figure] = []
    if found is not None:
        ends = np.array([min(predicted.min(), 0.0), 0.0, max(predicted.max(), 0.0)])
        low, high = (ends * slope for slope in found.slope_interval)
        name = f"{100 * found.confidence:g} % interval of the slope"
        data += [
            *band(listed(ends), listed(np.minimum(low, high)), listed(np.maximum(low, high)), name=name),
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"realised = {number(found.slope, 3)} × predicted",
                "x": listed(ends),
                "y": listed(ends * found.slope),
                "line": {"color": "@ink", "width": 2, "dash": "dash"},
                "hoverinfo": "skip",
            },
        ]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "a step",
            "x": listed(predicted),
            "y": listed(realised),
            "customdata": listed(history["step"]),
            "marker": by_order(history["step"], "step"),
            "hovertemplate": "step %{customdata}<br>predicted %{x:.3g} nats<br>realised %{y:.3g} nats<extra></extra>",
        }
    )
    layout = {
        "height": 430,
        "xaxis": axis("predicted change of H, nats", zeroline=True),
        "yaxis": axis("realised change of H, nats", zeroline=True),
    }
    return {"data": data, "layout": layout}
