"""Random numbers that belong to a token: the same wherever its row stands, and in whichever process it is drawn."""

from __future__ import annotations

import numpy as np

from entropyctl.errors import UsageError
from entropyctl.masks._compiled import Array

_GOLDEN = 0x9E3779B97F4A7C15


def uniform(token_key_N: Array, seed: int) -> Array:
    """A number of [0, 1) for each token, from its key and a seed: SplitMix64 (Steele, Lea and Flood, 2014).

    Args:
        token_key_N: uint64, a token's identity.
        seed: 0 or above; every seed gives another sequence.

    Returns:
        `[N]` float64, multiples of 2^-53.

    Raises:
        UsageError: the seed is negative or above 2^64 - 1.
    """
    check_seed(seed)
    # The seed is mixed before it meets the key: keys of neighbouring positions may differ by the generator's own step.
    start = _splitmix64(np.array([seed], np.uint64))
    return np.asarray((_splitmix64(np.asarray(token_key_N, np.uint64) ^ start) >> np.uint64(11)) * 2.0**-53)


def check_seed(seed: int) -> None:
    """Stop where a seed is negative or above 2^64 - 1.

    Raises:
        UsageError: names it.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"--seed {seed:g}: must be a whole number, 0 to 2^64 - 1")


def _splitmix64(state_N: Array) -> Array:
    z_N = state_N + np.uint64(_GOLDEN)  # unsigned arrays wrap around
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z_N ^= z_N >> np.uint64(shift)
        z_N *= np.uint64(factor)
    z_N ^= z_N >> np.uint64(31)
    return z_N
