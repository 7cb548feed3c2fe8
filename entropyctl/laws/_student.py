"""Intervals from Student's t distribution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def student_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = confidence for a Student variable of `freedom` degrees, exactly."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def mean_interval(
    values: npt.NDArray[np.float64], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Mean of a sample, with Student's interval for the mean of the population that it was drawn from.

    mean +- t s / sqrt(m), s the unbiased deviation of the m values, t with m - 1 degrees of freedom.
    One value has no deviation, so its interval is None.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = student_quantile(confidence, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half
