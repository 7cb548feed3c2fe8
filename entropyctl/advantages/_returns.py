"""What a function of this room returns, said by its return annotation.

def grpo(reward, group, ...) -> PerRow: ...
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]

PerRow = Annotated[Array, "advantage of each row"]  # [B]
PerToken = Annotated[Array, "advantage of each token"]  # [N]
RowReward = Annotated[Array, "added to the reward of each row"]  # [B]
TokenReward = Annotated[Array, "added to the reward of each token"]  # [N]


class Estimate(NamedTuple):
    """Advantages of the tokens with what else the estimator found."""

    advantages: Array  # [N]
    returns: Array | None = None  # [N] targets of the critic
    state: dict[str, float] | None = None  # what the next step's call is given
