"""What can go wrong, and the exit status that says so.

A library function raises one of these with one line that names the file, the fault and the
remedy; the command line prints the line and ends with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def one_line(text: str) -> str:
    """Text without line breaks and without control characters, which an attacker's data could hide in a message."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


class EntropyctlError(Exception):
    """A fault that a user can act on. The message is one line: `FILE: what is wrong; what to do`."""

    exit_code = 1


class UsageError(EntropyctlError):
    """The command line asks for something that does not exist or does not make sense."""

    exit_code = 2


class InputError(EntropyctlError):
    """An input is missing, corrupt, or lacks something that the stage needs."""

    exit_code = 3


class StreamEndedEarly(EntropyctlError):
    """A stream ended without its end record: the program that wrote it died."""

    exit_code = 4


class MismatchError(EntropyctlError):
    """Inputs that do not belong together: other policy, temperature, tokenizer or rollouts."""

    exit_code = 5


class OutputError(EntropyctlError):
    """The output cannot be written: disk full, no permission."""

    exit_code = 6


class ResourceError(EntropyctlError):
    """A resource limit was reached."""

    exit_code = 7


class EngineError(EntropyctlError):
    """An engine or a device failed, or a model computed something that is not a number."""

    exit_code = 8


class ThresholdCrossed(EntropyctlError):
    """A threshold that the user asked for was crossed."""

    exit_code = 10


class Locked(EntropyctlError):
    """Another run holds the lock."""

    exit_code = 11


class Temporary(EntropyctlError):
    """Something that may pass by itself: the same command may well succeed later."""

    exit_code = 75


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


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put an input's name in front of what is found wrong with it where nobody knows the name any more."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
