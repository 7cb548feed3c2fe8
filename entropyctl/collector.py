"""Python's garbage collector while a process starts.

Importing torch and transformers makes a million objects that stay until the end. As they come, the collector goes
through those before them again and again, for half a second in all.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_RARE = (100_000, 50, 100)


def collect_rarely() -> None:
    """Until `collect_as_usual`; a process that never asks for that one holds little that could be garbage."""
    gc.set_threshold(*_RARE)


def collect_as_usual() -> None:
    """What there is stays uncollected, and what comes is looked through as ever. Does nothing the second time.

    To be called when the libraries are there and before any model is: what is here now cannot become garbage later.
    """
    if gc.get_threshold() == _RARE:
        gc.freeze()
        gc.set_threshold(*_USUAL)
