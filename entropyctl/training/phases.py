"""Where the time and the memory of a step go."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from entropyctl.training.processes import Team

NAMES = ("score", "train", "optimizer", "measure")


class Phases:
    """Seconds of each phase of a step."""

    def __init__(self, device: torch.device) -> None:
        """A step begins.

        Args:
            device: where it is computed; what a phase has started there belongs to its time.
        """
        self.device, self.seconds = device, dict.fromkeys(NAMES, 0.0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The block is a part of a phase."""
        began = time.monotonic()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        """The columns of the metrics table."""
        return {f"{name}_seconds": seconds for name, seconds in self.seconds.items()}


def peak_memory(device: torch.device, team: Team) -> int:
    """The most bytes that one process of the team has held: of a GPU since the step began, else of the machine's."""
    here = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()
    each = np.zeros(team.size)
    each[team.rank] = here
    return int(team.sum(each).max())


def _resident() -> int:
    """The most that this process has had in memory; `ru_maxrss` would begin with what its parent had."""
    status = Path("/proc/self/status")
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")] if status.exists() else []
    return int(found[0].split()[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
