"""A vLLM server as a child process on loopback: its start, its life, and the end of all its processes."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from entropyctl.children import command, import_path
from entropyctl.engines._server_client import Client, Passing, Refused
from entropyctl.engines._vllm_setup import require_vllm
from entropyctl.errors import EngineError, UsageError
from entropyctl.policy import Policy
from entropyctl.policy.adapter import check_whole
from entropyctl.web import Address, in_background

PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
PATIENCE = 15.0  # seconds that its processes have to end before they are killed


def serve_policy(
    policy: Policy, *, port: int, dtype: str, arguments: dict[str, str], announce: Callable[[str], None]
) -> NoReturn:
    """Run a server until it ends, or an exception such as a signal's ends the wait for that.

    Args:
        policy: the checkpoint that it starts with.
        port: on 127.0.0.1; 0 for a free one.
        dtype: number type of the weights.
        arguments: vLLM's engine arguments by name, as text.
        announce: called with its URL when it answers.

    Raises:
        UsageError: vLLM is not here, or the port is taken.
        EngineError: it does not start, or ends.
    """
    require_vllm()
    port = _free_port(port)
    check_whole(policy, "vLLM")
    words = [str(policy.directory.resolve()), str(port), dtype, json.dumps(arguments)]
    with _child(command("entropyctl.engines._vllm_server", *words)) as process:
        client = Client(f"http://127.0.0.1:{port}", Address(False, "127.0.0.1", port, ""), timeout=10, retries=0)
        while not in_background(lambda: _answers(client)):
            if process.poll() is not None:
                raise _ended(process, "while it started")
            time.sleep(0.3)
        in_background(lambda: client.call("POST", "/update_weight_version", {"new_version": policy.digest}))
        announce(client.url)
        process.wait()
        raise _ended(process, "by itself")


def _free_port(port: int) -> int:
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--port {port}: cannot be had ({reason}); give another, or 0 for any") from None
        return int(found.getsockname()[1])


async def _answers(client: Client) -> bool:
    try:
        await client.call("GET", "/health")
    except (Passing, Refused):
        await asyncio.sleep(0.2)
        return False
    return True


def _ended(process: subprocess.Popen[bytes], when: str) -> BaseException:
    if process.returncode == UsageError.exit_code:  # it has said why
        return SystemExit(UsageError.exit_code)
    return EngineError(f"vLLM ended {when} with status {process.returncode}; what it said stands above")


@contextmanager
def _child(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, so that a terminal's Ctrl-C reaches it through us alone, and it ends whole."""
    _adopt_orphans()
    settings = {"PYTHONPATH": import_path(), "VLLM_SERVER_DEV_MODE": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=2, env={**os.environ, **settings}, start_new_session=True
    )
    try:
        yield process
    finally:
        _end(process)


def _adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent ends, so that they are waited for; Linux knows how."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, and kill what has not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    with suppress(ChildProcessError):  # there is none left
        while time.monotonic() < deadline:
            if os.waitpid(-process.pid, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
