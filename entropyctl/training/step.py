"""One training step: mini-batches, micro-batches, gradient clipping, and what they cost in entropy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from entropyctl.objectives import token_coefficients
from entropyctl.tokenstats import (
    SplitModel,
    forward_batches,
    response_hidden,
    token_logprobs,
    token_logprobs_and_entropies,
)
from entropyctl.training.batch import Array, Batch
from entropyctl.training.flops import model_flops, work_of
from entropyctl.training.loss import token_loss
from entropyctl.training.optimizer import Optimizer
from entropyctl.training.phases import Phases
from entropyctl.training.processes import ALONE, Team
from entropyctl.training.recipe import Recipe
from entropyctl.training.sharded import IDLE, Sequences, idle_backward, share_of

Advance = Callable[[int], None]


def train_step(
    split: SplitModel,
    optimizer: Optimizer,
    parts: list[Batch],
    recipe: Recipe,
    advance: Advance = lambda tokens: None,
    masked: Callable[[Batch], Batch] = lambda part: part,
    team: Team = ALONE,
    phases: Phases | None = None,
) -> dict[str, float]:
    """Train on a step's mini-batches, each once per epoch.

    Args:
        split: the model in training.
        optimizer: over the model's parameters.
        parts: the mini-batches.
        recipe: how.
        advance: told the response tokens done, for a progress display.
        masked: the mini-batch as it is trained on; runs masks again that are live.
        team: the processes that train together, all on the same mini-batches.
        phases: gets the time of each.

    Returns:
        Means over the optimiser steps of loss, grad_norm and learning_rate; token means of kl and clip_fraction, to
        which a token without a gradient adds nothing; the optimiser steps made, and those skipped because the loss or
        the gradient was not a number, which count in no mean. A mini-batch in which no token has a gradient makes no
        optimiser step. `flops` are the model's in all these passes.

    Raises:
        EngineError: too many steps in a row were skipped.
    """
    phases = phases or Phases(split.device)
    losses, norms, rates, totals, tokens, skipped, work = [], [], [], np.zeros(2), 0, 0, np.zeros(3)
    for _ in range(recipe.epochs):
        for unmasked in parts:
            with phases("score"):
                part = masked(unmasked)
            counted = int(part.loss_mask.sum())
            needed_N = recipe.needed(part)
            if not needed_N.any():
                tokens += counted
                continue
            optimizer.clear()
            with phases("train"):
                done = team.sum(_accumulate(split, part, needed_N, recipe, advance, team))
            work += done[4:]
            with phases("optimizer"):
                rate = optimizer.rate
                norm = optimizer.step(float(done[0]), recipe.grad_clip)
            if norm is None:
                skipped += 1
                continue
            if recipe.bonus is not None:
                recipe.bonus.after_optimizer_step(done[3] / max(counted, 1))
            losses.append(done[0])
            norms.append(norm)
            rates.append(rate)
            totals += done[1:3]
            tokens += counted
    optimizer.clear()
    return {
        "loss": float(np.mean(losses)) if losses else 0.0,
        "grad_norm": float(np.mean(norms)) if norms else 0.0,
        "learning_rate": float(np.mean(rates)) if rates else optimizer.rate,
        "kl": float(totals[0] / max(tokens, 1)),
        "clip_fraction": float(totals[1] / max(tokens, 1)),
        "optimizer_steps": len(losses),
        "skipped_steps": skipped,
        "flops": model_flops(split, *work),
    }


def _accumulate(split: SplitModel, part: Batch, needed_N: Array, recipe: Recipe, advance: Advance, team: Team) -> Array:
    """Gradients of this process's share of a mini-batch, forward pass by forward pass.

    Args:
        split: the model in training.
        part: the mini-batch.
        needed_N: bool, the tokens whose log p are needed; there is one.
        recipe: how.
        advance: told the response tokens done.
        team: the processes.

    Returns:
        `[7]` the share's part of the loss; sums over its tokens of k3, of clipped tokens and, with a bonus, of
        entropies; and what `model_flops` is told.
    """
    coefficient_N = token_coefficients(
        part.loss_mask, part.lengths, recipe.reduction, recipe.norm, all_rows=recipe.all_rows
    )
    rows = part.rows_with(needed_N)
    inside_N = np.isin(part.row_of_token, rows)
    whole_B, coefficient_N = part.lengths[rows], coefficient_N[needed_N]
    part = part.take(rows).only(needed_N[inside_N], split.sharing.alone_beyond)
    share = share_of(split, part.sequences, recipe.token_budget, team)
    mine, starts, sums = np.array(share.rows, np.int64), part.starts, np.zeros(7)
    for chosen in forward_batches(split, [part.sequences[i] for i in mine], recipe.token_budget):
        micro = mine[chosen]
        batch = part.take(micro)
        k_N = np.concatenate([coefficient_N[starts[i] : starts[i + 1]] for i in micro])
        logprobs_N, entropies_N = split.within(partial(_forward, split, batch.sequences, batch.places, recipe))
        found = token_loss(logprobs_N, batch, k_N, recipe, entropies_N)
        loss = found.losses.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        entropy = 0.0 if entropies_N is None else float(entropies_N.detach().sum())
        work = work_of(split, batch.sequences, len(k_N))
        sums += [float(loss.detach()), found.kl, found.clipped, entropy, *work]
        advance(int(whole_B[micro].sum()))
    for _ in range(share.idle):
        idle_backward(*split.within(partial(_forward, split, IDLE, None, recipe)))
    return sums


def _forward(
    split: SplitModel, sequences: Sequences, places: tuple[Array, ...] | None, recipe: Recipe
) -> tuple[Tensor, Tensor | None]:
    """log p of the tokens at these places and, for a bonus, their entropies."""
    with torch.autocast(split.device.type, torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext():
        hidden_ND, tokens_N = response_hidden(split, sequences, places)
        if recipe.bonus is None:
            return token_logprobs(hidden_ND, split.head, tokens_N, recipe.temperature, accumulates=True), None
        return token_logprobs_and_entropies(hidden_ND, split.head, tokens_N, recipe.temperature, accumulates=True)
