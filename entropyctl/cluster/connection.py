"""Joining the Ray cluster that RAY_ADDRESS names, or starting one on this machine for as long as the command runs."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from entropyctl.cluster import keeper
from entropyctl.errors import EngineError, Temporary, UsageError, one_line

# Read when ray is imported. What Ray has to say of its processes it would print to standard output, among the data.
QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
PORT = 6379
REMEDY = "start a cluster by `ray start --head`, or unset RAY_ADDRESS for one on this machine alone"
CONNECT_SECONDS = 10.0
STORE_BYTES = 1 << 28  # of shared memory, for the units that are under way


class Connection:
    """A Ray cluster that this process has joined, or its own."""

    def __init__(self, actors: int) -> None:
        """Join or start it.

        Args:
            actors: how many will run, for a cluster that is started.

        Raises:
            UsageError: RAY_ADDRESS is none that can be used.
            Temporary: nobody answers there.
            EngineError: Ray refuses, or does not start.
        """
        address = os.environ.get("RAY_ADDRESS") or "local"
        os.environ.update(QUIET)
        self.ray: Any = None
        self._keeper: subprocess.Popen[bytes] | None = None
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if address == "local":
            os.environ.update(_private())
            # A model for each core would be too many already; two even of one core, to try what a cluster does.
            room = max(os.cpu_count() or 1, 2)
            options |= {"num_cpus": min(actors, room), "include_dashboard": False, "object_store_memory": STORE_BYTES}
        else:
            _check_address(address)
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of half a minute
        import ray

        self.ray = ray
        try:
            if address == "local":
                options["_temp_dir"] = self._kept_directory()
            with _undisturbed():
                ray.init(address=address, **options)
        except Exception as error:
            self.close()
            if "InvalidAuthToken" in f"{error} {error.__cause__}":
                raise EngineError(
                    f"RAY_ADDRESS {address}: the cluster wants a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
                    "where it is not in ~/.ray/auth_token"
                ) from error
            if isinstance(error, ConnectionError):
                raise Temporary(f"RAY_ADDRESS {address}: no cluster answers; {REMEDY}") from error
            what = "Ray does not start here" if address == "local" else f"RAY_ADDRESS {address}: Ray refuses"
            raise EngineError(f"{what}: {one_line(str(error))}") from error
        except BaseException:
            self.close()
            raise

    def _kept_directory(self) -> str:
        # Not below TMPDIR, which may be deep: the path of a socket has about a hundred bytes.
        directory = tempfile.mkdtemp(prefix="entropyctl-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        self._keeper = keeper.keep(os.path.realpath(directory))
        return directory

    def close(self) -> None:
        """Leave the cluster, which ends the actors; one that was started for us ends with all its processes."""
        self.ray.shutdown()
        if self._keeper is not None:
            keeper.release(self._keeper)


def _private() -> dict[str, str]:
    """Settings of a cluster of our own: on loopback (so Ray calls one that spans no machines), for who knows a word."""
    words = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **words}


def _check_address(address: str) -> None:
    """Stop at once where Ray would try for minutes.

    Raises:
        UsageError: it is no HOST:PORT.
        Temporary: nobody answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(PORT))
    if "/" in address or not port.isdigit():
        raise UsageError(f"RAY_ADDRESS {one_line(address)}: must be HOST:PORT of a cluster's head; {REMEDY}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise Temporary(f"RAY_ADDRESS {one_line(address)}: no cluster answers ({error}); {REMEDY}") from None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Start Ray without its hands on this process's signals, standard input, output and error.

    Its processes would hold the pipe of a stage that has died open, its handler would end this process by itself, and
    of its attempts to connect it tells one by one what its exception tells in the end.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {descriptor: os.dup(descriptor) for descriptor in (0, 1, 2)}
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in ours:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    terminated = False
    try:
        yield
    except SystemExit:
        terminated = True
    finally:
        for descriptor, copy in ours.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)
