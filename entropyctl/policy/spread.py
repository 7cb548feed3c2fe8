"""Scoring spread over the actors of a Ray cluster: the forward passes of one process, each done by whoever is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from entropyctl.cluster.pool import Pool, Unit
from entropyctl.errors import UsageError
from entropyctl.policy.versions import Policy
from entropyctl.table.columns import flat_values, list_column, row_column, row_lengths, with_column
from entropyctl.table.conform import row_name
from entropyctl.table.schema import KEY
from entropyctl.tokenstats import Sharing, SplitModel, forward_batches, table

SENT = (*KEY, "prompt_tokens", "tokens")


def in_words(policy: Policy) -> dict[str, Any]:
    """A version as an order names it; its directory must be there on every machine."""
    return {"directory": str(policy.directory.absolute()), "version": policy.version, "digest": policy.digest}


def policy_of(words: Mapping[str, Any]) -> Policy:
    """The version that an order names."""
    return Policy(Path(words["directory"]), words["version"])


def threads_here() -> int:
    """Threads that one process here computes with: their number decides the last bits of a sum on a CPU."""
    return torch.get_num_threads()


def check_device(device: str) -> None:
    """Refuse to name a GPU: Ray gives an actor one of its own.

    Raises:
        UsageError: names the flag.
    """
    if ":" in device:
        raise UsageError(
            f"--device {device}: with --runner ray each actor has a GPU of its own; give auto, cuda or cpu"
        )


def open_pool(actors: int | None, *, dtype: str, device: str, announce: Callable[[str], None]) -> Pool:
    """Actors that score.

    Args:
        actors: how many; None for one on each GPU, or each machine.
        dtype: number type of the weights.
        device: where an actor computes.
        announce: told of what a user should know.
    """
    check_device(device)
    return Pool(
        "entropyctl.policy.spread:Worker",
        {"dtype": dtype, "device": device, "threads": threads_here()},
        actors=actors,
        gpus=0 if device == "cpu" else 1,
        remedy="lower --token-budget",
        announce=lambda text: announce(f"score: {text}"),
    )


class Spread:
    """A role's model that actors hold; it can become another version of itself, as one that is here can."""

    def __init__(self, pool: Pool, role: str, policy: Policy, *, stays: bool) -> None:
        self.pool, self.role, self._policy = pool, role, policy
        self.sharing = Sharing(packs=False)
        self._held = ""
        self._stays = stays
        if stays:
            self()

    def turn_to(self, policy: Policy) -> None:
        """Be this version from now on."""
        self._policy = policy

    @property
    def order(self) -> dict[str, Any]:
        """What an actor must hold."""
        return {"role": self.role, "policy": in_words(self._policy)}

    def __call__(self) -> Spread:
        """The model, once an actor holds it."""
        if not self._stays or self._held != self._policy.digest:
            self.sharing = self.pool.prepare(self.order, str(self._policy.directory))
            self._held = self._policy.digest
        return self


def add_over(
    name: str,
    columns: Sequence[str],
    settings: dict[str, Any],
    rows: pa.Table,
    model: Spread,
    *,
    token_budget: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with what a function of `tokenstats.table` adds, out of the passes that one process makes.

    Args:
        name: of the function.
        columns: that it makes.
        settings: its keyword arguments.
        rows: with `prompt_tokens` and `tokens`.
        model: of its role.
        token_budget: most tokens in one forward pass.
        advance: told the response tokens done.

    Raises: what the function raises.
    """
    lengths_B = row_lengths(rows["tokens"])
    ends_B = np.cumsum(lengths_B)
    values = {column: np.empty(lengths_B.sum(), np.float32) for column in columns}
    units = _units(rows, lengths_B, model, {**model.order, "add": name, "settings": settings}, token_budget)

    def finished(unit: Unit, made: pa.Table) -> None:
        chosen = units[unit]
        tokens_N = np.concatenate([np.arange(ends_B[i] - lengths_B[i], ends_B[i]) for i in chosen])
        for column in columns:
            values[column][tokens_N] = flat_values(made[column])
        advance(len(tokens_N))

    model.pool.run(units, finished)
    for column in columns:
        rows = with_column(rows, column, list_column(values[column], lengths_B, pa.float32()))
    return rows


def _units(
    rows: pa.Table, lengths_B: npt.NDArray[np.int64], model: Spread, order: dict[str, Any], token_budget: int
) -> dict[Unit, npt.NDArray[np.int64]]:
    """A unit for each forward pass, with the places of its rows."""
    scored = np.flatnonzero(lengths_B)
    sent = rows.select([name for name in SENT if name in rows.column_names])
    pairs = zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True)
    sequences = [(prompt or [], tokens) for prompt, tokens in pairs if tokens]
    found = {}
    for batch in forward_batches(model, sequences, token_budget):
        chosen = scored[batch]
        part = sent.take(row_column(chosen, pa.int64()))
        more = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
        found[Unit(order, part, f"row {row_name(part, 0)}{more}")] = chosen
    return found


class Worker:
    """The actor's side: one model, which gives way to another when an order asks for one."""

    def __init__(self, dtype: str, device: str, threads: int) -> None:
        """Remember how models are loaded.

        Args:
            dtype: number type of the weights.
            device: where to compute.
            threads: of a CPU, to compute with.
        """
        torch.set_num_threads(threads)
        self._dtype, self._device = dtype, device
        self._split: SplitModel | None = None
        self._held: tuple[str, str] | None = None

    def __call__(self, order: Mapping[str, Any], rows: pa.Table | None) -> pa.Table | Sharing:
        """The columns that are made for the rows; without rows, how they share passes of the model."""
        from entropyctl.policy.scorer import loader

        wanted = (order["role"], order["policy"]["digest"])
        if self._split is None or wanted != self._held:
            self._split = None  # so that memory never holds two
            self._split = loader(order["role"], policy_of(order["policy"]), self._dtype, self._device)()
            self._held = wanted
        if rows is None:
            return self._split.sharing
        made = getattr(table, order["add"])(rows, self._split, token_budget=None, **order["settings"])
        return made.drop_columns(rows.column_names)
