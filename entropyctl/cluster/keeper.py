"""Clears away a Ray of our own when the command that started it has gone, however it went: `keeper DIRECTORY`.

When a raylet is killed, its agents ask a server that is dead too for another minute, and its files stay.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from entropyctl import children


def keep(directory: str) -> subprocess.Popen[bytes]:
    """Start the keeper of a directory. It works when its standard input ends: by `release`, or with this process."""
    return subprocess.Popen(
        children.command(__name__, directory),
        env=children.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C on a terminal is not for it
    )


def release(keeper: subprocess.Popen[bytes]) -> None:
    """Have it clear away now."""
    if keeper.stdin is not None:
        keeper.stdin.close()
    keeper.wait()


def clear_away(directory: str) -> None:
    """End the processes that have a file of the directory open, as all of Ray's have their logs, and delete it."""
    while holders := _holders(directory):
        for pid in holders:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def _holders(directory: str) -> list[int]:
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if os.readlink(link).startswith(f"{directory}/"):
                found.append(int(link.parts[2]))
    # The command itself, where it is still there, has log files of Ray's open too.
    return [pid for pid in dict.fromkeys(found) if pid not in (os.getpid(), os.getppid())]


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear_away(sys.argv[1])
