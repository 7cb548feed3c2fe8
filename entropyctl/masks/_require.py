"""Refusing a flag whose value makes no sense, in one sentence."""

from __future__ import annotations

from entropyctl.errors import UsageError


def require(holds: bool, flag: str, value: float, rule: str) -> None:
    """Raise unless a value is allowed.

    Args:
        holds: whether it is; write the test so that it fails for NaN.
        flag: the flag as typed, `--mu`.
        value: what it was set to.
        rule: what goes on after "must": `lie in [0, 1]`.

    Raises:
        UsageError: `--mu -1: must be ...`.
    """
    if not holds:
        raise UsageError(f"{flag} {value:g}: must {rule}")
