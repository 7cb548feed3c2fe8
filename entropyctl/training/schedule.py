"""Learning-rate schedules, counted in optimiser steps: those of transformers, by the same names."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "linear", "cosine")


def factor(schedule: str, step: int, warmup: int, total: int | None) -> float:
    """What the learning rate is multiplied by.

    step < warmup: step / warmup; then, with x = (step - warmup) / (total - warmup) up to 1,
    constant: 1; linear: 1 - x; cosine: (1 + cos(pi x)) / 2.

    As transformers' `get_scheduler` has them, and TRL and verl by it: the first step of a warm-up has rate 0.

    Args:
        schedule: one of `SCHEDULES`.
        step: optimiser steps that have been made.
        warmup: steps of the warm-up.
        total: after how many steps the rate is 0; None for a constant one.
    """
    if step < warmup:
        return step / warmup
    if total is None:
        return 1.0
    x = min((step - warmup) / (total - warmup), 1.0)
    return 1.0 - x if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * x))
