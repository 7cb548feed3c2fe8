"""Advantage estimators, one file each: pure functions from rewards to a number per response or token.

    from entropyctl.advantages import grpo
    advantages = grpo(reward, group)

Positional parameters are columns, and `group` (`[B]` int, the problem of each row); keyword parameters are the
estimator's own. One that reads per-row columns alone returns one number per row. `apply_advantage` runs one
on the rows of a table.
"""

from importlib import import_module
from pathlib import Path

from entropyctl.advantages._apply import AdvantageSummary, apply_advantage, informative_groups

__all__ = ["AdvantageSummary", "apply_advantage", "informative_groups"]

for _path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    globals()[_path.stem] = getattr(import_module(f"{__name__}.{_path.stem}"), _path.stem)
    __all__ += [_path.stem]
