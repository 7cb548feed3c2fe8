"""The predicted change of entropy of one policy-gradient step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from entropyctl.dynamics.discriminator import centred_score

Array = npt.NDArray[Any]


def predicted_change(
    advantages_N: Array | float,
    s_star_N: Array,
    expected_s_N: Array,
    *,
    weights_N: Array | float = 1.0,
    ratios_N: Array | float = 1.0,
    eta: float = 1.0,
) -> Array:
    """Predicted change of each token's entropy.

    dH_t = -eta w_t r_t A_t (S*_t - E[S]_t) + O(eta^2)   (2602.03392, Theorem 3.3 and its off-policy form)

    The theorem moves the logits of each position alone by eta w r A (e_k - p). A network shares its parameters
    between positions, so sums of this are comparable between masks and between steps, while their size is not
    that of the realised change.

    Args:
        advantages_N: A.
        s_star_N: S*, nats.
        expected_s_N: E[S], nats.
        weights_N: w, a mask's factor on the token's gradient.
        ratios_N: r = p_new / p_old; 1 on policy.
        eta: step size on the logits.

    Returns:
        dH, `[N]`, nats.
    """
    return np.asarray(-eta * weights_N * ratios_N * advantages_N * centred_score(s_star_N, expected_s_N))
