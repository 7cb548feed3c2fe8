"""How far the engine that sampled lies from the policy that trains: shared by the off-policy corrections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entropyctl.masks._blocks import in_blocks
from entropyctl.masks._compiled import Array
from entropyctl.masks._runs import Runs
from entropyctl.masks._select import counted, spread

# verl bounds log-ratios, so that their exponentials stay numbers.
LARGEST_LOG_RATIO = 20.0


def of_log_ratio(
    formula: Callable[[Array], Array],
    logprobs_N: Array,
    rollout_logprobs_N: Array,
    valid_N: Array,
    dtype: type = np.float64,
) -> Array:
    """A formula of x = log(p_train / p_rollout) of the counted tokens, 0 elsewhere, `[N]`.

    Args:
        formula: from x, nats, to an array of the same length.
        logprobs_N: log-probabilities by the trainer, nats.
        rollout_logprobs_N: by the engine that sampled, nats.
        valid_N: True where the token is counted.
        dtype: of the result.
    """
    new_M, old_M = counted(valid_N, logprobs_N, rollout_logprobs_N)
    return spread(in_blocks(lambda new, old: formula(new - old), new_M, old_M, dtype=dtype), valid_N, 0.0)


def clamped(x: Array) -> Array:
    """Log-ratios within +-20."""
    return x.clip(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def row_means(values_N: Array, valid_N: Array, of: Runs) -> Array:
    """Mean over the counted tokens of each row, `[B]`; 0 for a row without any.

    Args:
        values_N: numbers, 0 where the token is not counted.
        valid_N: True where the token is counted.
        of: the tokens' rows.
    """
    return of.sums(values_N) / np.maximum(of.counts(valid_N), 1)
