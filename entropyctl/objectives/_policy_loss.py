"""What a policy loss returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PolicyLoss(NamedTuple):
    """Loss of each of `N` tokens, to be minimised, and which of them stand outside the objective's bounds.

    A loss that belongs to a whole response stands on each of its counted tokens, and each of them carries the
    gradient of its own log-probability alone. So a reduction that treats the tokens of a response alike makes the
    loss and its gradient, and a token's weight scales that token's part of it.
    """

    loss: Tensor  # [N] float, differentiable
    clipped: Tensor  # [N] bool
