"""Everything that is fitted to one run, or to several, as one object for JSON, tables and people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from entropyctl.laws.early import Prediction, predict_rest
from entropyctl.laws.entropy_law import LawFit, fit_law
from entropyctl.laws.points import Points
from entropyctl.laws.residuals import Diagnostics, diagnose
from entropyctl.laws.scaling import Scaling, fit_scaling
from entropyctl.laws.shared_curve import SharedCurve, shared_curve


class RunLaw(NamedTuple):
    """The law of one run, what its residuals say, and how it predicted the points that it was not fitted to."""

    law: LawFit
    diagnostics: Diagnostics
    prediction: Prediction | None
    points: Points

    def as_row(self, run: str | None = None, size: float | None = None) -> dict[str, Any]:
        """The row of a `laws` table."""
        ahead = self.prediction
        row: dict[str, Any] = {"run": run, "size": size, "until": ahead.until if ahead else None}
        row |= {"predicted_points": ahead.points if ahead else None, "prediction_rmse": ahead.rmse if ahead else None}
        return self.law.as_row() | row

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.law.as_row() | {
            "entropy": self.points.entropy,
            "performance": self.points.performance,
            self.points.order_is.replace(" ", "_"): self.points.order,
            "diagnostics": self.diagnostics.as_dict(),
            "prediction": self.prediction.as_dict() if self.prediction else None,
        }


class SeveralLaws(NamedTuple):
    """The laws of several runs, whether they are one, and how they grow with the size of the model."""

    runs: dict[str, RunLaw]
    shared: SharedCurve
    sizes: dict[str, float]
    scaling: Scaling | None
    predicted_sizes: Sequence[float]

    def as_rows(self) -> list[dict[str, Any]]:
        """The rows of a `laws` table."""
        return [run.as_row(name, self.sizes.get(name)) for name, run in self.runs.items()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "runs": {name: {"size": self.sizes.get(name), **run.as_dict()} for name, run in self.runs.items()},
            "one_curve": self.shared.one_curve.as_dict(),
            "one_slope": self.shared.one_slope.as_dict(),
            "together": self.shared.pooled.as_row() if self.shared.pooled else None,
            "scaling": self.scaling.as_dict() if self.scaling else None,
            "predicted": [],
        }
        for size in self.predicted_sizes if self.scaling else ():
            row: dict[str, Any] = {"size": size}
            for name, (value, (low, high)) in self.scaling.predict(size).items() if self.scaling else ():
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            found["predicted"].append(row)
        return found


def law_of(points: Points, *, until: str | None = None, confidence: float = 0.95, path: str = "the input") -> RunLaw:
    """Fit the law to a run's points, or to those up to a step, and look at what is left.

    Raises:
        InputError: they carry no law.
        UsageError: `until` is neither a step nor a share.
    """
    H, R, prediction = points.entropy, points.performance, None
    if until is None:
        law = fit_law(H, R, confidence=confidence, path=path)
    else:
        law, prediction = predict_rest(H, R, points.order, until, confidence=confidence, path=path)
    H_m, R_m = np.asarray(H)[: law.points], np.asarray(R)[: law.points]  # points stand in the order of their steps
    return RunLaw(law, diagnose(H_m, R_m, law.line), prediction, points)


def laws_of(
    runs: Mapping[str, Points],
    sizes: Mapping[str, float],
    predicted_sizes: Sequence[float],
    *,
    confidence: float = 0.95,
) -> SeveralLaws:
    """Fit a law to each run, and one to all; with sizes, fit how the coefficients grow with them.

    Raises:
        InputError: the points of a run carry no law, or the sizes no line.
    """
    fitted = {name: law_of(points, confidence=confidence, path=f"run {name}") for name, points in runs.items()}
    shared = shared_curve({name: (p.entropy, p.performance) for name, p in runs.items()}, confidence=confidence)
    scaling = None
    if sizes:
        laws = [fitted[name].law for name in sizes]
        scaling = fit_scaling(
            list(sizes.values()), [law.a for law in laws], [law.b for law in laws], confidence=confidence
        )
    return SeveralLaws(fitted, shared, dict(sizes), scaling, list(predicted_sizes))
