"""The law between entropy and performance, R = -a e^H + b, by least squares (2505.22617)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropyctl.errors import InputError
from entropyctl.laws._student import student_quantile

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class LawFit:
    """A fitted law. An interval is None where there is no residual to judge it by: two points, or none to spare."""

    a: float
    b: float
    ceiling: float
    a_interval: Interval
    b_interval: Interval
    ceiling_interval: Interval
    confidence: float
    points: int
    rmse: float
    r2: float | None

    def as_row(self) -> dict[str, float | int | None]:
        """The row of a `laws` table."""
        row: dict[str, float | int | None] = {}
        for name in ("a", "b", "ceiling"):
            low, high = getattr(self, f"{name}_interval") or (None, None)
            row |= {name: getattr(self, name), f"{name}_low": low, f"{name}_high": high}
        return row | {"confidence": self.confidence, "points": self.points, "rmse": self.rmse, "r2": self.r2}

    def predict(self, entropy: Floats) -> Floats:
        """R at these entropies."""
        return self.b - self.a * np.exp(entropy)


def fit_law(
    entropy: Sequence[float] | Floats,
    performance: Sequence[float] | Floats,
    *,
    confidence: float = 0.95,
    path: str = "the input",
) -> LawFit:
    """Fit the law between policy entropy and performance by ordinary least squares.

    R = -a e^H + b;  with x = e^H:  a = -Sxy / Sxx,  b = mean(R) + a mean(x);  ceiling R(H = 0) = b - a.

    Paper: The Entropy Mechanism of RL for Reasoning Language Models, arXiv 2505.22617 (its fitting code is not
    published; the model is linear in x, so this is exact and needs no initial guess). Intervals are Student's with
    m - 2 degrees of freedom, exact when residuals are independent, normal and of equal variance; entropies are
    taken as free of error. The paper's H is the mean over responses of their token means on training rollouts at
    temperature 1; pass entropies measured in one way throughout.

    Args:
        entropy: `[m]` H, nats.
        performance: `[m]` R, for example pass@1 as a fraction.
        confidence: level of the intervals.
        path: where the points came from, for messages.

    Raises:
        InputError: fewer than two points or than two different entropies, or a number that is not finite.
    """
    H_m, R_m = np.asarray(entropy, np.float64), np.asarray(performance, np.float64)
    _check(H_m, R_m, path)
    x_m, count = np.exp(H_m), len(H_m)
    x_mean, R_mean = float(x_m.mean()), float(R_m.mean())
    Sxx = float(((x_m - x_mean) ** 2).sum())
    slope = float(((x_m - x_mean) * (R_m - R_mean)).sum()) / Sxx
    residual_m = R_m - (R_mean + slope * (x_m - x_mean))
    sse, total = float((residual_m**2).sum()), float(((R_m - R_mean) ** 2).sum())
    a, b, ceiling = -slope, R_mean - slope * x_mean, R_mean + slope * (1 - x_mean)

    def interval(value: float, variance: float) -> Interval:
        if count == 2:
            return None
        half = student_quantile(confidence, count - 2) * (variance * sse / (count - 2)) ** 0.5
        return value - half, value + half

    return LawFit(
        a,
        b,
        ceiling,
        a_interval=interval(a, 1 / Sxx),
        b_interval=interval(b, 1 / count + x_mean**2 / Sxx),
        ceiling_interval=interval(ceiling, 1 / count + (1 - x_mean) ** 2 / Sxx),
        confidence=confidence,
        points=count,
        rmse=(sse / count) ** 0.5,
        r2=1 - sse / total if total > 0 else None,
    )


def _check(H_m: Floats, R_m: Floats, path: str) -> None:
    if H_m.shape != R_m.shape or H_m.ndim != 1:
        raise ValueError(f"entropies {H_m.shape} and performances {R_m.shape} must be two lists of one length")
    if len(H_m) < 2:
        raise InputError(f"{path}: {len(H_m)} point(s) of entropy and performance; a law needs at least two")
    odd = np.flatnonzero(~np.isfinite(R_m) | ~np.isfinite(H_m) | (H_m > 700))
    if len(odd):
        i = odd[0]
        raise InputError(f"{path}: point {i + 1} is (H {H_m[i]}, R {R_m[i]}); leave out what is not a finite number")
    if np.ptp(np.exp(H_m)) == 0:
        raise InputError(
            f"{path}: all {len(H_m)} points have the entropy {H_m[0]}; a law needs at least two different ones"
        )
