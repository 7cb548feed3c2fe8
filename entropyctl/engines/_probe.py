"""Proof that an engine computes with a version's weights, by log-probabilities that were published with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entropyctl.errors import EngineError
from entropyctl.policy import Policy
from entropyctl.policy.probe import read_probe

# Mean |difference| on the probe that arithmetic alone explains: 5e-6 was seen in float32, 0.04 in bfloat16.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}


def check_probe(policy: Policy, logprobs_of: Callable[[list[int]], list[float]], dtype: str) -> None:
    """Compare an engine's log-probabilities with those that were published with a version.

    A version that another program made has none, and nothing is checked.

    Args:
        policy: the version that the engine should hold.
        logprobs_of: of an engine: from tokens to the log-probability of each but the first, nats.
        dtype: number type that the engine computes in.

    Raises:
        EngineError: they differ by more than arithmetic explains.
    """
    probe = read_probe(policy)
    if probe is None:
        return
    gap = float(np.abs(np.asarray(logprobs_of(probe.tokens)) - probe.logprobs).mean())
    allowed = max(TOLERANCE[dtype], TOLERANCE.get(probe.dtype, 0.0))
    if not gap <= allowed:
        raise EngineError(
            f"its log-probabilities on the probe differ by {gap:.2g} from those that were published, where "
            f"{allowed:g} is allowed"
        )
