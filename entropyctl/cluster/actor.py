"""What runs in a process of the cluster: a worker that holds a model, and answers one unit of work after another."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from entropyctl.errors import EntropyctlError

# Does what an order says with some rows, or with none.
Worker = Callable[[Mapping[str, Any], pa.Table | None], Any]

DONE, FAULT = "done", "fault"


class Actor:
    """A worker behind Ray's calls. What it raises goes back as words, so that no class need exist at both ends."""

    def __init__(self, make: str, options: dict[str, Any]) -> None:
        """Remember how the worker is made; it is when it is first needed, so that a fault of it is an answer too.

        Args:
            make: `MODULE:FUNCTION` of ours, which makes the worker.
            options: its keyword arguments.
        """
        self._make, self._options = make, options
        self._worker: Worker | None = None

    def do(self, order: Mapping[str, Any], rows: pa.Table | None) -> tuple[Any, ...]:
        """`(DONE, answer)`, or `(FAULT, class of error, message, traceback)`."""
        try:
            if self._worker is None:
                module, _, name = self._make.partition(":")
                self._worker = getattr(importlib.import_module(module), name)(**self._options)
            return DONE, self._worker(order, rows)
        except Exception as error:
            return FAULT, *_in_words(error), traceback.format_exc()


def _in_words(error: Exception) -> tuple[str, str]:
    if isinstance(error, EntropyctlError):
        return type(error).__name__, str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return "ResourceError", "an actor is out of memory"
    text = f"internal error in an actor: {type(error).__name__}: {error}; run again with --debug and report it"
    return "EntropyctlError", text
