"""Advantage estimators, one file each: pure functions from rewards to a number per response or token.

    from entropyctl.advantages import grpo
    advantages = grpo(reward, group)

Positional parameters are columns, and `group` (`[B]` int, the problem of each row); keyword parameters are the
estimator's own. One that reads per-row columns alone returns one number per row. `apply_advantage` runs one
on the rows of a table.
"""

from typing import TYPE_CHECKING

from entropyctl.registry import open_room

if TYPE_CHECKING:
    from entropyctl.advantages._apply import AdvantageSummary as AdvantageSummary
    from entropyctl.advantages._apply import apply_advantage as apply_advantage
    from entropyctl.advantages._apply import informative_groups as informative_groups

__getattr__, __all__ = open_room(
    __name__, dict.fromkeys(("AdvantageSummary", "apply_advantage", "informative_groups"), "_apply")
)
