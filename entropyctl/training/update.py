"""A policy in training: its model and optimiser, a step of it, its metrics, and its next version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.dynamics import predicted_change
from entropyctl.errors import UsageError
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_model, parse_device
from entropyctl.policy.publish import load_trainer_state, locked
from entropyctl.policy.publish import publish as publish_version
from entropyctl.progress import progress
from entropyctl.table import Source, write
from entropyctl.table.atomic import make_directory
from entropyctl.table.columns import flat_values, row_lengths, row_values
from entropyctl.table.header import Record
from entropyctl.table.schema import load_schema
from entropyctl.tokenstats import SplitModel, score_sequences, split_model
from entropyctl.training.batch import Batch, mini_batches, read_batch
from entropyctl.training.optimizer import load_state, make_optimizer, save_state
from entropyctl.training.recipe import Recipe
from entropyctl.training.step import train_step

Advance = Callable[[int], None]


@dataclass
class Trainer:
    """A policy in training; `policy` is the version that its weights stand for."""

    policy: Policy
    split: SplitModel
    optimizer: torch.optim.Optimizer
    optimizer_steps: int


def open_trainer(policy: Policy, optimizer: str, lr: float, weight_decay: float, device: str) -> Trainer:
    """Load a version with the optimiser state that was published beside it.

    The weights that are trained are float32 whatever the checkpoint holds: steps of 1e-6 vanish in bfloat16.

    Raises:
        InputError: the checkpoint or its trainer state is damaged.
    """
    model = load_model(policy, torch.float32, parse_device(device))
    made = make_optimizer(model, optimizer, lr, weight_decay)
    state, facts = load_trainer_state(policy)
    load_state(model, made, state)
    return Trainer(policy, split_model(model), made, int(facts.get("optimizer_steps", 0)))


def update_step(
    trainer: Trainer, rows: pa.Table, recipe: Recipe, advance: Advance = lambda tokens: None
) -> dict[str, Any]:
    """Train on the rows of a step.

    The entropy is measured on the same tokens before (the scored column) and after (a forward pass with the new
    weights), over the tokens that the policy itself chose, removed by a mask or not.

    Args:
        trainer: is changed: weights, optimiser state and count of steps.
        rows: one step of a masked or advantaged table.
        recipe: how to train.
        advance: told the response tokens done.

    Returns:
        A row of the metrics table, but for the step's number and the versions.
    """
    began = time.monotonic()
    batch = read_batch(rows)
    parts = [batch.take(part) for part in mini_batches(rows["prompt_id"].to_pylist(), recipe.mini_batches)]
    trained = train_step(trainer.split, trainer.optimizer, parts, recipe, advance)
    trainer.optimizer_steps += int(trained.pop("optimizer_steps"))
    lr = float(trainer.optimizer.param_groups[0]["lr"])
    return {
        "reward": _mean_reward(rows),
        **_entropy(trainer, rows, batch, recipe, lr),
        **trained,
        "mask_fraction": float(1 - (batch.loss_mask & (batch.weights != 0)).mean()) if len(batch.loss_mask) else 0.0,
        "learning_rate": lr,
        "rows": rows.num_rows,
        "tokens": int(batch.loss_mask.sum()),
        "optimizer_steps": trainer.optimizer_steps,
        "seconds": time.monotonic() - began,
    }


def _mean_reward(rows: pa.Table) -> float | None:
    return float(row_values(rows["reward"]).mean()) if "reward" in rows.column_names and rows.num_rows else None


def _entropy(trainer: Trainer, rows: pa.Table, batch: Batch, recipe: Recipe, lr: float) -> dict[str, float]:
    """Entropy before and after, and the predicted change at eta = learning rate."""
    if len(batch.loss_mask) == 0:
        return {"entropy": 0.0, "entropy_after": 0.0, "realised_change": 0.0, "predicted_change": 0.0}
    after = score_sequences(
        trainer.split,
        batch.sequences,
        temperature=recipe.temperature,
        token_budget=recipe.token_budget,
    )
    before_N = flat_values(rows["entropies"]).astype(np.float64)
    after_N = after.entropies.numpy().astype(np.float64)
    change_N = predicted_change(
        batch.advantages,
        flat_values(rows["s_star"]),
        flat_values(rows["expected_s"]),
        weights_N=batch.weights * batch.loss_mask,
        eta=lr,
    )
    return {
        "entropy": float(before_N.mean()),
        "entropy_after": float(after_N.mean()),
        "realised_change": float((after_N - before_N).mean()),
        "predicted_change": float(change_N.mean(dtype=np.float64)),
    }


def publish_next(trainer: Trainer) -> Trainer:
    """Publish the trained weights as the policy's next version.

    Returns:
        The same trainer, standing for the new version.

    Raises:
        OutputError: the disk refuses.
    """
    facts = {"optimizer_steps": trainer.optimizer_steps}
    state = save_state(trainer.split.model, trainer.optimizer)
    return replace(trainer, policy=publish_version(trainer.policy, trainer.split.model, state, facts))


def train_steps(
    trainer: Trainer, source: Source, recipe: Recipe, record: Record, *, publish: bool, metrics: str | None, quiet: bool
) -> Iterator[dict[str, Any]]:
    """Train on every step of a table, publish after each, and write its metrics.

    Args:
        trainer: the policy in training.
        source: a masked or advantaged table.
        recipe: how to train.
        record: this run's record of provenance.
        publish: write a version after each step.
        metrics: directory that gets `step-000001.parquet`, ...
        quiet: show no progress.

    Yields:
        A row of metrics for each step.

    Raises:
        UsageError: a plain checkpoint cannot be published to.
        Locked: another process trains the policy.
    """
    root = trainer.policy.root
    if publish and root is None:
        raise UsageError(
            f"{trainer.policy.directory}: is one checkpoint; to publish versions make it version 0 of a policy: "
            f"mkdir -p run/policy && ln -s $(realpath {trainer.policy.directory}) run/policy/v000000 "
            "&& ln -s v000000 run/policy/latest, then --policy run/policy"
        )
    with locked(root) if publish and root is not None else nullcontext():
        for step in source:
            tokens = int(row_lengths(step.rows["tokens"]).sum()) * recipe.epochs
            with progress(f"update step {step.number}", tokens, quiet=quiet) as advance:
                values = update_step(trainer, step.rows, recipe, advance)
            values |= {"step": step.number, "policy_version": trainer.policy.version, "published_version": None}
            if publish:
                trainer = publish_next(trainer)
                values["published_version"] = trainer.policy.version
            if metrics:
                write_metrics(metrics, values, record, source)
            yield values


def write_metrics(directory: str, values: dict[str, Any], record: Record, source: Source) -> None:
    """Write the metrics of a step to a file of its own, so that a directory of them is the history of a run."""
    make_directory(directory)
    columns = load_schema("metrics").columns
    row = pa.table({c.name: pa.array([values[c.name]], c.arrow_type) for c in columns})
    with write(f"{directory}/step-{values['step']:06d}.parquet", "metrics", record, source) as sink:
        sink.put(values["step"], row, rows_read=values["rows"])
