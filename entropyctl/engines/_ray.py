"""Sampling spread over the actors of a Ray cluster, each with an engine of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.cluster.pool import Pool, Unit
from entropyctl.engines._sampling import BATCH_ROWS, Done, Engine, Request, Response, Sampling, batches, ignore
from entropyctl.errors import UsageError
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_tokenizer
from entropyctl.policy.spread import check_device, in_words, policy_of, threads_here
from entropyctl.registry import load_function
from entropyctl.table.columns import column_from
from entropyctl.table.types import list_of

# Units for each actor, of engines that fill a batch by themselves: few, as each ends with idle slots; not too few, so
# that the actors end together.
UNITS = 4


def over_ray(engine: str, actors: int | None, announce: Callable[[str], None]) -> Callable[..., Engine]:
    """An engine by name, as a function with an engine's arguments, that samples on actors which hold it.

    Args:
        engine: its name.
        actors: how many; None for one on each GPU, or each machine.
        announce: told of what a user should know.

    Raises:
        UsageError: the engine runs elsewhere anyway.
    """
    if engine == "server":
        raise UsageError("--runner ray: a server answers any number of rollouts by itself; leave out one of the two")

    def start(policy: Policy, *, dtype: str, device: str, batch_rows: int | None, arguments: dict[str, str]) -> Engine:
        check_device(device)
        rows = (batch_rows or BATCH_ROWS) if engine == "transformers" else batch_rows
        given = {"dtype": dtype, "device": device, "batch_rows": rows, "arguments": arguments}
        options = {"engine": engine, "given": given, "threads": threads_here()}
        pool = Pool(
            "entropyctl.engines._ray:Worker",
            options,
            actors=actors,
            gpus=0 if device == "cpu" else _gpus(arguments),
            remedy="lower --batch-rows",
            announce=lambda text: announce(f"rollout: {text}"),
        )
        with ExitStack() as stack:  # the pool ends with whatever goes wrong here
            stack.callback(pool.close)
            running = _Running(pool, rows if engine == "transformers" else None, announce)
            running.load(policy)
            tokenizer = load_tokenizer(policy)
            stack.pop_all()
        return Engine(running.sample, tokenizer, running.load, pool.close)

    return start


def _gpus(arguments: Mapping[str, str]) -> int:
    """What one engine takes: more than one where vLLM splits the model."""
    sizes = [arguments.get(name, "1") for name in ("tensor_parallel_size", "pipeline_parallel_size")]
    return int(np.prod([int(size) if size.isdigit() else 1 for size in sizes]))


class _Running:
    """The driver's side: it cuts requests into units, and puts the answers together."""

    def __init__(self, pool: Pool, batch_rows: int | None, announce: Callable[[str], None]) -> None:
        self._pool, self._batch_rows, self._announce = pool, batch_rows, announce
        self._policy: dict[str, Any] = {}
        self._told = False

    def load(self, policy: Policy) -> None:
        """Have the actors take another version. A unit names its version, so none is drawn with another one."""
        self._policy = in_words(policy)
        self._pool.prepare({"policy": self._policy}, str(policy.directory))

    def sample(self, requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
        """Answer the requests in their order."""
        chosen = self._units(requests)
        if self._batch_rows is not None and len(chosen) < len(self._pool) and not self._told:
            self._told = True
            self._announce(
                f"rollout: {len(requests)} responses in batches of {self._batch_rows} leave some of "
                f"{len(self._pool)} actors idle; lower --batch-rows"
            )
        order = {"policy": self._policy, "sampling": asdict(sampling)}
        places: dict[Unit, list[int]] = {}
        for indices in chosen:
            part = [requests[i] for i in indices]
            places[Unit(order, request_rows(part), _name(part))] = indices
        answers: dict[int, Response] = {}

        def finished(unit: Unit, rows: pa.Table) -> None:
            for i, answer in zip(places[unit], responses_of(rows), strict=True):
                answers[i] = answer
                done(i, answer)

        self._pool.run(places, finished)
        return [answers[i] for i in range(len(requests))]

    def _units(self, requests: Sequence[Request]) -> list[list[int]]:
        """The batches that one process samples side by side, so that not a bit differs; else whole groups."""
        if self._batch_rows is not None:
            return batches(requests, self._batch_rows)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(request.prompt_id, []).append(i)
        count = max(1, len(groups) // (UNITS * len(self._pool)))
        parts = list(groups.values())
        return [list(chain.from_iterable(parts[at : at + count])) for at in range(0, len(parts), count)]


def _name(requests: Sequence[Request]) -> str:
    prompts = list(dict.fromkeys(request.prompt_id for request in requests))
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return f"prompt{'s' * (len(prompts) > 1)} {', '.join(prompts[:3])}{more}"


class Worker:
    """The actor's side: an engine, which takes another version when an order asks for one."""

    def __init__(self, engine: str, given: dict[str, Any], threads: int) -> None:
        """Remember how the engine is started; it is with the first order.

        Args:
            engine: its name.
            given: its keyword arguments.
            threads: of a CPU, to compute with.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a child would survive the actor's death
        self._start, self._given, self._threads = load_function("engines", engine), given, threads
        self._engine: Engine | None = None
        self._digest = ""

    def __call__(self, order: Mapping[str, Any], rows: pa.Table | None) -> pa.Table | None:
        """The responses to the requests that the rows are."""
        digest = order["policy"]["digest"]
        if self._engine is None:
            import torch

            torch.set_num_threads(self._threads)
            self._engine = self._start(policy_of(order["policy"]), **self._given)
        elif digest != self._digest:
            self._engine.load(policy_of(order["policy"]))
        self._digest = digest
        if rows is None:
            return None
        return response_rows(self._engine.sample(requests_of(rows), Sampling(**order["sampling"])))


def request_rows(found: Sequence[Request]) -> pa.Table:
    """Requests as rows."""
    kinds = (pa.string(), pa.int64(), list_of(pa.int64()), list_of(pa.float64()), list_of(pa.string()))
    return _rows([r._replace(uniforms=r.uniforms.tolist()) for r in found], Request._fields, kinds)


def requests_of(rows: pa.Table) -> list[Request]:
    """Rows as requests."""
    columns = [rows[name].to_pylist() for name in Request._fields]
    found = zip(*columns, strict=True)
    return [Request(prompt, i, tokens, np.array(u, np.float64), tuple(stop)) for prompt, i, tokens, u, stop in found]


def response_rows(found: Sequence[Response]) -> pa.Table:
    """Responses as rows."""
    kinds = (list_of(pa.int64()), list_of(pa.float64()), pa.string(), pa.string())
    return _rows(found, Response._fields, kinds)


def responses_of(rows: pa.Table) -> list[Response]:
    """Rows as responses."""
    return [Response(*values) for values in zip(*(rows[name].to_pylist() for name in Response._fields), strict=True)]


def _rows(found: Sequence[tuple[Any, ...]], names: Sequence[str], kinds: Sequence[pa.DataType]) -> pa.Table:
    columns = [[one[i] for one in found] for i in range(len(names))]
    return pa.table({n: column_from(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})
