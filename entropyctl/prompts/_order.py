"""Which problems belong to which training step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import xxhash

from entropyctl.errors import UsageError
from entropyctl.prompts._problem import Problem


def step_prompts(problems: Sequence[Problem], step: int, per_step: int | None, seed: int) -> list[Problem]:
    """The problems of one training step.

    Each epoch goes through all problems once, in an order that depends on the seed, the epoch and the problems'
    names alone: not on the order of the input. Steps are consecutive slices of the epochs laid end to end. Where a
    step reaches into the next epoch, problems that it holds already move behind its end, so that no problem
    comes twice within a step and still each comes once in every epoch.

    Args:
        problems: with unique names.
        step: from 1; any number where all problems are taken (an evaluation is step 0).
        per_step: how many problems; None takes all, in the order given, in every step.
        seed: of the order.

    Raises:
        UsageError: more problems than there are, or no step or number of this kind.
    """
    if per_step is None:
        return list(problems)
    if step < 1:
        raise UsageError(f"there is no step {step}; steps count from 1")
    if not 1 <= per_step <= len(problems):
        raise UsageError(
            f"{per_step} prompts per step were asked for and there are {len(problems)}; "
            f"choose between 1 and {len(problems)}"
        )
    ids = tuple(problem.prompt_id for problem in problems)
    epoch, first = divmod((step - 1) * per_step, len(ids))
    chosen = _epoch_order(ids, seed, per_step, epoch)[first : first + per_step]
    if missing := per_step - len(chosen):
        chosen += _epoch_order(ids, seed, per_step, epoch + 1)[:missing]
    by_id = {problem.prompt_id: problem for problem in problems}
    return [by_id[name] for name in chosen]


def _epoch_order(ids: tuple[str, ...], seed: int, per_step: int, epoch: int) -> list[str]:
    """The order of one epoch, built up from the last epoch that began together with a step."""
    period = per_step // gcd(len(ids), per_step)
    order: tuple[str, ...] = ()
    for number in range(epoch - epoch % period, epoch + 1):
        order = _next_order(ids, seed, number, order, -number * len(ids) % per_step, per_step)
    return list(order)


@lru_cache(maxsize=1024)
def _next_order(
    ids: tuple[str, ...], seed: int, epoch: int, before: tuple[str, ...], shared: int, per_step: int
) -> tuple[str, ...]:
    """The order of an epoch whose first `shared` problems complete a step that `before` began."""
    order = sorted(ids, key=lambda name: (xxhash.xxh3_64_intdigest(f"{seed}:{epoch}:{name}".encode()), name))
    if not shared:
        return tuple(order)
    begun = set(before[len(ids) - (per_step - shared) :])
    head = [name for name in order if name not in begun][:shared]
    taken = set(head)
    return (*head, *(name for name in order if name not in taken))
