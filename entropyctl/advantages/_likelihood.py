"""How likely a policy finds whole responses."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array


def log_likelihoods(logprobs_N: Array, row_N: Array, mask_N: Array, rows: int, *, mean: bool) -> Array:
    """`[B]` the sum of the counted tokens' log-probabilities, or their mean; 0 for a row without any."""
    mask_N = np.asarray(mask_N, bool)
    row_C = np.asarray(row_N, np.int64)[mask_N]
    sum_B = np.bincount(row_C, np.asarray(logprobs_N, np.float64)[mask_N], rows)
    return sum_B / np.maximum(np.bincount(row_C, minlength=rows), 1) if mean else sum_B
