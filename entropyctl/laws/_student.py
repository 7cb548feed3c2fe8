"""Quantiles of the distributions that intervals are made from."""

from __future__ import annotations


def student_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = confidence for a Student variable of `freedom` degrees, exactly."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def normal_quantile(confidence: float) -> float:
    """The z with P(|Z| <= z) = confidence for a standard normal variable."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))
