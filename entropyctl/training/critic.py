"""A critic in training beside the policy: its model and optimiser, a step of it, and its next version."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.errors import InputError
from entropyctl.objectives import token_coefficients
from entropyctl.objectives._value import check_clip, explained_variance, value_loss
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_critic
from entropyctl.policy.trainer_state import load_trainer_state
from entropyctl.table.columns import null_rows
from entropyctl.table.conform import row_name
from entropyctl.tokenstats import SplitModel, forward_batches, response_hidden, split_critic, token_values
from entropyctl.training.batch import Array, Batch, mini_batches, read_batch
from entropyctl.training.optimizer import Optimization, Optimizer, load_state
from entropyctl.training.processes import ALONE, Team
from entropyctl.training.publishing import publish_trained
from entropyctl.training.recipe import Recipe
from entropyctl.training.sharded import IDLE, Place, Sequences, idle_backward, share_of, spread

# What the table must carry beside what every update reads.
NEEDS = ("values", "returns")
METRICS = ("value_loss", "value_clip_fraction", "explained_variance")


@dataclass
class Critic:
    """A critic in training; `policy` is the version that its weights stand for."""

    policy: Policy
    split: SplitModel
    optimizer: Optimizer
    clip: float
    versions: set[str] = field(default_factory=set)  # digests of what it has stood for
    team: Team = ALONE  # the processes that hold it

    def __post_init__(self) -> None:
        """It stands for the version that was loaded."""
        self.versions.add(self.policy.digest)


def open_critic(version: Policy, how: Optimization, clip: float, place: Place, team: Team = ALONE) -> Critic:
    """Load a version with the optimiser state that was published beside it. Weights in training are float32.

    Raises:
        UsageError: a rate or a clip that is none.
        InputError: the checkpoint is no critic, or its trainer state is damaged.
    """
    check_clip(clip)
    split = spread(lambda device: split_critic(load_critic(version, torch.float32, device)), place, team)
    state, facts = load_trainer_state(version)
    made = Optimizer(split.model, how, facts)
    load_state(made, state)
    return Critic(version, split, made, clip, team=team)


def critic_step(
    critic: Critic, rows: pa.Table, recipe: Recipe, advance: Callable[[int], None] = lambda tokens: None
) -> dict[str, Any]:
    """Train the critic on the rows of a step, in the mini-batches and epochs of the policy.

    loss = sum_t k_t 1/2 max( (v_t - R_t)^2, (clip(v_t, v_old_t +- clip) - R_t)^2 )

    with k_t from the recipe's reduction over loss_mask, R from `returns` and v_old from `values`.

    Args:
        critic: is changed: weights, optimiser state and count of steps.
        rows: one step, with `NEEDS`.
        recipe: its reduction, mini-batches, epochs, clipping of the gradient, token budget and number type.
        advance: told the response tokens done.

    Returns:
        value_loss (mean over the optimiser steps, before each), value_clip_fraction (of the counted tokens),
        explained_variance (of the values in the table), skipped_steps, and the seconds that it took.

    Raises:
        InputError: a row has no returns.
        EngineError: too many steps in a row were skipped, because a loss or a gradient was not a number.
    """
    began = time.monotonic()
    for name in NEEDS:
        if (missing_B := null_rows(rows[name])).any():
            raise InputError(f"row {row_name(rows, int(missing_B.argmax()))}: '{name}' is null, and a critic learns it")
    batch = read_batch(rows, NEEDS)
    losses, clipped, tokens, skipped = [], 0.0, 0, 0
    parts = [batch.take(part) for part in mini_batches(rows["prompt_id"].to_pylist(), recipe.mini_batches)]
    for part in parts * recipe.epochs:
        counted = int(part.loss_mask.sum())
        if counted == 0:
            continue
        critic.optimizer.clear()
        loss, held = _accumulate(critic, part, recipe, advance)
        if critic.optimizer.step(loss, recipe.grad_clip) is None:
            skipped += 1
            continue
        losses.append(loss)
        clipped, tokens = clipped + held, tokens + counted
    critic.optimizer.clear()
    return {
        "value_loss": float(np.mean(losses)) if losses else 0.0,
        "value_clip_fraction": clipped / max(tokens, 1),
        "explained_variance": explained_variance(batch.inputs["values"], batch.inputs["returns"], batch.loss_mask),
        "skipped_steps": skipped,
        "seconds": time.monotonic() - began,
    }


def _accumulate(critic: Critic, part: Batch, recipe: Recipe, advance: Callable[[int], None]) -> tuple[float, float]:
    """Gradients of a mini-batch; its loss, and how many counted tokens the clip held."""
    coefficient_N = token_coefficients(
        part.loss_mask, part.lengths, recipe.reduction, recipe.norm, all_rows=recipe.all_rows
    )
    rows, starts, sums = part.rows_with(part.loss_mask), part.starts, np.zeros(2)
    share = share_of(critic.split, [part.sequences[i] for i in rows], recipe.token_budget, critic.team)
    rows = rows[share.rows]
    for chosen in forward_batches(critic.split, [part.sequences[i] for i in rows], recipe.token_budget):
        micro = rows[chosen]
        k_N = np.concatenate([coefficient_N[starts[i] : starts[i + 1]] for i in micro])
        value, count = _loss(critic, part.take(micro), k_N, recipe)
        value.backward()  # type: ignore[no-untyped-call]
        sums += [float(value.detach()), count]
        advance(int(part.lengths[micro].sum()))
    for _ in range(share.idle):
        idle_backward(critic.split.within(partial(_values, critic, IDLE, recipe)))
    loss, held = critic.team.sum(sums)
    return float(loss), float(held)


def _loss(critic: Critic, batch: Batch, coefficient_N: Array, recipe: Recipe) -> tuple[torch.Tensor, float]:
    device = critic.split.device
    values_N = critic.split.within(partial(_values, critic, batch.sequences, recipe))
    # What stands outside the mask must not turn the gradient into NaN by 0 * inf.
    old_N, returns_N, k_N = (
        torch.from_numpy(np.where(batch.loss_mask, x, 0).astype(np.float32)).to(device)
        for x in (batch.inputs["values"], batch.inputs["returns"], coefficient_N)
    )
    found = value_loss(values_N, old_N, returns_N, clip=critic.clip)
    mask_N = torch.from_numpy(np.array(batch.loss_mask)).to(device)
    return (k_N * found.loss).sum(), float((found.clipped & mask_N).sum())


def _values(critic: Critic, sequences: Sequences, recipe: Recipe) -> torch.Tensor:
    with torch.autocast(critic.split.device.type, torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext():
        hidden_ND, _ = response_hidden(critic.split, sequences)
        return token_values(critic.split, hidden_ND).clone()  # FSDP warns of a pass that gives a view


def publish_critic(critic: Critic, step: int | None = None) -> None:
    """Publish the trained weights as the critic's next version, for which it then stands.

    Raises:
        OutputError: the disk refuses.
    """
    critic.policy = publish_trained(
        critic.policy, critic.split, critic.optimizer, critic.optimizer.facts(), critic.team, step=step
    )
    if critic.team.leads:
        critic.versions.add(critic.policy.digest)
