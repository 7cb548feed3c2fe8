"""The step size on the logits that a run's updates really had."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.dynamics import calibration
from entropyctl.errors import InputError
from entropyctl.laws._line import Interval, fit_line
from entropyctl.laws._student import student_quantile


class StepSize(NamedTuple):
    """realised = slope x predicted, where predicted was made with eta = learning rate."""

    steps: int
    slope: float
    slope_interval: Interval
    eta: float
    learning_rate: float
    residual_error: float
    explained: float
    same_sign: int
    same_sign_p: float
    offset: float | None
    offset_interval: Interval | None
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self._asdict()
        for name in ("slope", "offset"):
            low, high = found.pop(f"{name}_interval") or (None, None)
            found |= {f"{name}_low": low, f"{name}_high": high}
        return found


def fit_step_size(
    history: dict[str, npt.NDArray[Any]], *, confidence: float = 0.95, path: str = "the metrics"
) -> StepSize:
    """Fit the effective step size from the predicted and the realised changes of the entropy.

    slope = sum(predicted realised) / sum(predicted^2);  eta = slope x learning rate

    The theory (2602.03392, Theorem 3.3) moves each token's logits alone, with an eta that it leaves open; a network
    shares its parameters and AdamW rescales them, so this slope is measured. It is the one that `forecast --history`
    and `mask budget` calibrate with. `offset` is the constant of a line that need not pass through the origin: a
    change that comes without being predicted. Intervals are Student's, with m - 1 and m - 2 degrees of freedom.

    Args:
        history: predicted_change, realised_change, learning_rate of the steps; those where one of them is not
            finite, or nothing was predicted (0), are left out.
        confidence: level of the intervals.
        path: for messages.

    Raises:
        InputError: fewer than three such steps, or the realised changes do not follow the predicted ones.
    """
    from scipy.special import bdtrc

    columns = (history[name] for name in ("predicted_change", "realised_change", "learning_rate"))
    table = np.stack([np.asarray(values, np.float64) for values in columns])
    p_m, r_m, rate_m = table[:, np.isfinite(table).all(axis=0) & (table[0] != 0)]
    count = len(p_m)
    if count < 3:
        raise InputError(
            f"{path}: {count} step(s) with a predicted and a realised change; a step size needs at least three"
        )
    square = float(p_m @ p_m)
    raw = float(p_m @ r_m) / square
    error = (float(((r_m - raw * p_m) ** 2).sum()) / (count - 1)) ** 0.5
    half = student_quantile(confidence, count - 1) * error / square**0.5
    slope = calibration({"predicted_change": p_m, "realised_change": r_m, "learning_rate": rate_m})
    if slope is None:
        raise InputError(
            f"{path}: the realised changes of the entropy do not follow the predicted ones: slope {raw:.4g} "
            f"({100 * confidence:g} % interval {raw - half:.4g} to {raw + half:.4g}) over {count} steps; "
            "there is no step size in them"
        )
    line = fit_line(p_m, r_m) if np.ptp(p_m) > 0 else None
    agree, moved = int((p_m * r_m > 0).sum()), int((r_m != 0).sum())
    return StepSize(
        steps=count,
        slope=slope,
        slope_interval=(slope - half, slope + half),
        eta=slope * float(rate_m[-1]),
        learning_rate=float(rate_m[-1]),
        residual_error=error,
        explained=1 - float(((r_m - slope * p_m) ** 2).sum()) / float(r_m @ r_m),
        same_sign=agree,
        same_sign_p=float(bdtrc(agree - 1, moved, 0.5)) if agree else 1.0,
        offset=None if line is None else float(line.at(0.0)),
        offset_interval=None if line is None else line.interval(0.0, confidence),
        confidence=confidence,
    )
