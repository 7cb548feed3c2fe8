"""How far the engine that sampled lies from the policy that trains: shared by the off-policy corrections."""

from __future__ import annotations

import numpy as np

from entropyctl.masks._compiled import Array

# verl bounds log-ratios, so that their exponentials stay numbers.
LARGEST_LOG_RATIO = 20.0


def log_ratio(logprobs_N: Array, rollout_logprobs_N: Array, valid_N: Array) -> Array:
    """x = log(p_train / p_rollout) of the counted tokens, 0 elsewhere, `[N]`.

    Args:
        logprobs_N: log-probabilities by the trainer, nats.
        rollout_logprobs_N: by the engine that sampled, nats.
        valid_N: True where the token is counted.
    """
    x_N = np.zeros(len(valid_N))
    x_N[valid_N] = np.asarray(logprobs_N, np.float64)[valid_N] - np.asarray(rollout_logprobs_N, np.float64)[valid_N]
    return x_N


def clamped(x: Array) -> Array:
    """Log-ratios within +-20."""
    return x.clip(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def row_sums(values_N: Array, row_N: Array, valid_N: Array) -> Array:
    """Sum over the counted tokens of each row, `[B]`; 0 for a row without any.

    Args:
        values_N: what is summed.
        row_N: the row of each token.
        valid_N: True where the token is counted.
    """
    rows = int(row_N.max()) + 1 if len(row_N) else 0
    return np.bincount(row_N[valid_N], np.asarray(values_N, np.float64)[valid_N], minlength=rows)


def row_means(values_N: Array, row_N: Array, valid_N: Array) -> Array:
    """Mean over the counted tokens of each row, `[B]`; 0 for a row without any."""
    return row_sums(values_N, row_N, valid_N) / np.maximum(row_sums(np.ones(len(row_N)), row_N, valid_N), 1)
