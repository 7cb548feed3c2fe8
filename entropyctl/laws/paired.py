"""Two policies on the same problems: the difference of their pass@k over all k at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.laws.pass_at_k import pass_curve, sampling_variance

Array = npt.NDArray[Any]

DRAWS = 4000


class PairedCurve(NamedTuple):
    """pass@k of B minus pass@k of A for k = 1 to K, with a band that holds for all of these k together."""

    problems: int
    confidence: float
    difference: Array  # [K]
    low: Array  # [K]; NaN where there is one problem alone
    high: Array  # [K]

    @property
    def better(self) -> list[tuple[int, int]]:
        """The ranges of k, both ends included, at which the band lies above 0: B is better."""
        return _ranges(self.low > 0)

    @property
    def worse(self) -> list[tuple[int, int]]:
        """The ranges of k at which the band lies below 0: B is worse."""
        return _ranges(self.high < 0)

    def verdict(self, a: str = "A", b: str = "B") -> str:
        """What the band shows, and no more: nothing is ever called equal."""
        if not np.isfinite(self.low).all():
            return "one problem shows nothing of others; compare on several"
        longest = len(self.difference)
        if not self.better and not self.worse:
            at = int(np.argmax(self.high - self.low))
            ends = f"{self.low[at]:+.3f} to {self.high[at]:+.3f}"
            return f"no difference is shown at any k up to {longest}; at k = {at + 1} anything from {ends} may be true"
        parts = [f"{b} is {word} than {a} at k = {_listed(found)}" for word, found in self._found() if found]
        decided = sum(last - first + 1 for first, last in [*self.better, *self.worse])
        return "; ".join(parts) + ("; undecided at the others" if decided < longest else "")

    def _found(self) -> list[tuple[str, list[tuple[int, int]]]]:
        return [("better", self.better), ("worse", self.worse)]


def paired_curve(n_a: Array, c_a: Array, n_b: Array, c_b: Array, confidence: float = 0.95) -> PairedCurve:
    """The mean over problems of pass@k(B) - pass@k(A), k = 1 to the smallest n, with a simultaneous band.

    Problems are the unit that is drawn; the same ones are put to both, so what makes a problem hard cancels. With
    d_i(k) the difference at problem i and se(k)^2 = max(S_k^2, V_k) / P as in `summarise`, the band is mean +- c se(k).
    c is the confidence-quantile of max_k |G(k)|, G a Gaussian process with the correlations of the d(k) (multiplier
    bootstrap with normal weights, Chernozhukov, Chetverikov and Kato, arXiv 1212.6906), drawn 4000 times with a fixed
    seed, and turned from a normal into a Student quantile of P - 1 degrees of freedom.

    Args:
        n_a: `[P]` responses of A to each problem.
        c_a: `[P]` correct ones among them.
        n_b: `[P]` responses of B to the same problems.
        c_b: `[P]` correct ones among them.
        confidence: that the whole curve lies within the band.
    """
    longest = int(min(np.min(n_a), np.min(n_b)))
    difference_PK = pass_curve(n_b, c_b, longest) - pass_curve(n_a, c_a, longest)
    mean_K, count = difference_PK.mean(axis=0), len(difference_PK)
    if count == 1:
        unknown = np.full(longest, np.nan)
        return PairedCurve(count, confidence, mean_K, unknown, unknown)
    noise_K = (sampling_variance(n_a, c_a, longest) + sampling_variance(n_b, c_b, longest)).mean(axis=0)
    centred_PK, between_K = difference_PK - mean_K, difference_PK.var(axis=0, ddof=1)
    half_K = _critical(centred_PK, confidence) * np.sqrt(np.maximum(between_K, noise_K) / count)
    return PairedCurve(count, confidence, mean_K, np.maximum(mean_K - half_K, -1.0), np.minimum(mean_K + half_K, 1.0))


def _critical(centred_PK: Array, confidence: float) -> float:
    """The c for which |mean - truth| <= c se holds at all k together."""
    from scipy.special import ndtr, stdtrit

    from entropyctl.laws._student import normal_quantile

    norm_K = np.sqrt((centred_PK**2).sum(axis=0))
    unit_PK = centred_PK[:, norm_K > 0] / norm_K[norm_K > 0]
    if unit_PK.shape[1]:
        weights = np.random.default_rng(0).standard_normal((DRAWS, len(unit_PK)))
        c = float(np.quantile(np.abs(weights @ unit_PK).max(axis=1), confidence))
    else:
        c = normal_quantile(confidence)
    return float(stdtrit(len(centred_PK) - 1, ndtr(c)))


def _ranges(holds_K: Array) -> list[tuple[int, int]]:
    """`[T, T, F, T]` as [(1, 2), (4, 4)]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds_K, [False]]).astype(np.int8)))
    return [(int(first) + 1, int(last)) for first, last in edges.reshape(-1, 2)]


def _listed(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges)
