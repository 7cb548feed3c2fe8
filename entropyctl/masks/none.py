"""No entropy control: every token as it is."""

from __future__ import annotations

import numpy as np

from entropyctl.masks._compiled import Array, Compiled


def none(loss_mask: Array) -> Compiled:
    """No entropy control: every token as it is.

    w_t = 1, c_t = 0. The control experiment, and a way to compare the other methods' summaries with plain GRPO.

    Source: none; it is what every method is compared with.

    Entropy: what the update does to it, unchanged.

    Shipped by: every peer.

    Verified: by definition.

    Args:
        loss_mask: `[N]`, True where the policy chose the token.

    Returns:
        Weights of 1.
    """
    return Compiled(weights=np.ones(len(loss_mask), np.float32))
