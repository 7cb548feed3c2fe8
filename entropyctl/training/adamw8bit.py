"""AdamW whose two moments are kept in 8 bits: 2 bytes for each weight where AdamW keeps 8."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from entropyctl.training.sharded import here, like

# Blocks lie within a row of a matrix, so that however its rows are dealt out to processes no block is cut.
LARGEST_BLOCK, SMALLEST_BLOCK = 256, 32
CHUNK = 1 << 22


@cache
def values_of_codes(signed: bool, device: torch.device) -> Tensor:
    """What the 256 codes stand for, in rising order: "dynamic" quantisation of 2110.02861, section 2.2.

    0, 1, and in each decade (10^-k-1, 10^-k), k = 6 to 0, the middles of 1, 2, 4, ... 64 equal parts of it with either
    sign, or of 2, 4, ... 128 parts without one: seven decades, and more steps where the numbers are larger.

    Args:
        signed: for numbers of both signs.
        device: where they will be looked up.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        parts = 2 ** (decade if signed else decade + 1)
        middles = [10.0 ** (decade - 6) * (0.1 + 0.9 * (i + 0.5) / parts) for i in range(parts)]
        values += [*middles, *(-value for value in middles if signed)]
    return torch.tensor(sorted(values), device=device)


@cache
def codes_of_values(signed: bool, device: torch.device) -> Tensor:
    """The code nearest to each number in [-1, 1] that bfloat16 has, by its 16 bits; 0 gets the code of 0.

    To look a number up is thirty times faster than to search for it, and bfloat16 is finer than the codes.
    """
    numbers = torch.arange(1 << 16).to(torch.uint16).view(torch.bfloat16).float().nan_to_num().clamp(-1, 1)
    known = values_of_codes(signed, torch.device("cpu"))
    found = torch.bucketize(numbers, (known[1:] + known[:-1]) / 2)
    if not signed:  # see `pack`
        found = torch.where(numbers > 0, found.clamp(min=1), 0)
    return found.to(torch.uint8).to(device)


def block_of(parameter: Tensor) -> int:
    """Numbers in a block of a parameter's moments; 0 for one that is too small to be worth it."""
    if parameter.ndim < 2:
        return 0
    width = math.prod(parameter.shape[1:])
    return max((n for n in range(SMALLEST_BLOCK, LARGEST_BLOCK + 1) if width % n == 0), default=0)


def pack(values: Tensor, codes: Tensor, scales: Tensor, *, signed: bool) -> None:
    """Put numbers into codes and the largest magnitude of each block, in place.

    A positive second moment never becomes 0: the step that is divided by it would know no bound.

    Args:
        values: `[rows, ...]`.
        codes: of their shape, uint8.
        scales: `[rows, blocks]`.
        signed: whether there are numbers below 0.
    """
    blocks = values.view(*scales.shape, -1)
    scales.copy_(blocks.abs().amax(dim=-1))
    relative = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).to(torch.bfloat16)
    found = codes_of_values(signed, values.device).index_select(0, relative.view(torch.uint16).int().view(-1))
    codes.copy_(found.view(values.shape))


def unpack(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The numbers that codes and scales stand for, float32."""
    values = values_of_codes(signed, codes.device).index_select(0, codes.int().view(-1))
    return values.view(*scales.shape, -1).mul_(scales[..., None]).view(codes.shape)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (betas 0.9 and 0.999, eps 1e-8); vectors, and matrices that no block divides, keep moments in float32."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        """Over these parameters, which may be spread over processes."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state.update(_fresh(parameter))
                    state["step"] += 1
                    _move(parameter, state, group)


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    own, block = here(parameter), block_of(parameter)
    state = {"step": torch.tensor(0.0)}
    for name in ("exp_avg", "exp_avg_sq"):
        if block:
            zero = int(torch.searchsorted(values_of_codes(name == "exp_avg", own.device), 0.0))
            state[f"{name}_codes"] = like(torch.full_like(own, zero, dtype=torch.uint8), parameter)
            scales = own.new_zeros(len(own), math.prod(own.shape[1:]) // block)
            state[f"{name}_scales"] = like(scales, parameter)
        else:
            state[name] = torch.zeros_like(parameter)
    return state


def _move(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """A step, some rows at a time, so that of the moments in float32 there are never many."""
    step, (beta1, beta2), lr = float(state["step"]), group["betas"], group["lr"]
    weights, gradients = here(parameter), here(parameter.grad)  # type: ignore[arg-type]
    parts = {name: here(value) for name, value in state.items() if name != "step"}
    each = max(CHUNK // max(math.prod(weights.shape[1:]), 1), 1)
    for begin in range(0, len(weights), each):
        rows = slice(begin, begin + each)
        own = {name: value[rows] for name, value in parts.items()}
        packed = "exp_avg_codes" in own
        m, v = (_moment(own, name, signed=name == "exp_avg") for name in ("exp_avg", "exp_avg_sq"))
        m.lerp_(gradients[rows], 1 - beta1)
        v.mul_(beta2).addcmul_(gradients[rows], gradients[rows], value=1 - beta2)
        spread = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weights[rows].mul_(1 - lr * group["weight_decay"]).addcdiv_(m, spread, value=-lr / (1 - beta1**step))
        if packed:
            pack(m, own["exp_avg_codes"], own["exp_avg_scales"], signed=True)
            pack(v, own["exp_avg_sq_codes"], own["exp_avg_sq_scales"], signed=False)


def _moment(own: dict[str, Tensor], name: str, *, signed: bool) -> Tensor:
    return own[name] if name in own else unpack(own[f"{name}_codes"], own[f"{name}_scales"], signed=signed)
