"""BCPG-NSA: correct steps of incorrect responses are penalised less (2505.14403)."""

from __future__ import annotations

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import PerToken
from entropyctl.errors import UsageError


def bcpg_nsa(
    reward: Array, group: Array, correct: Array, step_correct: Array, row_of_token: Array, *, beta: float = 0.5
) -> PerToken:
    """BCPG-NSA: correct steps of incorrect responses are penalised less.

    A_t = beta_t (R_i - mean_g), beta_t = beta where token t lies in a step that is judged correct within an
    incorrect response, else 1.

    Paper: Unearthing Gems from Stones: Policy Optimization with Negative Sample Augmentation for LLM Reasoning,
    arXiv 2505.14403 (beta 0.5, tried from 0.5 to -0.5).

    Where they differ: no code was published. A summary of the paper says that correct steps are rewarded; with
    beta above 0 they are only penalised less, and rewarded with beta below 0. The paper's objective has a mean over
    each response's tokens and adds -(tau / 2) (log pi_theta(y) / pi_ref(y))^2 of the whole response (tau 1e-3):
    both are in the objective bcpg, not in A.

    Entropy: holds it up, since fewer tokens of incorrect responses are pushed down, and least those that correct
    responses need too.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the formula; no code was published.

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.
        correct: `[B]` True where the response is correct.
        step_correct: `[N]` True where the token lies in a step that is judged correct.
        row_of_token: `[N]` row of each token.
        beta: factor of correct steps in incorrect responses.

    Returns:
        `[N]` A, float64.

    Raises:
        UsageError: beta lies outside [-1, 1].
    """
    if not -1 <= beta <= 1:
        raise UsageError(f"--beta {beta:g}: must lie in [-1, 1]")
    reward_B = np.asarray(reward, np.float64)
    row_N = np.asarray(row_of_token, np.int64)
    moments = group_moments(reward_B, group)
    centred_B = np.where(moments.equal_B, 0.0, reward_B - moments.mean_B)
    spared_N = np.asarray(step_correct, bool) & ~np.asarray(correct, bool)[row_N]
    return np.where(spared_N, beta, 1.0) * centred_B[row_N]
