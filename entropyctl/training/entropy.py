"""The entropy of a step's tokens before and after its update, and the change that the theory predicted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.dynamics import predicted_change
from entropyctl.errors import EngineError
from entropyctl.table.columns import flat_values
from entropyctl.tokenstats import SplitModel
from entropyctl.training.batch import Array, Batch
from entropyctl.training.processes import ALONE, Team
from entropyctl.training.recipe import Recipe
from entropyctl.training.sharded import score_together


class Statistics(NamedTuple):
    """What the prediction needs of `N` tokens under one set of weights, each `[N]`; nats."""

    logprobs: Array
    entropies: Array
    s_star: Array
    expected_s: Array


def statistics_of(rows: pa.Table) -> Statistics:
    """The statistics that a table carries."""
    return Statistics(*(flat_values(rows[name]) for name in Statistics._fields))


def measure(split: SplitModel, batch: Batch, recipe: Recipe, team: Team = ALONE) -> Statistics:
    """The statistics under the model as it is now.

    Raises:
        EngineError: they are not numbers.
    """
    found = score_together(split, batch.sequences, recipe, team)
    statistics = Statistics(*(getattr(found, name).numpy() for name in Statistics._fields))
    if not np.isfinite(statistics.entropies).all():
        raise EngineError("the weights compute entropies that are not numbers; lower the learning rate")
    return statistics


def entropy_change(batch: Batch, before: Statistics, after: Statistics, eta: float) -> dict[str, float | None]:
    """Mean entropy before and after, the realised change, and the predicted one.

    predicted = mean_t [ -eta w_t r_t A_t (S*_t - E[S]_t) ],  r_t = p_before / p_scored  (2602.03392, Theorem 3.3)

    Means are over the tokens that the policy chose, whatever a mask took out of the loss: what a tool wrote into a
    response, or a user, says nothing of the policy's entropy.

    Args:
        batch: the step's tokens.
        before: under the weights that were trained.
        after: under the new ones.
        eta: step size on the logits; the learning rate, for want of a better one.

    Returns:
        The four columns of the metrics table; nats. Nothing is predicted where no advantages are trained on.
    """
    predicted, chosen_N = None, batch.chosen
    if batch.advantages is not None and batch.old_logprobs is not None:
        log_ratio_N = (before.logprobs.astype(np.float64) - batch.old_logprobs).clip(-20, 20)
        change_N = predicted_change(
            batch.advantages,
            before.s_star,
            before.expected_s,
            weights_N=batch.weights * batch.loss_mask,
            ratios_N=np.exp(log_ratio_N),
            eta=eta,
        )
        predicted = float(change_N[chosen_N].mean(dtype=np.float64))
    H, H_after = (found.entropies[chosen_N].mean(dtype=np.float64) for found in (before, after))
    return {
        "entropy": float(H),
        "entropy_after": float(H_after),
        "realised_change": float(H_after - H),
        "predicted_change": predicted,
    }
