"""Do several runs lie on one curve?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from entropyctl.errors import InputError
from entropyctl.laws._line import Floats, fit_line
from entropyctl.laws.entropy_law import LawFit, checked, fit_law

# Residuals that are this small a share of the performances are rounding: no test has anything to measure by.
ROUNDING = 1e-10


class FTest(NamedTuple):
    """F of a hypothesis against a law of its own for each run; p = P(F or larger | the hypothesis)."""

    F: float | None
    freedom: tuple[int, int]
    p: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"F": self.F, "freedom": list(self.freedom), "p": self.p}


class SharedCurve(NamedTuple):
    """The law through all points together, None where they carry none, and what the runs say against it."""

    pooled: LawFit | None
    one_curve: FTest
    one_slope: FTest


def shared_curve(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, confidence: float = 0.95
) -> SharedCurve:
    """Test whether r runs share one law (the same a and b), and whether they share a alone.

    F = [(SSE_together - SSE_apart) / q] / [SSE_apart / (M - 2r)],  q = 2(r - 1) for one curve, r - 1 for one a

    Exact under normal residuals that are independent and of one variance in all runs. For one model the paper finds
    one curve under GRPO, RLOO and PRIME (2505.22617, section 2.4).

    Args:
        runs: name to (entropies, performances), at least two.
        confidence: level of the pooled law's intervals.

    Raises:
        InputError: the points of a run carry no line.
    """
    arrays = {name: checked(H, R, f"run {name}") for name, (H, R) in runs.items()}
    if len(arrays) < 2:
        raise ValueError("one run shares its curve with nobody; give at least two")
    lines = [fit_line(np.exp(H), R) for H, R in arrays.values()]
    H_M, R_M = (np.concatenate(parts) for parts in zip(*arrays.values(), strict=True))
    apart = sum(line.sse for line in lines)
    spread = sum(line.Sxx for line in lines)
    slope = sum(line.slope * line.Sxx for line in lines) / spread
    parallel = apart + sum((line.slope - slope) ** 2 * line.Sxx for line in lines)
    free = len(R_M) - 2 * len(lines)
    together = fit_line(np.exp(H_M), R_M).sse
    return SharedCurve(
        pooled=_pooled(H_M, R_M, confidence),
        one_curve=_f_test(together, apart, 2 * (len(lines) - 1), free, R_M),
        one_slope=_f_test(parallel, apart, len(lines) - 1, free, R_M),
    )


def _pooled(H_M: Floats, R_M: Floats, confidence: float) -> LawFit | None:
    """A large model may have more entropy and more success than a small one, so that all together rise."""
    try:
        return fit_law(H_M, R_M, confidence=confidence)
    except InputError:
        return None


def _f_test(restricted: float, full: float, constraints: int, free: int, R_M: Floats) -> FTest:
    from scipy.special import fdtrc

    if full <= (ROUNDING * float(np.abs(R_M).max())) ** 2:
        return FTest(None, (constraints, free), None)
    F = max(0.0, restricted - full) / constraints / (full / free)
    return FTest(F, (constraints, free), float(fdtrc(constraints, free, F)))
