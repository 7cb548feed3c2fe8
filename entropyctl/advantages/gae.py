"""GAE: generalised advantage estimation, PPO with a critic (1506.02438)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._returns import Array, Estimate
from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.advantages._whiten import whiten as whitened
from entropyctl.errors import UsageError


def gae(
    token_rewards: Array,
    values: Array,
    row_of_token: Array,
    loss_mask: Array,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    whiten: bool = True,
) -> Estimate:
    """GAE: generalised advantage estimation, PPO with a critic.

    A_t = delta_t + gamma lam A_{t+1},   delta_t = r_t + gamma V_{t+1} - V_t,
    over the counted tokens of a response; V and A after the last are 0. The critic's targets are A_t + V_t, from
    before whitening: A = (A - mean) / sqrt(var + 1e-8) over all counted tokens.

    Paper: High-Dimensional Continuous Control Using Generalized Advantage Estimation, arXiv 1506.02438.

    Code: verl, compute_gae_advantage_return (gamma 1, lam 1, always whitened).

    Where they differ: the paper does not whiten. As in the code, tokens that are not counted (a tool's output) are
    stepped over: V and A of the next counted token are carried across them, and their rewards are lost. The code
    leaves numbers in tokens that are not counted; here they are 0.

    Entropy: nothing of its own; as a policy gradient it lowers entropy where probable tokens do better than expected.

    Shipped by: verl, OpenRLHF.

    Verified: the authors' numbers (golden vectors).

    Args:
        token_rewards: `[N]` r, reward of each token.
        values: `[N]` V, what the critic expects before the token.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        gamma: discount of the next token.
        lam: 1 takes returns as they came, 0 the critic's word for all but the next token.
        whiten: give the advantages mean 0 and deviation 1.

    Returns:
        `[N]` A and `[N]` returns, float64; 0 where the token is not counted.

    Raises:
        UsageError: gamma or lam lies outside [0, 1].
    """
    for flag, value in (("--gamma", gamma), ("--lam", lam)):
        if not 0 <= value <= 1:
            raise UsageError(f"{flag} {value:g}: must lie in [0, 1]")
    mask_N = np.asarray(loss_mask, bool)
    row_N = np.asarray(row_of_token, np.int64)
    value_N = np.where(mask_N, np.asarray(values, np.float64), 0.0)
    reward_N = np.where(mask_N, np.asarray(token_rewards, np.float64), 0.0)
    delta_N = reward_N + gamma * _next_values(value_N, row_N, mask_N) - value_N
    advantages_N = returns_to_go(delta_N, row_N, mask_N, gamma * lam)
    returns_N = advantages_N + value_N
    return Estimate(whitened(advantages_N, mask_N) if whiten else advantages_N, returns_N)


def _next_values(value_N: Array, row_N: Array, mask_N: Array) -> Array:
    """Each counted token's V of the next counted token of its row; 0 for the last, and where not counted."""
    counted = np.flatnonzero(mask_N)
    here, after = counted[:-1], counted[1:]
    next_N = np.zeros(len(value_N))
    next_N[here] = np.where(row_N[here] == row_N[after], value_N[after], 0.0)
    return next_N
