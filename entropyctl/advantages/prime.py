"""PRIME: implicit process rewards and outcomes, each against the group's other samples (2502.01456)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._groups import Array, group_moments
from entropyctl.advantages._returns import Estimate
from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.advantages._whiten import whiten as whitened
from entropyctl.errors import UsageError


def prime(
    reward: Array,
    group: Array,
    prm_logprobs: Array,
    ref_logprobs: Array,
    row_of_token: Array,
    loss_mask: Array,
    *,
    beta: float = 0.05,
    process: float | None = None,
    outcome: float | None = None,
    normalise: Literal["batch", "none"] | None = None,
    gamma: float = 1.0,
    whiten: bool | None = None,
    variant: Literal["verl-recipe", "prime", "paper"] = "verl-recipe",
) -> Estimate:
    """PRIME: implicit process rewards and outcomes, each against the group's other samples.

    A_t = process sum_{s >= t} gamma^(s-t) P_s + outcome (R_i - mean_{j != i} R_j),   r_s = beta log(pi_prm / pi_ref)
    P_s = n/(n-1) r_s - 1/(n-1) sum_j mean(r_j)    in the codes (variants verl-recipe and prime)
    P_s = r_s - 1/(n-1) sum_{j != i} mean(r_j)     in the paper
    with n the group's samples, and mean(r_j) over the counted tokens of sample j.

    Paper: Process Reinforcement through Implicit Rewards, arXiv 2502.01456 (beta 0.05, 4 samples).

    Code: verl-recipe, prime/prime_core_algos.py (process 5, outcome 5); PRIME-RL/PRIME, core_algos.py (1 and 1).

    Where they differ: variant verl-recipe (the default) leaves the last token's r at 0; prime keeps it and has no
    beta. Both divide r by the largest |sum_{s >= t} r_s| of the step (normalise batch), so that beta cancels, and
    whiten A. Their P scales a token's deviation from its own sample's mean by n/(n-1), the paper's does not; the
    mean over a sample is the same. PRIME's README says that process is 5 and that returns are the advantage; its code
    leaves the 5 out and whitens. verl-recipe takes the grader's accuracy as R; here it is the table's reward. A group
    of one has no others: its baseline is 0, where the codes divide by zero.

    Entropy: nothing of its own; as a policy gradient it lowers entropy where probable tokens earn process reward.

    Shipped by: verl.

    Verified: the authors' numbers of verl-recipe; for the other variants a float64 reference written from the formula.

    Args:
        reward: `[B]` R, the outcome.
        group: `[B]` number of the row's group.
        prm_logprobs: `[N]` log-probability of each token under the reward model, nats.
        ref_logprobs: `[N]` the same under the model that the reward model started from.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        beta: reward per nat; of no effect with normalise batch or in variant prime.
        process: weight of process rewards; default 5 (verl-recipe) or 1.
        outcome: weight of the outcome; default 5 (verl-recipe) or 1.
        normalise: batch or none; default batch, and none for the paper.
        gamma: discount of later process rewards.
        whiten: give the advantages mean 0 and deviation 1; default yes, and no for the paper.
        variant: which code, or the paper's text.

    Returns:
        `[N]` A and, from before whitening, `[N]` returns, float64; 0 where the token is not counted.

    Raises:
        UsageError: a weight or beta is negative or not finite, or gamma outside [0, 1].
    """
    weight = 5.0 if variant == "verl-recipe" else 1.0
    process, outcome = (weight if w is None else w for w in (process, outcome))
    _check(beta, process, outcome, gamma)
    codes = variant != "paper"
    mask_N, row_N = np.asarray(loss_mask, bool), np.asarray(row_of_token, np.int64)
    difference_N = np.asarray(prm_logprobs, np.float64) - np.asarray(ref_logprobs, np.float64)
    implicit_N = np.where(mask_N, difference_N, 0.0) * (1.0 if variant == "prime" else beta)
    if variant == "verl-recipe":
        implicit_N[_last_counted(row_N, mask_N)] = 0.0
    if normalise == "batch" or (normalise is None and codes):
        implicit_N /= np.abs(returns_to_go(implicit_N, row_N, mask_N, 1.0)).max(initial=0.0) + 1e-6
    process_N = _against_others(implicit_N, group, row_N, mask_N, len(reward), codes)
    to_go_N = returns_to_go(process_N, row_N, mask_N, gamma)
    returns_N = np.where(mask_N, process * to_go_N + outcome * _leave_one_out(reward, group)[row_N], 0.0)
    return Estimate(whitened(returns_N, mask_N) if (codes if whiten is None else whiten) else returns_N, returns_N)


def _last_counted(row_N: Array, mask_N: Array) -> Array:
    """Where the last counted token of each row stands."""
    counted = np.flatnonzero(mask_N)
    return counted[np.diff(row_N[counted], append=-1) != 0]


def _leave_one_out(values_B: Array, group_B: Array) -> Array:
    """`[B]` a row's number less the mean of the group's others; less 0 where there are none."""
    values_B = np.asarray(values_B, np.float64)
    moments = group_moments(values_B, group_B)
    scale_B = moments.count_B / np.maximum(moments.count_B - 1, 1)
    centred_B = np.where(moments.equal_B, 0.0, (values_B - moments.mean_B) * scale_B)
    return np.where(moments.count_B == 1, values_B, centred_B)


def _against_others(implicit_N: Array, group_B: Array, row_N: Array, mask_N: Array, rows: int, codes: bool) -> Array:
    """`[N]` process rewards against the mean of each of the group's other samples; 0 where not counted."""
    count_B = np.bincount(row_N[mask_N], minlength=rows)
    mean_B = np.bincount(row_N[mask_N], implicit_N[mask_N], rows) / np.maximum(count_B, 1)
    size_B = group_moments(mean_B, group_B).count_B
    scale_B = size_B / np.maximum(size_B - 1, 1) if codes else np.ones(rows)
    within_N = (implicit_N - mean_B[row_N]) * scale_B[row_N]
    return np.where(mask_N, within_N + _leave_one_out(mean_B, group_B)[row_N], 0.0)


def _check(beta: float, process: float, outcome: float, gamma: float) -> None:
    for flag, value in (("--beta", beta), ("--process", process), ("--outcome", outcome)):
        if not 0 <= value < math.inf:
            raise UsageError(f"{flag} {value:g}: must be a finite number, 0 or above")
    if not 0 <= gamma <= 1:
        raise UsageError(f"--gamma {gamma:g}: must lie in [0, 1]")
