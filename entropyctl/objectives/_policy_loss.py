"""What a policy loss returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PolicyLoss(NamedTuple):
    """Loss of each of `N` tokens, to be minimised, and which of them a clip held constant."""

    loss: Tensor  # [N] float, differentiable
    clipped: Tensor  # [N] bool
