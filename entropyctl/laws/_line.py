"""A straight line by least squares, with the exact intervals of normal theory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.laws._student import student_quantile

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


class Line(NamedTuple):
    """y = y_mean + slope (x - x_mean), through `points` points; needs more than two for an interval."""

    points: int
    x_mean: float
    y_mean: float
    slope: float
    Sxx: float
    sse: float

    def at(self, x: Floats | float) -> Floats:
        """The line's height at x."""
        return np.asarray(self.y_mean + self.slope * (np.asarray(x, np.float64) - self.x_mean))

    @property
    def error(self) -> float:
        """s, the deviation of the points from the line, with points - 2 degrees of freedom."""
        return (self.sse / (self.points - 2)) ** 0.5

    def half_width(self, x: Floats | float, confidence: float, *, new: bool = False) -> Floats:
        """Half the interval at x: t s sqrt(1/m + (x - x_mean)^2 / Sxx), with 1 more in the root for a new point.

        Args:
            x: where.
            confidence: level, of Student's t with points - 2 degrees of freedom.
            new: for one further point at x, not for the line itself.
        """
        spread = 1 / self.points + (np.asarray(x, np.float64) - self.x_mean) ** 2 / self.Sxx
        return np.asarray(student_quantile(confidence, self.points - 2) * self.error * np.sqrt(spread + new))

    def interval(self, x: float, confidence: float, *, new: bool = False) -> Interval:
        """The interval at one x, as `half_width` has it."""
        value, half = float(self.at(x)), float(self.half_width(x, confidence, new=new))
        return value - half, value + half

    def slope_interval(self, confidence: float) -> Interval:
        """slope +- t s / sqrt(Sxx)."""
        half = student_quantile(confidence, self.points - 2) * self.error / self.Sxx**0.5
        return self.slope - half, self.slope + half


def fit_line(x_m: Floats, y_m: Floats) -> Line:
    """The line with the least sum of squares; the x must not all be equal."""
    x_mean, y_mean = float(x_m.mean()), float(y_m.mean())
    d_m = x_m - x_mean
    Sxx = float(d_m @ d_m)
    slope = float(d_m @ (y_m - y_mean)) / Sxx
    residual_m = y_m - y_mean - slope * d_m
    return Line(len(x_m), x_mean, y_mean, slope, Sxx, float(residual_m @ residual_m))
