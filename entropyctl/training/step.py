"""One training step: mini-batches, micro-batches, gradient clipping, and what they cost in entropy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropyctl.errors import EngineError
from entropyctl.objectives import kl_penalty, token_coefficients
from entropyctl.tokenstats import SplitModel, forward_batches, response_hidden, token_logprobs
from entropyctl.training.batch import Batch
from entropyctl.training.recipe import Recipe


def train_step(
    split: SplitModel,
    optimizer: torch.optim.Optimizer,
    parts: list[Batch],
    recipe: Recipe,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[str, float]:
    """Train on a step's mini-batches, each once per epoch.

    Args:
        split: the model in training.
        optimizer: over the model's parameters.
        parts: the mini-batches.
        recipe: how.
        advance: told the response tokens done, for a progress display.

    Returns:
        Means over the optimiser steps of loss and grad_norm; token means of kl and clip_fraction; the number of
        optimiser steps. A mini-batch in which no token has a gradient makes no optimiser step.

    Raises:
        EngineError: a gradient is not a number.
    """
    losses, norms, totals = [], [], np.zeros(2)
    for _ in range(recipe.epochs):
        for part in parts:
            rows = part.learning_rows()
            if len(rows) == 0:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss, sums = _accumulate(split, part, rows, recipe, advance)
            norm = float(torch.nn.utils.clip_grad_norm_(split.model.parameters(), recipe.grad_clip))
            if not np.isfinite(norm):
                raise EngineError("the gradient is not a number; lower the learning rate, or use --dtype float32")
            optimizer.step()
            losses.append(loss)
            norms.append(norm)
            totals += sums
    optimizer.zero_grad(set_to_none=True)
    tokens = max(recipe.epochs * sum(int(part.loss_mask.sum()) for part in parts), 1)
    return {
        "loss": float(np.mean(losses)) if losses else 0.0,
        "grad_norm": float(np.mean(norms)) if norms else 0.0,
        "kl": float(totals[0] / tokens),
        "clip_fraction": float(totals[1] / tokens),
        "optimizer_steps": len(losses),
    }


def _accumulate(
    split: SplitModel, part: Batch, rows: Any, recipe: Recipe, advance: Callable[[int], None]
) -> tuple[float, Any]:
    """Gradients of a mini-batch, forward pass by forward pass; its loss, and (sum of k3, tokens clipped)."""
    coefficient_N = token_coefficients(part.loss_mask, part.lengths, recipe.reduction, recipe.norm)
    starts = part.starts
    loss, sums = 0.0, np.zeros(2)
    for chosen in forward_batches(split, [part.sequences[i] for i in rows], recipe.token_budget):
        micro = rows[chosen]
        batch = part.take(micro)
        k_N = np.concatenate([coefficient_N[starts[i] : starts[i + 1]] for i in micro])
        with torch.autocast(split.device.type, torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext():
            hidden_ND, tokens_N = response_hidden(split, batch.sequences)
            logprobs_N = token_logprobs(hidden_ND, split.head, tokens_N, recipe.temperature)
        value, counts = _loss(logprobs_N, batch, k_N, recipe)
        value.backward()  # type: ignore[no-untyped-call]
        loss += float(value.detach())
        sums += counts
        advance(int(batch.lengths.sum()))
    return loss, sums


def _loss(logprobs_N: Tensor, batch: Batch, coefficient_N: Any, recipe: Recipe) -> tuple[Tensor, Any]:
    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(logprobs_N.device)

    old_N, mask_N = tensor(batch.old_logprobs), tensor(batch.loss_mask)
    policy = recipe.objective(logprobs_N, old_N, tensor(batch.advantages))
    loss_N = tensor(batch.weights) * policy.loss
    if batch.kl_coefs.any():
        loss_N = loss_N + tensor(batch.kl_coefs) * kl_penalty(logprobs_N, old_N, recipe.kl)
    # The tokens were drawn from the old policy, so this way round: KL(old || new).
    k3_N = kl_penalty(old_N, logprobs_N.detach(), "k3")
    counts = [float((k3_N * mask_N).sum()), float((policy.clipped * mask_N).sum())]
    # A token outside the mask must not turn the sum into NaN by 0 * inf.
    return torch.where(mask_N > 0, tensor(coefficient_N) * loss_N, 0.0).sum(), np.array(counts)
