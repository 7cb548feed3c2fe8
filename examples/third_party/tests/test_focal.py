"""The mask's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from entropyctl_example.focal import focal

from entropyctl.errors import UsageError

LOGPROBS = np.log([0.9, 0.5, 0.9, 0.5, 0.9])
ADVANTAGES = np.array([1.0, 1.0, -1.0, 0.0, 1.0])
COUNTED = np.array([True, True, True, True, False])


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ({}, [0.1, 0.5, 1, 1, 1]),
        ({"gamma": 2.0}, [0.01, 0.25, 1, 1, 1]),
        ({"gamma": 0.0}, [1, 1, 1, 1, 1]),
        ({"apply_to": "negative"}, [1, 1, 0.1, 1, 1]),
        ({"apply_to": "both"}, [0.1, 0.5, 0.1, 0.5, 1]),
    ],
)
def test_probable_tokens_weigh_less(flags: dict, weights: list[float]) -> None:
    assert focal(LOGPROBS, ADVANTAGES, COUNTED, **flags).weights == pytest.approx(weights)


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^--gamma -1: must be"):
        focal(LOGPROBS, ADVANTAGES, COUNTED, gamma=-1.0)
