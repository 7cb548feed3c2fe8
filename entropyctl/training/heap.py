"""What a process that trains keeps of the memory that it has freed. Where the C library is not glibc nothing is done.

A pass makes and drops blocks of many megabytes by the hundred. By default glibc asks the system for the larger ones
each time anew, and the system clears the same memory over and over; and the smaller ones leave holes between the blocks
that live on, which add up to more than the activations of a layer. So here freed memory stays for the next block, until
what is held without need comes to a bound, and is given back at once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch.nn import Module

# Of mallopt(3). Blocks from this size on are asked of the system one by one; glibc before 2.35 takes 32 MiB at most.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SINGLE_FROM = (2**30, 2**25)
_NEVER = 2**31 - 1
_STATM = Path("/proc/self/statm")

# Bytes that may be held beyond the most that was ever needed.
SPARE = 32 * 2**20


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    ]


@lru_cache(maxsize=1)
def _glibc() -> Any:
    """The C library, if it is a glibc that can be asked (2.33 or later), on a system that says what a process holds."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        return library if callable(library.mallopt) and _STATM.is_file() else None
    except (OSError, TypeError, AttributeError):
        return None


def keep_freed() -> None:
    """From now on, freed memory stays with the process, in one heap for blocks of nearly every size."""
    if (library := _glibc()) is not None:
        any(library.mallopt(_MMAP_THRESHOLD, size) for size in _SINGLE_FROM)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


class Bound:
    """Called now and then, keeps what the process holds near the most that it ever needed at once.

    Memory that is not the heap's own counts as needed: its size is what was held beyond the heap's blocks when the heap
    was last given back.
    """

    def __init__(self, spare: int = SPARE) -> None:
        """From now on.

        Args:
            spare: bytes that may be held beyond what was ever needed.
        """
        self._spare, self._most, self._elsewhere = spare, 0, 0
        self._give_back()

    def __call__(self, *, at_most: bool = False) -> None:
        """Give back what is free, holes between blocks included, if more is held than may be.

        Args:
            at_most: hardly more will be needed before much is freed, so that little is free that is not a hole: the
                moment at which it costs least to give back, and a quarter of the bound is reason enough.
        """
        if (library := _glibc()) is None:
            return
        self._most = max(self._most, _used(library))
        beyond = _held() - self._elsewhere - self._most
        if beyond > (self._spare // 4 if at_most else self._spare):
            self._give_back()

    def _give_back(self) -> None:
        if (library := _glibc()) is not None:
            library.malloc_trim(0)
            self._elsewhere = _held() - _used(library)


def _used(library: Any) -> int:
    """Bytes in the blocks of the heap."""
    found = library.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def _held() -> int:
    """Bytes of memory that the process has."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bound_holes(layers: Iterable[Module]) -> None:
    """Look after the heap on the way forward and, where there is one, on the way back.

    After each matrix and norm, not after each layer: what a layer adds is more than the bound.

    Args:
        layers: of a model on a CPU.
    """
    bound, layers = Bound(), list(layers)

    def passed(module: Module, given: Any, out: Any, *, at_most: bool) -> None:
        bound(at_most=at_most)
        first: Any = out[0] if isinstance(out, tuple) else out
        if getattr(first, "requires_grad", False):
            first.register_hook(lambda gradient: bound())

    for layer in layers:
        for module in layer.modules():
            if module is layer or next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(partial(passed, at_most=layer is layers[-1]))
