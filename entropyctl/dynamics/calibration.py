"""The step size on the logits at which predictions have the size of what then happened."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def calibration(history: dict[str, Array]) -> float | None:
    """How many times as large as predicted the entropy's changes were: a slope by least squares through the origin.

    slope = sum(predicted realised) / sum(predicted^2)

    Args:
        history: predicted_change (made with eta = learning_rate), realised_change and learning_rate of the steps so
            far, `[K]` each; steps where one of them is not finite are left out.

    Returns:
        The slope; None where the history has no such steps, or where it is not above 0.
    """
    predicted, realised, _ = _points(history)
    square = float(predicted @ predicted)
    slope = float(predicted @ realised) / square if square > 0 else 0.0
    return slope if slope > 0 else None


def latest_rate(history: dict[str, Array]) -> float | None:
    """The learning rate of the last step of a history that says what was predicted and what happened, or None."""
    rates = _points(history)[2]
    return float(rates[-1]) if len(rates) else None


def calibrated(history: dict[str, Array]) -> float:
    """The step size at which a run's predictions have the size of what then happened.

    eta = learning_rate sum(predicted realised) / sum(predicted^2); the learning rate itself where that slope is not
    above 0, and 1 where the history has no steps.

    Args:
        history: as `calibration` takes it; the last step is the latest.
    """
    return (latest_rate(history) or 1.0) * (calibration(history) or 1.0)


def _points(history: dict[str, Array]) -> Array:
    """`[3, K]` predicted, realised, learning rate of the steps where all three are finite."""
    names = ("predicted_change", "realised_change", "learning_rate")
    if not all(name in history for name in names):
        return np.empty((3, 0))
    points = np.stack([np.asarray(history[name], np.float64) for name in names])
    return points[:, np.isfinite(points).all(axis=0)]
