"""A policy in training: its model and optimiser, a step of it, its metrics, and its next version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.ending import pipes_unwatched
from entropyctl.inputs import base_mask, samples
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.holding import delete_old_versions
from entropyctl.policy.trainer_state import TrainerState, load_trainer_state
from entropyctl.progress import progress
from entropyctl.table import Sink, Source, notice, write
from entropyctl.table.atomic import make_directory
from entropyctl.table.columns import column_from, row_lengths, row_values
from entropyctl.table.header import Record
from entropyctl.table.provenance import again
from entropyctl.table.schema import load_schema
from entropyctl.tokenstats import SplitModel, split_model
from entropyctl.training.batch import mini_batches, read_batch
from entropyctl.training.critic import METRICS, Critic, critic_step, publish_critic
from entropyctl.training.entropy import entropy_change, measure, statistics_of
from entropyctl.training.flops import utilisation
from entropyctl.training.live import LiveMask, masked_now, reads_of
from entropyctl.training.lora import Adapter, Lora, adapt, base_to_train
from entropyctl.training.optimizer import Optimization, Optimizer, load_state
from entropyctl.training.phases import Phases, peak_memory
from entropyctl.training.processes import ALONE, Team
from entropyctl.training.publishing import publish_trained
from entropyctl.training.recipe import Recipe
from entropyctl.training.scored import check_step, lag, scored_by
from entropyctl.training.sharded import Place, spread
from entropyctl.training.step import train_step

Advance = Callable[[int], None]


@dataclass
class Trainer:
    """A policy in training; `policy` is the version that its weights stand for."""

    policy: Policy
    split: SplitModel
    optimizer: Optimizer
    exact: bool = True  # the weights are those of `policy`, not trained on since
    facts: dict[str, float] = field(default_factory=dict)  # what else was published beside the version
    versions: set[str] = field(default_factory=set)  # digests of what it has stood for
    team: Team = ALONE  # the processes that hold it
    adapter: Adapter | None = None  # that is trained in place of the weights
    publish_seconds: float | None = None  # that publishing `policy` took

    def __post_init__(self) -> None:
        """It stands for the version that was loaded."""
        self.versions.add(self.policy.digest)


def open_trainer(
    policy: Policy,
    how: Optimization,
    place: Place,
    team: Team = ALONE,
    lora: Lora | None = None,
    lora_publish: str = "merged",
) -> Trainer:
    """Load a version with the optimiser state that was published beside it.

    The weights that are trained are float32 whatever the checkpoint holds: steps of 1e-6 vanish in bfloat16.

    Args:
        policy: the version.
        how: its optimiser.
        place: where the model is held, and how.
        team: the processes that train together.
        lora: the adapter that is trained in place of the weights.
        lora_publish: as what it is published.

    Raises:
        InputError: the checkpoint or its trainer state is damaged.
        MismatchError: an adapter of another shape is in training.
    """
    state, facts = load_trainer_state(policy)
    base, had_one = policy if lora is None else base_to_train(policy, lora, facts), "lora" in facts
    if facts and had_one != (lora is not None):
        what = (
            "an adapter was trained, now all weights are" if had_one else "all weights were trained, now an adapter is"
        )
        notice(f"{policy.directory}: {what}; starting with a fresh optimiser")
        # Of the tensors nothing fits; steps and the coefficient of a bonus are the policy's.
        state, facts = TrainerState(), {name: fact for name, fact in facts.items() if name not in ("lora", "base")}
    adapters = []

    def load(device: torch.device) -> SplitModel:
        split = split_model(load_model(base, torch.float32, device))
        if lora is not None:
            adapters.append(Adapter(lora, base, lora_publish, adapt(split, lora)))
        return split

    split = spread(load, place, team)
    made = Optimizer(split.model, how, facts)
    load_state(made, state)
    return Trainer(policy, split, made, facts=facts, team=team, adapter=adapters[0] if adapters else None)


def update_step(
    trainer: Trainer,
    rows: pa.Table,
    recipe: Recipe,
    *,
    scored_here: bool = False,
    live: tuple[LiveMask, ...] = (),
    advance: Advance = lambda tokens: None,
) -> dict[str, Any]:
    """Train on the rows of a step.

    The entropy is measured over the tokens that the policy chose, before and after, under the weights in training.

    Args:
        trainer: is changed: weights, optimiser state and count of steps.
        rows: one step of a masked or advantaged table, with at least one token that the policy chose.
        recipe: how to train.
        scored_here: the rows' statistics are of exactly these weights, so they need not be computed again.
        live: masks to run again on every mini-batch, in place of the rows' own numbers.
        advance: told the response tokens done.

    Returns:
        A row of the metrics table, but for the step's number and the versions.

    Raises:
        EngineError: the step made weights that compute no numbers.
    """
    began = time.monotonic()
    team, phases = trainer.team, Phases(trainer.split.device)
    batch = recipe.own(read_batch(rows, (*recipe.reads, *reads_of(live))))
    with phases("score"):
        before = statistics_of(rows) if scored_here else measure(trainer.split, batch, recipe, team)
    if recipe.bonus is not None:
        sampled = batch.old_logprobs if batch.old_logprobs is not None else before.logprobs
        recipe.bonus.begin_step(-float(sampled[batch.chosen].mean(dtype=np.float64)))
    parts = [batch.take(part) for part in mini_batches(rows["prompt_id"].to_pylist(), recipe.mini_batches)]
    masked = partial(masked_now, trainer.split, masks=live, recipe=recipe, team=team) if live else (lambda part: part)
    trained = train_step(trainer.split, trainer.optimizer, parts, recipe, advance, masked, team, phases)
    if trained["optimizer_steps"]:
        trainer.exact = False
    with phases("measure"):
        after = measure(trainer.split, batch, recipe, team)
    flops, seconds = trained.pop("flops"), time.monotonic() - began
    return {
        "reward": _mean_reward(rows),
        **entropy_change(batch, before, after, trained["learning_rate"]),
        **trained,
        "entropy_coef": None if recipe.bonus is None else recipe.bonus.coef_now,
        "mask_fraction": float(1 - (batch.loss_mask & (batch.weights != 0))[batch.chosen].mean()),
        "rows": rows.num_rows,
        "tokens": int(batch.loss_mask.sum()),
        "optimizer_steps": trainer.optimizer.steps,
        "seconds": seconds,
        **phases.metrics(),
        "mfu": utilisation(flops, phases.seconds["train"], trainer.split.device, recipe.dtype, team.size),
        "peak_memory": peak_memory(trainer.split.device, team),
    }


def _mean_reward(rows: pa.Table) -> float | None:
    return float(row_values(rows["reward"]).mean()) if "reward" in rows.column_names else None


def train_steps(
    trainer: Trainer,
    source: Source,
    recipe: Recipe,
    record: Record,
    *,
    publish: bool,
    metrics: str | None,
    quiet: bool,
    live: tuple[LiveMask, ...] = (),
    critic: Critic | None = None,
    keep: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on every step of a table, publish after each, and write its metrics.

    A step without tokens of the policy's trains nothing and has no metrics. It is published all the same, as a version
    of the same weights: whoever waits for the version of a step is answered, whatever became of the step.

    Args:
        trainer: the policy in training; locked by the caller where it is published.
        source: a masked or advantaged table.
        recipe: how to train.
        record: this run's record of provenance.
        publish: write a version after each step.
        metrics: directory that gets `step-000001.parquet`, ...
        quiet: show no progress.
        live: masks to run again on every mini-batch.
        critic: trained and published beside the policy; locked as the policy is.
        keep: how many versions of the policy, and of the critic, stay; None keeps all.

    Raises:
        MismatchError: a step was scored by another model than this run has trained.

    Yields:
        A row of metrics for each step.
    """
    ready = time.monotonic()
    for step in source:
        waited = time.monotonic() - ready
        source.activity.version = trainer.policy.version
        rows = samples(step.rows)
        if "advantages" in recipe.reads or recipe.trains != "policies":
            check_step(
                source, step.number, rows, trainer.versions, trainer.policy, source.allow_mismatch, recipe.trains
            )
        if critic is not None:
            check_step(source, step.number, rows, critic.versions, critic.policy, source.allow_mismatch, "critic")
        if not base_mask(rows).any():
            notice(f"update: step {step.number} has no tokens that the policy chose; nothing was trained")
            if publish:
                trainer.team.tell({"step": step.number})
                publish_all(trainer, critic, recipe, step.number, keep)
            ready = time.monotonic()
            continue
        # The file is opened first: a place that cannot be written is known before the work, and before the publishing.
        with metrics_file(metrics, step.number, trainer.policy, record, source) if metrics else nullcontext() as sink:
            values = _train(trainer, source, step.number, rows, recipe, live, critic, quiet)
            values["wait_seconds"] = waited
            values["published_version"] = trainer.policy.version + 1 if publish else None
            if sink is not None:
                columns = load_schema("metrics").columns
                row = pa.table({c.name: column_from([values[c.name]], c.arrow_type) for c in columns})
                sink.put(step.number, row, rows_read=step.rows.num_rows)
        if publish:
            source.activity.doing("publishes", version=trainer.policy.version + 1)
            written = None if metrics is None else Path(metrics_path(metrics, step.number))
            _publish_what_metrics_tell(trainer, critic, recipe, step.number, keep, written)
        source.activity.version = trainer.policy.version
        ready = time.monotonic()
        yield values
    trainer.team.tell({"end": True})


