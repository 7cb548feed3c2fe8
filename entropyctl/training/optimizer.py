"""The optimiser: its rate along a schedule, the steps that it leaves out, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropyctl.errors import EngineError, UsageError
from entropyctl.policy.trainer_state import Shard, TrainerState
from entropyctl.table import notice
from entropyctl.training.adamw8bit import AdamW8bit
from entropyctl.training.schedule import SCHEDULES, factor
from entropyctl.training.sharded import here, like, rows_here, whole

OPTIMIZERS = ("adamw", "adamw-8bit", "sgd")


@dataclass(frozen=True)
class Optimization:
    """Which optimiser, at which rates."""

    optimizer: str = "adamw"
    lr: float = 1e-6
    weight_decay: float = 0.0
    lr_schedule: str = "constant"
    warmup_steps: int = 0  # optimiser steps, as all steps here
    total_steps: int | None = None
    max_skipped: int = 3  # an error after so many steps in a row that were left out
    lr_flag: str = "--lr"  # what the command line calls the rate

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: no such optimiser or schedule, or a rate that is none.
        """
        for flag, value in ((self.lr_flag, self.lr), ("--weight-decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{flag} {value:g}: must be a finite number, 0 or above")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"--optimizer: there is no '{self.optimizer}'; known: {', '.join(OPTIMIZERS)}")
        if self.lr_schedule not in SCHEDULES:
            raise UsageError(f"--lr-schedule: there is no '{self.lr_schedule}'; known: {', '.join(SCHEDULES)}")
        if self.lr_schedule != "constant" and self.total_steps is None:
            raise UsageError(f"--lr-schedule {self.lr_schedule}: falls to 0 at --total-steps; give that too")
        if self.lr_schedule == "constant" and self.total_steps is not None:
            raise UsageError("--total-steps: a constant rate has no end; add --lr-schedule linear or cosine")
        if self.total_steps is not None and not 0 <= self.warmup_steps < self.total_steps:
            raise UsageError(f"--warmup-steps {self.warmup_steps}: must be below --total-steps {self.total_steps}")

    def rate(self, step: int) -> float:
        """The learning rate after `step` optimiser steps."""
        return self.lr * factor(self.lr_schedule, step, self.warmup_steps, self.total_steps)


class Optimizer:
    """torch's optimiser over a model's parameters; counts its steps, over all runs that trained the policy."""

    def __init__(self, model: Any, how: Optimization, facts: Mapping[str, Any] | None = None) -> None:
        """AdamW (betas 0.9 and 0.999), the same with moments in 8 bits, or plain SGD without momentum.

        Args:
            model: whose parameters it moves.
            how: which, at which rates.
            facts: of the run that it continues; its tensors come by `load_state`.
        """
        self.model, self.how = model, how
        facts = facts or {"optimizer": how.optimizer}
        self.steps = int(facts.get("optimizer_steps", 0))
        self.skipped_in_a_row = int(facts.get("skipped_in_a_row", 0))
        self.before = facts.get("optimizer", "adamw")  # whose tensors they are; once nothing but AdamW had any
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rates: dict[str, Any] = {"lr": how.lr, "weight_decay": how.weight_decay}
        self.inner: torch.optim.Optimizer
        if how.optimizer == "adamw":
            self.inner = torch.optim.AdamW(trained, fused=True, **rates)
        elif how.optimizer == "adamw-8bit":
            self.inner = AdamW8bit(trained, **rates)
        else:
            self.inner = torch.optim.SGD(trained, **rates)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.how.rate(self.steps)

    def clear(self) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def step(self, loss: float, largest: float) -> float | None:
        """Move the weights along their gradients, unless the loss or the gradient is not a number.

        A step that is left out changes neither weights nor state, and is not counted.

        Args:
            loss: of the mini-batch, over all processes.
            largest: norm to which the gradients are scaled down.

        Returns:
            The norm that they had; None where the step was left out.

        Raises:
            EngineError: `max_skipped` steps in a row were left out.
        """
        norm = clip_gradients(self.model, largest)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= self.how.max_skipped:
                raise EngineError(
                    f"a loss or a gradient is not a number, in {self.skipped_in_a_row} optimiser steps in a row "
                    f"(--max-skipped); lower {self.how.lr_flag}, or use --dtype float32"
                )
            self.clear()
            return None
        for group in self.inner.param_groups:
            group["lr"] = self.rate
        self.inner.step()
        self.steps += 1
        self.skipped_in_a_row = 0
        return norm

    def facts(self) -> dict[str, Any]:
        """What the next run continues with."""
        own = {"optimizer_steps": self.steps, "skipped_in_a_row": self.skipped_in_a_row}
        return own | {"optimizer": self.how.optimizer}


def clip_gradients(model: Any, largest: float) -> float:
    """Scale the gradients to a norm of at most `largest`; the norm that they had, over all processes."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters]))
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def save_state(optimizer: Optimizer, *, weights: bool = False, leads: bool = True) -> Shard:
    """What this process holds of the optimiser's tensors, as `parameter:quantity`; on a CPU themselves, and no copies.

    Args:
        optimizer: whose.
        weights: the trained parameters too, as quantity `weight`, where no version holds them as they are.
        leads: whether this is the process that writes what all of them hold.
    """
    tensors, rows = {}, {}
    for name, parameter in optimizer.model.named_parameters():
        own = {"weight": parameter} if weights and parameter.requires_grad else {}
        for quantity, value in (own | optimizer.inner.state.get(parameter, {})).items():
            key, spread = f"{name}:{quantity}", hasattr(value, "device_mesh")
            if spread:
                begin, end = rows_here(value)
                if begin == end:
                    continue
                rows[key] = begin
            if spread or leads:
                tensors[key] = here(value.detach()).cpu().contiguous()
    return Shard(tensors, rows)


@torch.no_grad()
def load_state(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put back what `save_state` gave; tensors of parameters that the model lacks are left out.

    So are the moments of another optimiser, which begins afresh; the steps go on.
    """
    same = optimizer.before == optimizer.how.optimizer
    if not same and any(not key.endswith(":weight") for key in state):
        notice(f"update: {optimizer.before} has trained so far, now {optimizer.how.optimizer} does; it starts afresh")
    parameters = dict(optimizer.model.named_parameters())
    for key in state:
        name, _, quantity = key.rpartition(":")
        if name not in parameters or not (same or quantity == "weight"):
            continue
        parameter = parameters[name]
        if quantity == "step":
            # AdamW keeps its count on the CPU, unless all of its state moves in one kernel on a GPU.
            place = parameter.device if optimizer.inner.defaults.get("fused") else "cpu"
            optimizer.inner.state[parameter][quantity] = state[key].to(place)
            continue
        if isinstance(state, TrainerState) and hasattr(parameter, "device_mesh"):
            rows = state.part(key, *rows_here(parameter))
        else:
            rows = state[key]
        if quantity == "weight":
            here(parameter).copy_(rows)
        else:
            optimizer.inner.state[parameter][quantity] = like(rows, parameter)
