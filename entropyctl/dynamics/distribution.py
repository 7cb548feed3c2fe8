"""The five token statistics from whole rows of logits: the float64 truth that the fast paths are held against."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.dynamics.discriminator import expected_score, s_star

Array = npt.NDArray[Any]


class TokenStatistics(NamedTuple):
    """Statistics of `N` tokens, each `[N]`; nats."""

    logprobs: Array
    entropies: Array
    s_star: Array
    expected_s: Array
    sum_p2: Array


def token_statistics(logits_NV: Array, tokens_N: Array, temperature: float = 1.0) -> TokenStatistics:
    """All statistics of softmax(logits / temperature), in float64.

    0 log 0 counts as 0, so logits of -inf are allowed (but not a row of nothing else).

    Args:
        logits_NV: logits of `N` positions over a vocabulary of `V`.
        tokens_N: index of each position's sampled token.
        temperature: what the logits are divided by; > 0.

    Returns:
        log p_k, H, S*, E[S] and sum p^2.
    """
    x_NV = np.asarray(logits_NV, np.float64) / temperature
    d_NV = x_NV - x_NV.max(axis=1, keepdims=True)
    logp_NV = d_NV - np.log(np.exp(d_NV).sum(axis=1, keepdims=True))
    p_NV = np.exp(logp_NV)
    finite_NV = np.where(np.isneginf(logp_NV), 0.0, logp_NV)
    entropies_N = -(p_NV * finite_NV).sum(axis=1)
    sum_p2_N = (p_NV**2).sum(axis=1)
    logprobs_N = np.take_along_axis(logp_NV, np.asarray(tokens_N)[:, None], axis=1)[:, 0]
    expected_N = expected_score(entropies_N, sum_p2_N, (p_NV**2 * finite_NV).sum(axis=1))
    return TokenStatistics(logprobs_N, entropies_N, s_star(logprobs_N, entropies_N), expected_N, sum_p2_N)
