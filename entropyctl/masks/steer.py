"""STEER: weigh tokens down the more they are predicted to change the entropy (2510.10150)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import float_type, in_blocks
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._select import counted, spread

# The authors keep probabilities off 0 and 1, where the logarithm and the ratio have no value.
LOG_SMALLEST, LOG_LARGEST = math.log(1e-8), math.log1p(-1e-8)


def steer(
    logprobs: Array,
    old_logprobs: Array,
    old_entropies: Array,
    advantages: Array,
    loss_mask: Array,
    *,
    map: Literal["linear", "exponential"] | None = None,
    w_min: float = 0.8,
    w_max: float = 1.2,
    floor: float | None = None,
    variant: Literal["authors", "paper"] = "authors",
) -> Compiled:
    """STEER: weigh tokens down the more they are predicted to change the entropy.

    Omega_t = (A / q) x (1 - x) (log x + H_old),  x = p_t of the current policy, q = p_t of the old one
    linear:       w_t = w_max - (|Omega_t| - min|Omega|) (w_max - w_min) / (max|Omega| - min|Omega|)
    exponential:  w_t = exp(-kappa |Omega_t|),  kappa = -ln(w_min) / max(max|Omega|, floor)

    The extrema are over the counted tokens that the call is given: those of a step when a file is masked, those
    of a mini-batch when the mask runs live inside update (the authors' are per micro-batch, so theirs depend on
    its size). The loss is divided by the number of tokens, not by the sum of the weights.

    Paper: Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective, arXiv 2510.10150.

    Code: zz-haooo/STEER, compute_token_weights in core_algos.py (linear, w_min 0.8, w_max 1.2; the actor's
    fallbacks are 0.95 and 1.05; the exponential run has w_min 0.8). Its loss is PPO with
    `update --clip-low 0.2 --clip-high 0.28 --dual-clip 10`.

    Where they differ: the text has the exponential map alone, with max|Omega| itself below it; the linear map and
    the floor of 0.02 are of the code. Variant authors is the code; variant paper is exponential without a floor.
    The text writes (1 - x)^2 in one place, the code computes x (1 - x). H is of the old policy while x is of the
    current one; on policy Omega = A (1 - x) (log x + H).

    Entropy: holds it steady, because tokens that move it most, in either direction, move less.

    Shipped by: none of the peers.

    Verified: the authors' numbers (golden vectors), on and off policy.

    Args:
        logprobs: `[N]` log p of the current policy, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        old_entropies: `[N]` its entropies, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        map: from |Omega| to a weight; default linear (authors) or exponential (paper).
        w_min: weight of the token with the largest |Omega|; above 0 and at most 1 with the exponential map.
        w_max: weight of the one with the smallest; the exponential map ends at 1 and has no use for it.
        floor: least value that max|Omega| is taken for (exponential); default 0.02 (authors) or 0 (paper).
        variant: the authors' code or the paper's text.

    Returns:
        Weights; 0 where the token is not counted.

    Raises:
        UsageError: a weight or the floor is out of range.
    """
    map = map or ("linear" if variant == "authors" else "exponential")
    if floor is None:
        floor = 0.02 if variant == "authors" else 0.0
    require(0 <= floor < math.inf, "--floor", floor, "be a finite number, 0 or above")
    valid_N = np.asarray(loss_mask, bool)
    omega = in_blocks(_size, *counted(valid_N, logprobs, old_logprobs, old_entropies, advantages))
    weight = _linear(omega, w_min, w_max) if map == "linear" else _exponential(omega, w_min, w_max, floor)
    weights_M = in_blocks(weight, omega, dtype=float_type(logprobs, advantages))
    return Compiled(weights=spread(weights_M, valid_N, 0.0))


def _size(log_x: Array, log_q: Array, H: Array, A: Array) -> Array:
    """|Omega| of tokens."""
    log_x, log_q = log_x.clip(LOG_SMALLEST, LOG_LARGEST), log_q.clip(LOG_SMALLEST, 0)
    return np.abs(A * np.exp(log_x - log_q) * (1 - np.exp(log_x)) * (log_x + H))


def _linear(omega: Array, w_min: float, w_max: float) -> Callable[[Array], Array]:
    require(0 <= w_min < math.inf, "--w-min", w_min, "be a finite number, 0 or above")
    require(w_min <= w_max < math.inf, "--w-max", w_max, f"be a finite number, at least --w-min ({w_min:g})")
    least, most = omega.min(initial=math.inf), omega.max(initial=-math.inf)
    if most <= least:
        return lambda size: np.full(len(size), (w_min + w_max) / 2)
    slope = (w_max - w_min) / (most - least)
    return lambda size: (w_max - (size - least) * slope).clip(w_min, w_max)


def _exponential(omega: Array, w_min: float, w_max: float, floor: float) -> Callable[[Array], Array]:
    require(0 < w_min <= 1, "--w-min", w_min, "lie above 0, up to 1")
    require(0 <= w_max < math.inf, "--w-max", w_max, "be a finite number, 0 or above")
    scale = max(omega.max(initial=0.0), floor)
    if scale == 0:
        return np.ones_like
    kappa = -math.log(w_min) / scale
    return lambda size: np.exp(-kappa * size).clip(w_min, 1)
