"""The critic's loss, and how much of the returns its values explain.

`N` tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropyctl.errors import UsageError

Array = npt.NDArray[Any]


class ValueLoss(NamedTuple):
    """Loss of each of `N` tokens, to be minimised, and where the clipped value's error was the larger one."""

    loss: Tensor  # [N] float, differentiable
    clipped: Tensor  # [N] bool; no gradient comes from these


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float = 0.5) -> ValueLoss:
    """The squared error of a critic's values, clipped around those that it gave before.

    l_t = 1/2 max( (v_t - R_t)^2, (clip(v_t, v_old_t - clip, v_old_t + clip) - R_t)^2 )

    Source: verl, compute_value_loss (cliprange_value 0.5).

    Args:
        values_N: of the critic in training.
        old_values_N: of the critic before the step; no gradient goes into them.
        returns_N: the targets.
        clip: how far a value may move from its old one before it stops to learn; inf never stops it.

    Returns:
        The loss of each token, and whether its clip held it.

    Raises:
        UsageError: the clip is not above 0.
    """
    check_clip(clip)
    near_N = torch.maximum(torch.minimum(values_N, old_values_N + clip), old_values_N - clip)
    error_N, near_error_N = (values_N - returns_N).square(), (near_N - returns_N).square()
    return ValueLoss(0.5 * torch.maximum(error_N, near_error_N), near_error_N > error_N)


def check_clip(clip: float) -> None:
    """Stop where a clip could clip nothing sensible.

    Raises:
        UsageError: it is not above 0.
    """
    if not clip > 0:
        raise UsageError(f"--critic-clip {clip:g}: must be above 0")


def explained_variance(values_N: Array, returns_N: Array, loss_mask_N: Array) -> float | None:
    """How much of the returns' variance the values explain, over the counted tokens.

    1 - Var(R - v) / Var(R)

    Args:
        values_N: of the critic.
        returns_N: the targets.
        loss_mask_N: bool, which tokens count.

    Returns:
        1 where every value is right up to one constant, 0 for constant values; None where the returns do not vary.
    """
    v_N, R_N = (np.asarray(x, np.float64)[np.asarray(loss_mask_N, bool)] for x in (values_N, returns_N))
    variance = R_N.var() if len(R_N) else 0.0
    return float(1 - (R_N - v_N).var() / variance) if variance > 0 else None
