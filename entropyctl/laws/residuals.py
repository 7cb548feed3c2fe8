"""What the residuals of a fitted law say against it: curvature, dependence, outliers, and points that carry it alone.

`m` points in the order in which they were measured, x = e^H, R performance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.laws._line import Line, fit_line

Floats = npt.NDArray[np.float64]

# Residuals below this share of the performances are rounding, of which nothing follows.
ROUNDING = 1e-10
# Beyond this many points the Durbin-Watson statistic is as good as normal, and its eigenvalues are dear.
MANY = 600


class Diagnostics(NamedTuple):
    """P-values are null, None, where there are too few points, or residuals of rounding alone."""

    durbin_watson: float | None
    dependence_p: float | None
    curvature_p: float | None
    outlier: int | None
    outlier_p: float | None
    ceiling_without: tuple[float, float] | None
    ceiling_mover: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `outlier` and `ceiling_mover` are places in the list of points, from 0."""
        low, high = self.ceiling_without or (None, None)
        found = self._asdict()
        del found["ceiling_without"]
        return found | {"ceiling_without_low": low, "ceiling_without_high": high}


def diagnose(entropy: Floats, performance: Floats, line: Line) -> Diagnostics:
    """Look at the residuals of the line through (e^H, R).

    durbin_watson: sum (e_i - e_{i-1})^2 / sum e_i^2, near 2 for independent residuals and near 0 where each is like
        the one before; dependence_p is P(it is that small or smaller | independent normal residuals).
    curvature_p: two-sided t test of a term in x^2, exact with m - 3 degrees of freedom.
    outlier: the point of the largest externally studentised residual; its p is Bonferroni's over the m points,
        exact t with m - 3 degrees of freedom.
    ceiling_without: the lowest and the highest ceiling when any one point is left out; `ceiling_mover` is the point
        that moves it most.

    Args:
        entropy: `[m]` H, nats, in the order in which they were measured.
        performance: `[m]` R.
        line: fitted to them.
    """
    x_m, R_m = np.exp(np.asarray(entropy, np.float64)), np.asarray(performance, np.float64)
    e_m = R_m - line.at(x_m)
    left_m = 1 - 1 / line.points - (x_m - line.x_mean) ** 2 / line.Sxx  # 1 - leverage
    low, high, mover = _without_one(x_m, e_m, left_m, line)
    without = None if mover is None else (low, high)
    if line.points < 4 or line.sse <= (ROUNDING * np.abs(R_m).max()) ** 2:
        return Diagnostics(None, None, None, None, None, without, mover)
    watson = float((np.diff(e_m) ** 2).sum() / line.sse)
    outlier, outlier_p = _outlier(e_m, left_m, line)
    return Diagnostics(watson, _dependence(watson, x_m), _curvature(x_m, e_m), outlier, outlier_p, without, mover)


def _without_one(x_m: Floats, e_m: Floats, left_m: Floats, line: Line) -> tuple[float, float, int | None]:
    """Lowest and highest ceiling without one of the points, and the point that moves it most."""
    movable = np.flatnonzero(left_m > 1e-9)  # without a point of leverage 1 there is no line
    if not len(movable):
        return 0.0, 0.0, None
    # Leaving out point i takes (1/m + (1 - mean)(x_i - mean)/Sxx) e_i / (1 - leverage_i) from the height at x = 1.
    pull_m = (1 / line.points + (1 - line.x_mean) * (x_m - line.x_mean) / line.Sxx)[movable] * e_m[movable]
    change_m = -pull_m / left_m[movable]
    ceiling = float(line.at(1.0))
    mover = int(movable[np.abs(change_m).argmax()])
    return ceiling + float(change_m.min()), ceiling + float(change_m.max()), mover


def _outlier(e_m: Floats, left_m: Floats, line: Line) -> tuple[int | None, float | None]:
    from scipy.special import stdtr

    freedom = line.points - 3
    with np.errstate(divide="ignore", invalid="ignore"):
        rest_m = np.maximum(line.sse - e_m**2 / left_m, 0)  # the sum of squares without the point
        t_m = np.abs(e_m) / np.sqrt(rest_m / freedom * left_m)
    t_m[left_m <= 1e-9] = 0.0
    worst = int(np.nan_to_num(t_m).argmax())
    return worst, min(1.0, float(2 * line.points * stdtr(freedom, -t_m[worst])))


def _curvature(x_m: Floats, e_m: Floats) -> float | None:
    """P-value of a quadratic term: what of x^2 the line cannot say, against the residuals."""
    from scipy.special import stdtr

    square_m = (x_m - x_m.mean()) ** 2
    bend_m = square_m - fit_line(x_m, square_m).at(x_m)
    size, freedom = float(bend_m @ bend_m), len(x_m) - 3
    if size <= (ROUNDING * float(square_m.max())) ** 2:
        return None  # two different entropies: any curve goes through
    along = float(bend_m @ e_m) ** 2 / size
    rest = max(float(e_m @ e_m) - along, 0.0)
    return 0.0 if rest == 0 else float(2 * stdtr(freedom, -((along / (rest / freedom)) ** 0.5)))


def _dependence(watson: float, x_m: Floats) -> float:
    """P(Durbin-Watson statistic <= this) for independent normal residuals of a line in x, in its order.

    The statistic is a ratio of quadratic forms in normal variables, so this is P(sum_i (l_i - d) z_i^2 <= 0), by
    Imhof's integral (Biometrika 48, 1961) over the eigenvalues l of the differences within the space of residuals.
    """
    from scipy.special import ndtr

    count = len(x_m)
    if count > MANY:
        return float(ndtr((watson - 2) * count**0.5 / 2))
    from scipy.integrate import quad

    basis = np.linalg.qr(np.stack([np.ones(count), x_m - x_m.mean()], axis=1), mode="complete")[0][:, 2:]
    step = np.diff(basis, axis=0)
    weights = np.linalg.eigvalsh(step.T @ step) - watson

    def integrand(u: float) -> float:
        angle = 0.5 * np.arctan(weights * u).sum()
        return float(np.sin(angle) / u * np.exp(-0.25 * np.log1p((weights * u) ** 2).sum()))

    # Two pieces: the integral's tail falls only as a power of u where there are few points.
    # full_output keeps quad from warning that it stopped at its limit, some 1e-6 from the truth.
    total = sum(quad(integrand, *ends, limit=200, full_output=1)[0] for ends in ((0, 1), (1, np.inf)))
    return min(1.0, max(0.0, 0.5 - total / np.pi))
