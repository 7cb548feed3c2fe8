"""Actors of a Ray cluster, and units of work that any of them may do, and that another does when one has died."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import pyarrow as pa

from entropyctl import errors
from entropyctl.cluster.actor import DONE, Actor
from entropyctl.cluster.connection import Connection
from entropyctl.errors import EngineError, EntropyctlError, ResourceError, UsageError, one_line

DEATHS = 3  # of actors over one unit, until it is at fault
PATIENCE_SECONDS = 30.0  # with a cluster that has no room, until it is said


@dataclass(eq=False)
class Unit:
    """A piece of work: an order, its rows, and what messages call it. It names all that an actor must hold for it."""

    order: Mapping[str, Any]
    rows: pa.Table | None  # None of what `prepare` asks for alone
    name: str
    deaths: int = 0


@dataclass(eq=False)
class _Place:
    """One of the actors, and what it is doing. `life` tells it from those that died here before."""

    handle: Any = None
    life: int = 0
    unit: Unit | None = None


class _Event(NamedTuple):
    place: _Place
    life: int
    future: Any


class Pool:
    """Actors that do one unit each at a time. After an error it is of no use but to be closed."""

    def __init__(
        self,
        make: str,
        options: dict[str, Any],
        *,
        actors: int | None,
        gpus: int,
        remedy: str,
        announce: Callable[[str], None],
    ) -> None:
        """Ask the cluster for actors; they start when `prepare` is first called.

        Args:
            make: `MODULE:FUNCTION` that makes an actor's worker.
            options: its keyword arguments.
            actors: how many; one for each free GPU, or for each machine of a cluster without one, when None.
            gpus: GPUs of an actor where the cluster has any; 0 asks for none.
            remedy: for an actor that is out of memory.
            announce: told of what a user should know.

        Raises:
            UsageError: the cluster is too small.
        """
        self._connection = Connection(actors or 1)
        self._ray = self._connection.ray
        self._remedy, self._announce = remedy, announce
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._first: Unit | None = None  # what an actor does before all else
        self._answered = False
        try:
            gpus = gpus if self._ray.cluster_resources().get("GPU", 0) else 0
            self._places = [_Place() for _ in range(self._room(actors, gpus))]
            resources = {"num_gpus": gpus} if gpus else {"num_cpus": 1}
            kind = self._ray.remote(Actor).options(
                **resources, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
            )
            self._new_actor: Callable[[], Any] = lambda: kind.remote(make, options)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many actors there are."""
        return len(self._places)

    def _room(self, actors: int | None, gpus: int) -> int:
        total = self._ray.cluster_resources()
        room = int(total.get("GPU", 0) // gpus if gpus else total.get("CPU", 0))
        if actors is None and gpus:
            # What another command of the same pipe holds it holds until this one has read.
            actors = int(self._ray.available_resources().get("GPU", 0) // gpus)
            if room and not actors:
                raise UsageError(
                    f"--runner ray: of the cluster's GPUs ({total['GPU']:g}) too few are free; commands that share a "
                    "cluster need --actors, each its part"
                )
        machines = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in self._ray.nodes())
        wanted = actors or max(machines, 1)
        if wanted > room:
            each = f"{gpus} GPU" if gpus else "a CPU"
            raise UsageError(f"--actors {wanted}: the cluster has room for {room} with {each} each; ask for no more")
        return wanted

    def close(self) -> None:
        """End the actors."""
        self._connection.close()

    def prepare(self, order: Mapping[str, Any], name: str) -> Any:
        """Have all actors do something first, such as loading a model, and those that take the place of a dead one too.

        Args:
            order: what.
            name: of it, for messages.

        Returns:
            The answer of the first that has done it; the others go on.
        """
        self._first = Unit(order, None, name)
        while True:
            for place in self._places:
                if place.handle is None:
                    self._start(place)
                elif place.unit is None:
                    self._send(place, self._first)
            unit, answer, lost = self._next()
            if unit is self._first and not lost:
                return answer

    def run(self, units: Iterable[Unit], done: Callable[[Unit, Any], None]) -> None:
        """Have every unit done once.

        Args:
            units: in the order in which they are begun.
            done: told of each with its answer, in the order in which they end.

        Raises:
            EntropyctlError: what an actor raised, or a unit over which actors die again and again.
        """
        waiting = deque(units)
        left = len(waiting)
        while left:
            for place in self._places:
                if place.unit is None and waiting:
                    self._send(place, waiting.popleft())
            unit, answer, lost = self._next()
            if unit.rows is None:
                continue  # an actor that is ready only now
            if lost:
                waiting.appendleft(unit)
            else:
                left -= 1
                done(unit, answer)

    def _start(self, place: _Place) -> None:
        assert self._first is not None
        place.handle = self._new_actor()
        place.life += 1
        self._send(place, self._first)

    def _send(self, place: _Place, unit: Unit) -> None:
        place.unit = unit
        life = place.life
        future = place.handle.do.remote(unit.order, unit.rows).future()
        # Waited for in a queue of Python's: Ray's own waiting loses what a handler of a signal raises.
        future.add_done_callback(lambda one: self._events.put(_Event(place, life, one)))

    def _next(self) -> tuple[Unit, Any, bool]:
        """The next unit that has ended, its answer, and whether it was lost with its actor."""
        while True:
            event = self._wait()
            place, unit = event.place, event.place.unit
            if event.life != place.life or unit is None:
                continue  # of an actor that was given up
            place.unit = None
            try:
                kind, *answer = event.future.result()
            except self._ray.exceptions.RayError as error:
                self._died(unit, error)
                self._ray.kill(place.handle)  # where it only could not be reached it must not go on beside the new one
                self._start(place)
                return unit, None, True
            if kind != DONE:
                raise self._fault(*answer)
            unit.deaths = 0
            return unit, answer[0], False

    def _wait(self) -> _Event:
        if not self._answered:
            self._answered = True
            try:
                return self._events.get(timeout=PATIENCE_SECONDS)
            except Empty:
                free = self._ray.available_resources()
                self._announce(
                    f"no actor has answered yet; they load, or wait for room (free: {free.get('GPU', 0):g} GPUs, "
                    f"{free.get('CPU', 0):g} CPUs), where commands that share a cluster need --actors"
                )
        return self._events.get()

    def _died(self, unit: Unit, error: Exception) -> None:
        unit.deaths += 1
        memory = "OUT_OF_MEMORY" in str(error) or type(error).__name__ == "OutOfMemoryError"
        if unit.deaths < DEATHS:
            why = " (out of memory)" if memory else ""
            self._announce(f"an actor has died over {unit.name}{why}; another does it")
        elif memory:
            raise ResourceError(f"{unit.name}: {DEATHS} actors ran out of memory over it; {self._remedy}") from error
        else:
            last = one_line(str(error).strip().splitlines()[-1])[:300] if str(error).strip() else type(error).__name__
            raise EngineError(
                f"{unit.name}: {DEATHS} actors have died over it ({last}); if they ran out of memory, {self._remedy}"
            ) from error

    def _fault(self, name: str, message: str, trace: str) -> EntropyctlError:
        kind = getattr(errors, name)
        error: EntropyctlError = kind(f"{message}; {self._remedy}" if kind is ResourceError else message)
        error.add_note(trace)  # shown by --debug
        return error
