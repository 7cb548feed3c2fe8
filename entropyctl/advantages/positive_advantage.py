"""Positive-advantage reweighting: advantages above 0 are scaled by a factor that a schedule moves (2511.05993)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.advantages._returns import Array, Estimate
from entropyctl.errors import UsageError


def positive_advantage(
    advantages: Array,
    entropies: Array,
    loss_mask: Array,
    step: int,
    state: dict[str, float],
    *,
    schedule: Literal["entropy-guided", "stage", "epoch"] = "entropy-guided",
    delta: float = 0.2,
    step_size: float = 0.05,
    lambda_0: float = 0.0,
    total_steps: int = 200,
    epoch: int = 1,
    epochs: int = 2,
) -> Estimate:
    """Positive-advantage reweighting: advantages above 0 are scaled by a factor that a schedule moves.

    A_t = lambda A_t where A_t > 0, unchanged elsewhere; lambda by schedule:
    entropy-guided  lambda_{k+1} = clip(lambda_k - step_size if H_k < delta else lambda_k + step_size, 0, 1)
    stage           lambda = clip(2 step / total_steps - 1, 0, 1): 0 in the first half of training, then up to 1
    epoch           lambda = (epoch - 1) / (epochs - 1), and 1 where epochs = 1
    H_k is the mean entropy of the counted tokens of step k. Step k uses lambda_k, which the steps before it made.

    Paper: Revisiting Entropy in Reinforcement Learning for Large Reasoning Models, arXiv 2511.05993 (delta 0.2, step
    size 0.05, lambda_0 0). It multiplies the tokens' loss, which for all policy losses here is the same.

    Where they differ: an earlier version calls it progressive advantage reweighting. The authors' code could not be
    had. The paper's epochs are passes over one batch within an update; a table is written before them, so the
    schedule epoch takes the pass from the command: write one table for each pass and update on each in turn, with
    `update --allow-mismatch scoring.policies`, for the passes after the first train a policy that did not score.
    epochs = 1 is undefined in the paper. Defaults of total_steps and epochs are ours: they depend on the training.

    Entropy: keeps it up, since advantages above 0 on probable tokens are what lowers it; lambda comes down again
    whenever entropy falls below delta.

    Shipped by: none of the peers.

    Verified: traces of the printed schedules; no code was to be had.

    Args:
        advantages: `[N]` A, of an estimator that ran before.
        entropies: `[N]` H of the tokens, nats.
        loss_mask: `[N]` True where the token is counted.
        step: number of the step, from 1.
        state: `lambda` after the step before; lambda_0 at first.
        schedule: what moves lambda.
        delta: entropy below which lambda falls, nats (entropy-guided).
        step_size: by how much lambda moves (entropy-guided).
        lambda_0: lambda of the first step (entropy-guided).
        total_steps: steps of the whole training (stage).
        epoch: pass over the batch that the table is for, from 1 (epoch).
        epochs: passes over the batch (epoch).

    Returns:
        `[N]` A, float64; 0 where the token is not counted. For entropy-guided, with the state `lambda`.

    Raises:
        UsageError: a flag lies outside its range.
    """
    _check(delta, step_size, lambda_0, total_steps, epoch, epochs)
    mask_N = np.asarray(loss_mask, bool)
    after = None
    if schedule == "stage":
        factor = min(max(2 * step / total_steps - 1, 0.0), 1.0)
    elif schedule == "epoch":
        factor = (epoch - 1) / (epochs - 1) if epochs > 1 else 1.0
    else:
        factor = state.get("lambda", lambda_0)
        after = {"lambda": _guided(factor, np.asarray(entropies, np.float64)[mask_N], delta, step_size)}
    advantages_N = np.where(mask_N, np.asarray(advantages, np.float64), 0.0)
    return Estimate(np.where(advantages_N > 0, factor * advantages_N, advantages_N), state=after)


def _guided(factor: float, entropies: Array, delta: float, step_size: float) -> float:
    """lambda of the next step; as it was where no token is counted."""
    if not len(entropies):
        return factor
    moved = factor - step_size if entropies.mean() < delta else factor + step_size
    return min(max(moved, 0.0), 1.0)


def _check(delta: float, step_size: float, lambda_0: float, total_steps: int, epoch: int, epochs: int) -> None:
    if not 0 <= delta < math.inf:
        raise UsageError(f"--delta {delta:g}: must be a finite number, 0 or above")
    for flag, value in (("--step-size", step_size), ("--lambda-0", lambda_0)):
        if not 0 <= value <= 1:
            raise UsageError(f"{flag} {value:g}: must lie in [0, 1]")
    for flag, count in (("--total-steps", total_steps), ("--epochs", epochs)):
        if count < 1:
            raise UsageError(f"{flag} {count:g}: must be 1 or more")
    if not 1 <= epoch <= epochs:
        raise UsageError(f"--epoch {epoch:g}: must lie in 1 to --epochs {epochs:g}")