def _publish_what_metrics_tell(
    trainer: Trainer, critic: Critic | None, recipe: Recipe, number: int, keep: int | None, metrics: Path | None
) -> None:
    """Publish a step whose metrics are written, and take them away where it is cut short.

    After the metrics: those of a step that is cut short here are written again when the step is run again, while
    nobody would ever write those of a step that has its version.
    """
    version = trainer.policy.version
    try:
        publish_all(trainer, critic, recipe, number, keep)
    except BaseException:
        with pipes_unwatched():
            # The disk knows whether the version came to be; this process may have been interrupted before.
            root = trainer.policy.root
            published = root is not None and find_policy(str(root)).version > version
            if metrics is not None and not published:
                metrics.unlink(missing_ok=True)
        raise


def _train(
    trainer: Trainer,
    source: Source,
    number: int,
    rows: pa.Table,
    recipe: Recipe,
    live: tuple[LiveMask, ...],
    critic: Critic | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train policy and critic on a step's rows; its metrics, but for the version that is published."""
    team = trainer.team
    tokens = int(row_lengths(rows["tokens"]).sum())
    shown = tokens // team.size * recipe.epochs  # each process shows its own
    steps_before, publish_seconds = trainer.optimizer.steps, trainer.publish_seconds
    scored_here = _exact(trainer, source, number, rows, recipe)
    team.tell({"step": number, "scored_here": scored_here}, rows)
    with progress(f"update step {number}", shown, quiet=quiet) as advance:
        values = update_step(trainer, rows, recipe, scored_here=scored_here, live=live, advance=advance)
    values |= dict.fromkeys((*METRICS, "critic_seconds"))
    if critic is not None:
        with progress(f"update critic {number}", shown, quiet=quiet) as advance:
            learnt = critic_step(critic, rows, recipe, advance)
        learnt["critic_seconds"] = learnt.pop("seconds")
        learnt["skipped_steps"] += values["skipped_steps"]
        values |= learnt | {"seconds": values["seconds"] + learnt["critic_seconds"]}
    if values["skipped_steps"]:
        notice(
            f"update: step {number}: skipped {values['skipped_steps']} optimiser steps, of which loss or gradient is "
            "not a number"
        )
    elif trainer.optimizer.steps == steps_before:
        notice(f"update: step {number}: no token has a gradient; the weights stay as they are")
    how = trainer.optimizer.how
    if how.total_steps is not None and trainer.optimizer.steps > how.total_steps:
        notice(
            f"update: step {number}: the learning rate is 0 after --total-steps {how.total_steps}; raise it to go on"
        )
    tokens += int(row_lengths(rows["prompt_tokens"]).sum())
    behind = lag(rows, trainer.policy) if recipe.trains == "policies" else None
    own = {"step": number, "policy_version": trainer.policy.version, "lag": behind, "publish_seconds": publish_seconds}
    return values | own | {"tokens_per_second": tokens / values["seconds"]}


def _exact(trainer: Trainer, source: Source, number: int, rows: pa.Table, recipe: Recipe) -> bool:
    """Whether the statistics in the rows are those of the weights in training, as `measure` would compute them."""
    if recipe.dtype != "float32" and trainer.team.size > 1:  # there all passes are in it
        return False
    return trainer.exact and "advantages" in recipe.reads and scored_by(source, number, rows, trainer.policy)


def publish_all(trainer: Trainer, critic: Critic | None, recipe: Recipe, step: int, keep: int | None) -> None:
    """Publish what a step has trained, and delete the versions that are not kept; all processes must take part.

    Raises:
        OutputError: the disk refuses.
    """
    if critic is not None:
        # First: should the policy's publishing fail, the step can be run again, and a critic bears it twice.
        publish_critic(critic, step)
    publish_next(trainer, {} if recipe.bonus is None else recipe.bonus.facts(), step)
    for policy in [trainer.policy, *([] if critic is None else [critic.policy])]:
        if keep is not None and policy.root is not None and trainer.team.leads:
            delete_old_versions(policy.root, keep)


def publish_next(trainer: Trainer, facts: dict[str, float], step: int | None = None) -> None:
    """Publish the trained weights as the policy's next version, for which the trainer then stands.

    Args:
        trainer: the policy in training.
        facts: what else the next run continues with.
        step: that was trained.

    Raises:
        OutputError: the disk refuses.
    """
    began = time.monotonic()
    facts = {**trainer.optimizer.facts(), **facts}
    trainer.policy = publish_trained(
        trainer.policy, trainer.split, trainer.optimizer, facts, trainer.team, step=step, adapter=trainer.adapter
    )
    trainer.publish_seconds = time.monotonic() - began
    if trainer.team.leads:  # the others' disk may not have it yet
        trainer.versions.add(trainer.policy.digest)
        trainer.exact = True


def metrics_file(directory: str, step: int, policy: Policy, record: Record, source: Source) -> Sink:
    """The metrics of a step, a file of its own, so that a directory of them is the history of a run."""
    make_directory(directory)
    own = again(record, policy=policy.digest)
    return write(metrics_path(directory, step), "metrics", own, source)


def metrics_path(directory: str, step: int) -> str:
    """Where the metrics of a step stand."""
    return f"{directory}/step-{step:06d}.parquet"
