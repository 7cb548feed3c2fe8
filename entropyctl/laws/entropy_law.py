"""The law between entropy and performance, R = -a e^H + b, by least squares (2505.22617)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropyctl.errors import InputError
from entropyctl.laws._line import Interval, Line, fit_line

Floats = npt.NDArray[np.float64]

# No vocabulary has as many tokens as e^30: an "entropy" above it was not measured in nats per token.
LARGEST_ENTROPY = 30.0
# Entropies that differ by no more than rounding are one entropy.
SAME = 1e-9


@dataclass(frozen=True)
class LawFit:
    """A fitted law and its exact intervals."""

    a: float
    b: float
    ceiling: float
    a_interval: Interval
    b_interval: Interval
    ceiling_interval: Interval
    confidence: float
    points: int
    rmse: float
    r2: float
    line: Line

    def as_row(self) -> dict[str, float | int | None]:
        """The row of a `laws` table."""
        row: dict[str, float | int | None] = {}
        for name in ("a", "b", "ceiling"):
            low, high = getattr(self, f"{name}_interval")
            row |= {name: getattr(self, name), f"{name}_low": low, f"{name}_high": high}
        row |= {"confidence": self.confidence, "points": self.points, "rmse": self.rmse, "r2": self.r2}
        return row | {"residual_error": self.line.error}

    def predict(self, entropy: Floats) -> Floats:
        """R at these entropies."""
        return self.line.at(np.exp(entropy))

    def prediction_interval(self, entropy: Floats) -> tuple[Floats, Floats]:
        """Where R of one further measurement at each of these entropies lies, at the law's confidence."""
        x = np.exp(entropy)
        half = self.line.half_width(x, self.confidence, new=True)
        return self.line.at(x) - half, self.line.at(x) + half


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
        InputError: the points carry no law: fewer than three, of one entropy, of a performance that does not fall
            with e^H (a <= 0), or with a number that is no entropy or not finite.
    """
    H_m, R_m = checked(entropy, performance, path)
    line = fit_line(np.exp(H_m), R_m)
    total = float(((R_m - line.y_mean) ** 2).sum())
    low, high = line.slope_interval(confidence)
    # A performance that never varies has a slope of nothing but rounding.
    if not line.slope < 0 or total <= (SAME * abs(line.y_mean)) ** 2 * len(R_m):
        raise InputError(
            f"{path}: performance does not fall as e^H grows: a = {-line.slope:.4g} ({100 * confidence:g} % interval "
            f"{-high:.4g} to {-low:.4g}) over {len(H_m)} points, and the law needs a > 0; "
            "check the two columns, or come back with points in which the entropy falls and the performance rises"
        )
    return LawFit(
        a=-line.slope,
        b=float(line.at(0.0)),
        ceiling=float(line.at(1.0)),
        a_interval=(-high, -low),
        b_interval=line.interval(0.0, confidence),
        ceiling_interval=line.interval(1.0, confidence),
        confidence=confidence,
        points=line.points,
        rmse=(line.sse / line.points) ** 0.5,
        r2=1 - line.sse / total,
        line=line,
    )


def checked(
    entropy: Sequence[float] | Floats, performance: Sequence[float] | Floats, path: str
) -> tuple[Floats, Floats]:
    """Entropies and performances as arrays that a line can be laid through.

    Raises:
        InputError: as `fit_law`, but for the slope.
    """
    H_m, R_m = np.asarray(entropy, np.float64), np.asarray(performance, np.float64)
    if H_m.shape != R_m.shape or H_m.ndim != 1:
        raise ValueError(f"entropies {H_m.shape} and performances {R_m.shape} must be two lists of one length")
    odd = np.flatnonzero(~np.isfinite(R_m) | ~np.isfinite(H_m))
    if len(odd):
        i = odd[0]
        raise InputError(f"{path}: point {i + 1} is (H {H_m[i]}, R {R_m[i]}); leave out what is not a finite number")
    odd = np.flatnonzero((H_m < -SAME) | (H_m > LARGEST_ENTROPY))
    if len(odd):
        i = odd[0]
        raise InputError(
            f"{path}: point {i + 1} has H = {H_m[i]:g}, which is no entropy: it must be in nats per token, at least 0 "
            "and at most the logarithm of the vocabulary; name the right column"
        )
    if len(H_m) < 3:
        raise InputError(
            f"{path}: {len(H_m)} point(s) of entropy and performance; a law needs at least three, because two are "
            "always fitted exactly and say nothing of it; add points"
        )
    if np.ptp(np.exp(H_m)) <= SAME * np.exp(H_m.max()):
        raise InputError(
            f"{path}: all {len(H_m)} points have the entropy {H_m[0]:g}; a law needs at least two different ones"
        )
    return H_m, R_m
