"""Work in pieces on the cores of a CPU, one thread a piece."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(work: Callable[[int], None], pieces: int, device: torch.device) -> None:
    """Do pieces of work, side by side on a CPU and one after the other elsewhere.

    torch would share each small operation among its threads and wait for the slowest after each: on tiles that fit a
    core's cache, on a machine that does other things too, that is many times slower than a tile for each thread.

    Args:
        work: told the number of its piece; what it calls lets go of Python's lock.
        pieces: how many.
        device: where it computes.
    """
    threads = min(torch.get_num_threads(), pieces) if device.type == "cpu" else 1
    if threads <= 1:
        for piece in range(pieces):
            work(piece)
        return
    mode = torch.is_grad_enabled()

    def begin() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(mode)

    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "tokenstats", begin) as pool:
        for done in [pool.submit(work, piece) for piece in range(pieces)]:
            done.result()
    torch.set_num_threads(before)  # of its matrix library a process has one number of threads
