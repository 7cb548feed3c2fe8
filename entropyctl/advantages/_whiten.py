"""Numbers of tokens brought to mean 0 and deviation 1 over all counted tokens of a step."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array


def whiten(values_N: Array, loss_mask_N: Array) -> Array:
    """(x - mean) / sqrt(var + 1e-8) over the counted tokens, var unbiased (verl, masked_whiten); 0 for the others.

    One counted token, or tokens that are all alike, get exactly 0. verl refuses fewer than two tokens.

    Args:
        values_N: a number per token; what stands outside the mask is not read.
        loss_mask_N: True where the token is counted.
    """
    mask_N = np.asarray(loss_mask_N, bool)
    found_N = np.zeros(len(mask_N))
    counted_C = np.asarray(values_N, np.float64)[mask_N]
    if len(counted_C) > 1:
        # Taken from the first number, equal numbers leave no rounding error to be divided by sqrt(1e-8).
        centred_C = counted_C - counted_C[0]
        centred_C -= centred_C.mean()
        variance = np.square(centred_C).sum() / (len(centred_C) - 1)
        found_N[mask_N] = centred_C / np.sqrt(variance + 1e-8)
    return found_N
