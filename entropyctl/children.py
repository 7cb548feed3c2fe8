"""Child processes that import exactly what this one imports, and talk over a channel that nothing else can write to."""

from __future__ import annotations

import io
import os
import sys
from typing import IO, TextIO


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in a new interpreter.

    `-P` keeps the current directory off the child's path: a user's `types.py` must not replace Python's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def import_path() -> str:
    """This process's import path, as a child reads it from PYTHONPATH."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def environment() -> dict[str, str]:
    """The child's environment: this process's import path, one thread, and a fixed hash seed.

    Some generators and scorers walk through sets of strings, so their results depend on the hash seed.
    """
    fixed = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": import_path(), **fixed}


def take_channel(*, show_prints: bool) -> tuple[IO[bytes], TextIO]:
    """In the child: standard input and output for the protocol alone.

    Whatever the code that the child runs prints (or reads) afterwards cannot disturb the protocol.

    Args:
        show_prints: send prints to standard error, without control characters, instead of nowhere.

    Returns:
        Where requests are read and where replies are written.
    """
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    people = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") if show_prints else None
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    if people is not None:
        sys.stdout = sys.stderr = _Printable(people)
    return requests, replies


class _Printable(io.TextIOBase):
    """Text for a terminal: what a model wrote reaches it without control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write("".join(char if char.isprintable() or char == "\n" else " " for char in text))
        self._stream.flush()
        return len(text)
