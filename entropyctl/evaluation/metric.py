"""The numbers of an evaluation by the names that people set thresholds on."""

from __future__ import annotations

import re
from typing import Any

from entropyctl.errors import UsageError

PLAIN = ("entropy", "truncated", "unparsable", "timeout", "error", "all_wrong", "mixed", "all_right")
NAMES = f"pass@K, cons@n, avg@n, {', '.join(PLAIN)}"
_AT = re.compile(r"(pass|cons|avg)@(n|[1-9][0-9]*)")


def check_metric(name: str, flag: str) -> None:
    """Stop where there is no number of that name.

    Raises:
        UsageError: names those that there are.
    """
    match = _AT.fullmatch(name)
    known = name in PLAIN if match is None else (match[1] == "pass" or match[2] == "n")
    if not known:
        raise UsageError(f"{flag}: there is no '{name}'; known: {NAMES}")


def check_k(name: str, n: int, flag: str) -> None:
    """Stop where a metric asks for more responses than there are.

    Raises:
        UsageError: says so.
    """
    if name.startswith("pass@") and (k := name.partition("@")[2]) != "n" and int(k) > n:
        raise UsageError(f"{flag}: {name} needs k <= n, and n is {n}; sample more or choose a smaller k")


def metric(summary: dict[str, Any], name: str) -> float | None:
    """A number of `laws.summary.summarise`, over all problems; None where the evaluation does not know it.

    Args:
        summary: of the evaluation, with all k.
        name: `pass@8`, `avg@n`, `cons@n` (the consensus of all responses), or a name of `PLAIN`.
    """
    pooled = summary["pooled"]
    kind, _, k = name.partition("@")
    if kind == "pass":
        entry = pooled["pass@k"].get(str(pooled["n"]) if k == "n" else k)
        return None if entry is None else float(entry["mean"])
    if kind == "avg":
        return float(pooled["avg@n"]["mean"])
    if kind == "cons":
        return None if pooled["cons@k"] is None else float(list(pooled["cons@k"].values())[-1]["mean"])
    found = pooled["pass_rates"] if name in pooled["pass_rates"] else pooled
    return None if found[name] is None else float(found[name])
