"""The mathematics of entropy under a policy update: S*, E[S], dH. Pure functions on numpy arrays."""

from entropyctl.dynamics.calibration import calibrated, calibration, latest_rate
from entropyctl.dynamics.change import predicted_change
from entropyctl.dynamics.discriminator import centred_score, expected_score, s_star
from entropyctl.dynamics.distribution import TokenStatistics, token_statistics
from entropyctl.dynamics.mismatch import Mismatch, mismatch, mismatch_sums

__all__ = [
    "Mismatch",
    "TokenStatistics",
    "calibrated",
    "calibration",
    "centred_score",
    "expected_score",
    "latest_rate",
    "mismatch",
    "mismatch_sums",
    "predicted_change",
    "s_star",
    "token_statistics",
]
