"""How a, b and the ceiling grow with the size of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from entropyctl.errors import InputError
from entropyctl.laws._line import Interval, Line, fit_line

COEFFICIENTS = ("a", "b", "ceiling")


class Scaling(NamedTuple):
    """A straight line in ln N for each coefficient of the law."""

    a: Line
    b: Line
    ceiling: Line
    confidence: float

    def predict(self, size: float) -> dict[str, tuple[float, Interval]]:
        """Each coefficient of one further model of this size, with its prediction interval.

        Args:
            size: N, billions of non-embedding parameters.
        """
        z = float(np.log(size))
        lines = {name: getattr(self, name) for name in COEFFICIENTS}
        return {n: (float(line.at(z)), line.interval(z, self.confidence, new=True)) for n, line in lines.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: each coefficient is intercept + slope ln N."""
        found = {}
        for name in COEFFICIENTS:
            line: Line = getattr(self, name)
            low, high = line.slope_interval(self.confidence)
            found[name] = {
                "intercept": float(line.at(0.0)),
                "slope": line.slope,
                "slope_low": low,
                "slope_high": high,
                "residual_error": line.error,
            }
        return found


def fit_scaling(
    sizes: Sequence[float], a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95, path: str = "the runs"
) -> Scaling:
    """Fit a and b, and with them the ceiling b - a, as straight lines in the logarithm of the model's size.

    a = a_0 + a_1 ln N,  b = b_0 + b_1 ln N,  N non-embedding parameters in billions (2505.22617, section 2.4)

    Least squares in which every model counts the same; Student's intervals with as many degrees of freedom as models
    less two hold what the models differ by and what their coefficients are uncertain by together.

    Args:
        sizes: `[r]` N.
        a: `[r]` a of each model's law.
        b: `[r]` b of each model's law.
        confidence: level of the intervals.
        path: for messages.

    Raises:
        InputError: fewer than three different sizes, or one that is not above 0.
    """
    N_r, a_r, b_r = (np.asarray(values, np.float64) for values in (sizes, a, b))
    if not (np.isfinite(N_r) & (N_r > 0)).all():
        raise InputError(f"{path}: sizes are {', '.join(f'{n:g}' for n in N_r)}; each must be above 0")
    if len(set(N_r.tolist())) < 3:
        raise InputError(
            f"{path}: {len(set(N_r.tolist()))} different size(s); a line in ln(size) with an interval needs at least "
            "three; add models of other sizes"
        )
    z_r = np.log(N_r)
    return Scaling(fit_line(z_r, a_r), fit_line(z_r, b_r), fit_line(z_r, b_r - a_r), confidence)
