"""The binomial distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def binomial(n: int, p: float) -> npt.NDArray[Any]:
    """`[n+1]` the probabilities of 0 to n successes among n trials of probability p."""
    from scipy.special import gammaln, xlog1py, xlogy

    x = np.arange(n + 1)
    return np.exp(gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1) + xlogy(x, p) + xlog1py(n - x, -p))
