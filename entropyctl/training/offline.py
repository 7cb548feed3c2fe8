"""The loss of an objective and its gradient per token from saved log-probabilities: no model, nothing trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from entropyctl.inputs import greedy
from entropyctl.objectives import token_coefficients
from entropyctl.table.columns import flat_values, list_column, with_column
from entropyctl.training.batch import read_batch
from entropyctl.training.loss import token_loss
from entropyctl.training.recipe import Recipe

COLUMNS = ("loss_terms", "loss_gradients")
ALWAYS = ("loss_mask", "logprobs")


class Evaluated(NamedTuple):
    """The rows of a step with `loss_terms` and `loss_gradients`, and sums over the step."""

    rows: pa.Table
    loss: float
    kl: float  # sum over the counted tokens of k3 estimates of KL(old || now)
    clipped: float  # counted tokens that a clip holds
    tokens: int


def evaluate_objective(rows: pa.Table, recipe: Recipe) -> Evaluated:
    """The loss that `update` would have of a step taken as one mini-batch, in float64.

    The table's `logprobs` stand for the policy in training, its `old_logprobs` for the one that the step started
    from; without such a column the two are the same and every ratio is 1.

    Args:
        rows: one step with the columns that the recipe's loss reads.
        recipe: objective, reduction and penalties.
    """
    batch = recipe.own(read_batch(rows, recipe.reads, forward=False))
    logprobs_N = torch.from_numpy(flat_values(rows["logprobs"]).astype(np.float64)).requires_grad_()
    # A greedy baseline row is not trained on, so that no mean over responses counts it.
    sampled_B = ~greedy(rows)
    sampled_N, coefficient_N = sampled_B[batch.row_of_token], np.zeros(len(batch.loss_mask))
    coefficient_N[sampled_N] = token_coefficients(
        batch.loss_mask[sampled_N], batch.lengths[sampled_B], recipe.reduction, recipe.norm, all_rows=recipe.all_rows
    )
    found = token_loss(logprobs_N, batch, coefficient_N, recipe)
    gradients_N = torch.zeros_like(logprobs_N)
    if found.losses.requires_grad and len(logprobs_N):
        (gradients_N,) = torch.autograd.grad(found.losses.sum(), logprobs_N)
    columns: dict[str, Any] = {"loss_terms": found.losses.detach(), "loss_gradients": gradients_N}
    for name, values_N in columns.items():
        rows = with_column(rows, name, list_column(values_N.numpy(), batch.lengths, pa.float32()))
    loss = float(found.losses.detach().sum())
    return Evaluated(rows, loss, found.kl, found.clipped, int(batch.loss_mask.sum()))
