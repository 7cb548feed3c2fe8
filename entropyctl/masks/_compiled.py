"""What an entropy-control method compiles to: numbers per token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class Compiled(NamedTuple):
    """A mask's numbers for `N` tokens; None means "as before".

    loss = (1/Z) sum_t loss_mask_t [ weights_t policy_loss_t + kl_coefs_t KL_t ], and loss_mask decides who is
    counted in Z. A method that keeps removed tokens in the denominator sets weights to 0; one whose authors
    also shrink the denominator clears loss_mask.
    """

    weights: Array | None = None
    kl_coefs: Array | None = None
    loss_mask: Array | None = None
    state: dict[str, float] | None = None  # what the next step's call is given, by methods that remember


def removed(keep_N: Array, loss_mask_N: Array, *, counted: bool) -> Compiled:
    """Remove tokens from the policy gradient.

    Args:
        keep_N: True where the token stays.
        loss_mask_N: True where the token is counted now.
        counted: whether removed tokens stay in the loss's denominator.
    """
    if counted:
        return Compiled(weights=keep_N.astype("float32"))
    return Compiled(loss_mask=loss_mask_N & keep_N)
