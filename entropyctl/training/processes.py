"""The processes that train one policy together, as torchrun starts them.

The first alone reads the table, holds the lock, writes metrics, publishes and speaks; it tells the others what to do.
Everything that decides on the way (denominators, norms, statistics) is known to all, so that all take the same steps.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.errors import EngineError, UsageError
from entropyctl.policy.checkpoint import parse_device
from entropyctl.reporting import silence, speak
from entropyctl.table.parcel import pack, unpack
from entropyctl.training.batch import Array

# A step may be sampled for hours. That a process has died is known from its connections, never from a clock.
FOR_EVER = timedelta(days=365)
# Who ends because another has failed waits for the other's message: torchrun ends all as soon as one has ended.
BLAME_SECONDS = 2.0
# How long a process that is told to end may take to clear away; one that waits for a GPU never hears it.
GRACE_SECONDS = 5.0
CHUNK = 1 << 28


@dataclass(frozen=True)
class Team:
    """One of `size` processes that train together; alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the process that reads, writes and speaks."""
        return self.rank == 0

    def tell(self, facts: dict[str, Any], rows: pa.Table | None = None) -> None:
        """Tell the others what to do next; the first process alone does so.

        Args:
            facts: what JSON can carry.
            rows: of a step.
        """
        if self.size > 1:
            text, data = json.dumps(facts).encode(), b"" if rows is None else pack(rows)
            _broadcast(np.array([len(text), len(data)]))
            _broadcast(np.frombuffer(bytearray(text + data), np.uint8))

    def hear(self) -> tuple[dict[str, Any], pa.Table | None]:
        """What the first process tells; waits for it."""
        sizes = _broadcast(np.zeros(2, np.int64))
        data = _broadcast(np.zeros(int(sizes.sum()), np.uint8)).tobytes()
        rows = data[sizes[0] :]
        return json.loads(data[: sizes[0]]), unpack(rows) if rows else None

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.sum(np.zeros(1))

    def sum(self, values: Array) -> Array:
        """The sum over all processes, which all get."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values))
        torch.distributed.all_reduce(total)
        return total.numpy()


ALONE = Team()


def _broadcast(values: Array) -> Array:
    for part in torch.split(torch.from_numpy(values), CHUNK):
        torch.distributed.broadcast(part, src=0)
    return values


def size_of_team() -> int:
    """How many processes were started together, as torchrun says it in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def together(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started beside this one; alone where it started none.

    Of several processes that fail, or that end because one has failed, one alone speaks.

    Args:
        device: as the user names it; each process takes the GPU of its number on the machine.

    Raises:
        UsageError: the processes cannot find one another, or there are fewer GPUs than processes.
        EngineError: another process has died.
    """
    if size_of_team() == 1:
        yield ALONE
        return
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"RANK and WORLD_SIZE are set, but {error}; start the processes with torchrun") from None
    watch = _Watch(clears_away=rank == 0)
    try:
        place = _own_device(device)
        # Rows and sums travel by gloo, gradients and weights by what the device has.
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
            store=PrefixStore("training", store),
            rank=rank,
            world_size=size,
            timeout=FOR_EVER,
        )
        yield Team(rank, size, place)
        distributed.destroy_process_group()
    except Exception as error:
        lost = _is_lost_connection(error)
        (speak if _is_first_to_fail(store, BLAME_SECONDS if lost else 0.0) else silence)()
        if lost:
            raise EngineError("another process of this training has died; torchrun's report names it") from error
        raise
    finally:
        watch.stop()


def _own_device(name: str) -> torch.device:
    found = parse_device(name)
    if found.type != "cuda":
        return found
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if ":" in name:
        raise UsageError(f"--device {name}: under torchrun each process has a GPU of its own; give --device cuda")
    if number >= there:
        raise UsageError(f"torchrun started {number + 1} processes or more, but {there} GPUs are visible; start fewer")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _is_lost_connection(error: Exception) -> bool:
    from torch import distributed

    known = isinstance(error, distributed.DistBackendError | distributed.DistNetworkError)
    return known or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _is_first_to_fail(store: Any, patience: float) -> bool:
    """Whether no other process has failed before; who has lost a connection waits a little for the one at fault."""
    end = time.monotonic() + patience
    try:
        while store.add("failed", 0) == 0 and time.monotonic() < end:
            time.sleep(0.05)
        return store.add("failed", 1) == 1
    except RuntimeError:  # the store is gone, and with it torchrun
        return os.environ["RANK"] == "0"


class _Watch:
    """Ends this process when it should end and nothing in it would notice.

    A signal is handled between two instructions of Python's, and a process that waits in a collective operation for one
    that has died may never come to the next. And where torchrun itself is killed, nobody sends a signal.
    """

    ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))

    def __init__(self, *, clears_away: bool) -> None:
        """Begin to watch, in the main thread.

        Args:
            clears_away: the process has unfinished files; one that has none ends where it stands.
        """
        self._parent = os.getppid()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        if not clears_away:
            for number in self.ENDING:
                signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._watch, name="team-watch", daemon=True).start()

    def _watch(self) -> None:
        while True:
            if select.select([self._wake], [], [], 1.0)[0]:
                numbers = os.read(self._wake, 64)
                if not numbers:
                    return
                if told := self.ENDING & set(numbers):
                    time.sleep(GRACE_SECONDS)
                    os._exit(128 + min(told))
            elif os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """Watch no longer, unless the end has begun."""
        signal.set_wakeup_fd(-1)
        os.close(self._waker)
