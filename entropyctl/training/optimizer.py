"""The optimiser, and its state as named tensors that go into safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entropyctl.errors import UsageError
from entropyctl.training.sharded import like, whole

OPTIMIZERS = ("adamw", "sgd")


def make_optimizer(model: Any, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """An optimiser over all parameters: AdamW (betas 0.9 and 0.999) or plain SGD without momentum.

    Raises:
        UsageError: no such optimiser, or a rate that is none.
    """
    if not (0 <= lr < float("inf") and 0 <= weight_decay < float("inf")):
        raise UsageError(f"--lr {lr:g}, --weight-decay {weight_decay:g}: must be numbers of at least 0")
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    raise UsageError(f"--optimizer: there is no '{name}'; known: {', '.join(OPTIMIZERS)}")


def clip_gradients(model: Any, largest: float) -> float:
    """Scale the gradients to a norm of at most `largest`; the norm that they had, over all processes."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters]))
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def save_state(model: Any, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """The optimiser's tensors as `parameter:quantity`, gathered.

    Args:
        model: whose parameters are optimised.
        optimizer: over them.
        keep: whether this process wants them, or helps another one to gather them.
    """
    state = {}
    for name, parameter in model.named_parameters():
        for quantity, value in optimizer.state.get(parameter, {}).items():
            gathered = whole(value.detach())
            if keep:
                state[f"{name}:{quantity}"] = gathered.cpu().contiguous().clone()
    return state


def load_state(model: Any, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put back what `save_state` gave; tensors of parameters that the model lacks are left out."""
    for name, parameter in model.named_parameters():
        own = {key.rpartition(":")[2]: value for key, value in state.items() if key.rpartition(":")[0] == name}
        for quantity, value in own.items():
            # AdamW keeps its step count on the CPU.
            optimizer.state[parameter][quantity] = value if quantity == "step" else like(value, parameter)
