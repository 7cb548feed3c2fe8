"""The two passes over a tile on a GPU, written in Triton; the formulas stand in sums.py.

A tile of float32 logits comes from the vendor's matrix product and fits the L2 cache, out of which these read it. A
program has a row. Its terms are float32 and summed as a tree over a block of columns; sums and maximum go from block to
block in float64, as on a CPU, and are scaled anew only where a block brings a larger logit, which few do.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from entropyctl.tokenstats import sums as eager
from entropyctl.tokenstats.compiled import EAGER, Kernels, agree
from entropyctl.tokenstats.sums import Pull, Sums

LOWEST: Any = tl.constexpr(eager.LOWEST)
FARTHEST: Any = tl.constexpr(eager.FARTHEST)
WIDEST = 8192  # columns up to which the width of a tile chooses the settings

# (columns of a block, warps); the fastest is found at the first tile of a full size and kept in Triton's cache.
SETTINGS = ((1024, 4), (2048, 4), (2048, 8), (4096, 8))
WORTH_TIMING = 4096  # columns; the first setting serves the few tiles that are narrower
OPTIONS = {"enable_fp_fusion": True}  # a product and a sum may be rounded once


def _tuned_for_size(changed: list[str]) -> Any:
    """Triton's tuner, which runs a kernel many times over and puts back what that changed."""
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in SETTINGS]

    def serving(configs: list[Any], given: dict[str, Any], **more: Any) -> list[Any]:
        # Triton's interpreter has nothing to time.
        return configs[:1] if given["size"] < WORTH_TIMING or triton.knobs.runtime.interpret else configs

    prune = {"early_config_prune": serving}
    return triton.autotune(configs, key=["size"], restore_value=changed, prune_configs_by=prune, cache_results=True)


@_tuned_for_size(changed=["top", "sums", "target"])
@triton.jit
def _fold(x, width, stride, token, beta, top, sums, target, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    at = tl.load(token + row)
    if (at >= 0) & (at < width):
        tl.store(target + row, tl.load(x + at).to(tl.float64))
    m, sums = tl.load(top + row), sums + 4 * row
    s0, s1, t0, t1 = tl.load(sums), tl.load(sums + 1), tl.load(sums + 2), tl.load(sums + 3)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x_V = tl.load(x + column, mask=column < width, other=-float("inf"))
        largest = tl.max(x_V, 0).to(tl.float64)
        if largest > m:
            c = (m - largest) * beta
            r = tl.exp(c)
            c = tl.maximum(c, FARTHEST)
            s1 = r * (s1 + c * s0)
            s0 = r * s0
            t1 = r * r * (t1 + c * t0)
            t0 = r * r * t0
            m = largest
        d_V = (x_V - m.to(tl.float32)) * beta
        d_V = tl.where(d_V <= LOWEST, LOWEST, d_V)  # so, not as a maximum, a NaN stays one
        e_V = tl.where(d_V <= LOWEST, 0.0, tl.exp(d_V))
        de_V = d_V * e_V
        s0 += tl.sum(e_V, 0)
        s1 += tl.sum(de_V, 0)
        t0 += tl.sum(e_V * e_V, 0)
        t1 += tl.sum(de_V * e_V, 0)
    tl.store(top + row, m)
    tl.store(sums, s0)
    tl.store(sums + 1, s1)
    tl.store(sums + 2, t0)
    tl.store(sums + 3, t1)


@_tuned_for_size(changed=["x"])
@triton.jit
def _pull(x, width, stride, token, beta, top, log_z, entropy, by_logprob, by_entropy, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = x + row * stride + column
    by_log_p, by_h = tl.load(by_logprob + row), tl.load(by_entropy + row)
    x_V = tl.load(place, mask=column < width, other=-float("inf"))
    log_p_V = (x_V - tl.load(top + row).to(tl.float32)) * beta - tl.load(log_z + row)
    log_p_V = tl.where(log_p_V <= LOWEST, LOWEST, log_p_V)
    p_V = tl.where(log_p_V <= LOWEST, 0.0, tl.exp(log_p_V))
    found_V = -beta * p_V * (by_log_p + by_h * (tl.load(entropy + row) + log_p_V))
    found_V += tl.where(column == tl.load(token + row), beta * by_log_p, 0.0)
    tl.store(place, found_V, mask=column < width)


def fold(x_NV: Tensor, token_N: Tensor, beta: float, sums: Sums) -> None:
    """As `sums.fold`, but that it leaves the logits as they are."""
    _launch(_fold, lambda chosen: (x_NV.shape[0],), x_NV, token_N, beta, sums)


def pull(x_NV: Tensor, token_N: Tensor, beta: float, given: Pull) -> None:
    """As `sums.pull`."""
    _launch(
        _pull, lambda chosen: (x_NV.shape[0], triton.cdiv(x_NV.shape[1], chosen["BLOCK"])), x_NV, token_N, beta, given
    )


def _launch(
    kernel: Any,
    grid: Callable[[dict[str, Any]], tuple[int, ...]],
    x_NV: Tensor,
    token_N: Tensor,
    beta: float,
    more: Any,
) -> None:
    """Run a kernel on a tile. The tuner is asked once for each size: its own look-up takes as long as a tile."""
    rows, width = x_NV.shape
    if not rows or not width:
        return
    size = min(triton.next_power_of_2(width), WIDEST)
    arguments = (x_NV, width, x_NV.stride(0), token_N, beta, *more, size)
    with torch.cuda.device_of(x_NV):
        key = (kernel, x_NV.device, size)
        if key in _tuned:
            kernel.fn[grid](*arguments, **_tuned[key])
        else:
            kernel[grid](*arguments, **OPTIONS)
            _tuned[key] = kernel.best_config.all_kwargs() | OPTIONS


_tuned: dict[Any, dict[str, Any]] = {}


@cache
def kernels(device: torch.device) -> Kernels:
    """The passes for a device: these, or those of torch where Triton does not serve it or computes something else."""
    found = Kernels(fold, pull)
    try:
        return found if agree(found, device) else EAGER
    except Exception:  # whatever a driver, an assembler or a compiler for a strange device may raise
        return EAGER
