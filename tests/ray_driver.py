"""Programs that tests/test_ray.py runs, and what it knows of processes.

ray_driver.py cluster                  a Ray of two actors; prints what joins it, and ends with its standard input
ray_driver.py PID entropyctl ARGS...   the command; when it sends its third unit of work, an actor below PID is killed
ray_driver.py faults                   units that cannot be done, over the cluster at RAY_ADDRESS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from entropyctl.cluster.connection import Connection
from entropyctl.cluster.pool import Pool, Unit
from entropyctl.errors import EntropyctlError, InputError

JOINS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


def processes() -> dict[int, tuple[int, str]]:
    """Parent and title of every process that runs."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                title = (directory / "cmdline").read_text().replace("\0", " ").strip()
                found[int(directory.name)] = (int(parent), title)
        except OSError:  # ended meanwhile
            continue
    return found


def below(pid: int) -> dict[int, str]:
    """The processes that a process has started, and those that they have, with their titles."""
    everything = processes()
    found: dict[int, str] = {}
    wanted = {pid}
    while new := {p: title for p, (parent, title) in everything.items() if parent in wanted and p not in found}:
        found |= new
        wanted = set(new)
    return found


def actors(pid: int) -> list[int]:
    return [p for p, title in below(pid).items() if title.startswith("ray::Actor")]


def cluster() -> None:
    connection = Connection(2)
    address = connection.ray.get_runtime_context().gcs_address
    print(json.dumps({"RAY_ADDRESS": address, **{name: os.environ[name] for name in JOINS}}), flush=True)
    sys.stdin.read()
    connection.close()


def command_with_a_death(pid: int, argv: list[str]) -> None:
    from entropyctl.cli import main

    send, run, sent = Pool._send, Pool.run, []

    def when_all_are_ready(pool: Pool, *args: Any) -> None:
        while any(place.unit is not None for place in pool._places):
            pool._next()
        run(pool, *args)

    def deadly(pool: Pool, place: Any, unit: Unit) -> None:
        send(pool, place, unit)
        if unit.rows is not None:
            sent.append(unit)
            if len(sent) == 3:  # the first two have kept both actors busy, and one of them has ended
                while len(found := actors(pid)) != 2:  # an earlier command's may still be ending
                    time.sleep(0.05)
                os.kill(found[0], signal.SIGKILL)

    Pool._send, Pool.run = deadly, when_all_are_ready  # type: ignore[method-assign]
    main(argv)


def worker() -> Callable[[Mapping[str, Any], pa.Table | None], Any]:
    """A worker that does what it is told: it doubles, dies, or fails."""

    def work(order: Mapping[str, Any], rows: pa.Table | None) -> Any:
        if order["what"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order["what"] == "memory":
            raise MemoryError
        if order["what"] == "input":
            raise InputError("row 3: is wrong; mend it")
        if order["what"] == "bug":
            raise ZeroDivisionError("by zero")
        return None if rows is None else 2 * rows["n"][0].as_py()

    return work


def faults() -> None:
    """Print the answers before and the error of each fault."""
    for what in ("die", "memory", "input", "bug"):
        said: list[str] = []
        pool = Pool("ray_driver:worker", {}, actors=2, gpus=1, remedy="lower --this", announce=said.append)
        pool.prepare({"what": "ready"}, "nothing")
        answers: list[int] = []
        whats = [*["double"] * 6, what]
        units = [Unit({"what": w}, pa.table({"n": [i]}), f"prompt p{i}") for i, w in enumerate(whats)]
        try:
            pool.run(units, lambda unit, answer, answers=answers: answers.append(answer))
        except EntropyctlError as error:
            said.append(f"{error.exit_code} {error}")
        pool.close()
        print(json.dumps([sorted(answers), said]), flush=True)
    try:
        Pool("ray_driver:worker", {}, actors=3, gpus=1, remedy="", announce=print)
    except EntropyctlError as error:
        print(json.dumps(f"{error.exit_code} {error}"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cluster"]:
            cluster()
        case ["faults"]:
            faults()
        case [pid, "entropyctl", *argv]:
            command_with_a_death(int(pid), argv)
