"""Masks that run again on each mini-batch, with the statistics of the policy as it is then."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.inputs import GIVEN
from entropyctl.masks import Compiled
from entropyctl.masks._laid import Laid, lay
from entropyctl.table import Source
from entropyctl.table.source import check_needs
from entropyctl.tokenstats import SplitModel
from entropyctl.training.batch import Batch, columns_for
from entropyctl.training.processes import ALONE, Team
from entropyctl.training.recipe import Recipe
from entropyctl.training.sharded import score_together


class LiveMask(NamedTuple):
    """A mask as the file records it."""

    name: str
    function: Callable[..., Compiled]
    params: dict[str, Any]


def recorded_masks(source: Source) -> tuple[LiveMask, ...]:
    """The masks that made the weights and the loss mask of a table, oldest first.

    Raises:
        UsageError: there is none, or one that cannot run again.
        InputError: a column that one reads is not in the table.
    """
    # Each column's own file knows what made it; a mask in another file was laid aside.
    records = {r["id"]: r for name in ("weights", "kl_coefs", "loss_mask") for r in source.chain_of(name)}
    found = []
    for record in records.values():
        stage, _, name = record["stage"].partition(" ")
        if stage != "mask":
            continue
        function = registry.load_function("masks", name)
        if remembered := [read for read in registry.inputs_of(function) if read in GIVEN]:
            raise UsageError(
                f"--mask live: mask {name} reads '{remembered[0]}' of whole steps, which a mini-batch is not; "
                "use --mask saved"
            )
        if unknown := set(record["params"]) - set(inspect.signature(function).parameters):
            raise UsageError(
                f"--mask live: mask {name} has no parameter '{min(unknown)}', with which {source.path} was made, by "
                f"version {record.get('version')}; mask it again, or use --mask saved"
            )
        found.append(LiveMask(name, function, record["params"]))
    if not found:
        raise UsageError(f"--mask live: no mask is recorded in {source.path}; run `entropyctl mask` first")
    check_needs(source.path, source.columns, columns_for(reads_of(tuple(found)))[0])
    return tuple(found)


def reads_of(masks: tuple[LiveMask, ...]) -> tuple[str, ...]:
    """The inputs of the masks, and the loss mask that they start from."""
    reads = tuple(name for mask in masks for name in registry.inputs_of(mask.function))
    return (*reads, "base_mask") if masks else ()


def masked_now(
    split: SplitModel, batch: Batch, masks: tuple[LiveMask, ...], recipe: Recipe, team: Team = ALONE
) -> Batch:
    """A mini-batch under its masks, computed again from the policy's statistics as they are.

    Args:
        split: the model in training.
        batch: the mini-batch, with the inputs that the masks read, and `base_mask`.
        masks: in the order in which they ran.
        recipe: temperature and batching.
        team: the processes that train together.
    """
    found = score_together(split, batch.sequences, recipe, team)
    now = {name: getattr(found, name).numpy() for name in found._fields} | {"row_of_token": batch.row_of_token}
    laid = Laid(None, None, batch.inputs["base_mask"])
    for mask in masks:
        weights = np.ones(len(laid.loss_mask), np.float32) if laid.weights is None else laid.weights
        given = now | {"loss_mask": laid.loss_mask, "weights": weights}
        arguments = [given.get(name, batch.inputs.get(name)) for name in registry.inputs_of(mask.function)]
        laid = lay(laid, mask.function(*arguments, **mask.params))
    return batch.masked(laid.loss_mask, laid.weights, laid.kl_coefs)
