"""What an evaluation says of each version of a policy, as scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entropyctl.loggers._loggers import Loggers


def log_evaluation(loggers: Loggers, summary: Mapping[str, Any]) -> None:
    """Log an evaluation at the versions of the policy that it is of.

    Args:
        loggers: of a run of `eval`.
        summary: what `laws.summary.summarise` returned: `by_policy` has an entry for each version, with numbers,
            means with their intervals, and for `pass@k` and the like one of these for each k.
    """
    for group in summary["by_policy"]:
        loggers.log(group["policy_version"], scalars_of(group))


def scalars_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a version: means without their intervals, `pass@k` at 4 as `pass@4`."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping) and "mean" not in value:
            before = name.removesuffix("k") if name.endswith("@k") else f"{name}/"
            flat |= {f"{before}{k}": entry for k, entry in value.items()}
        else:
            flat[name] = value
    means = {name: value.get("mean") if isinstance(value, Mapping) else value for name, value in flat.items()}
    return {name: value for name, value in means.items() if isinstance(value, int | float)}
