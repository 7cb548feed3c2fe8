r"""Answers that need no algebra: numbers, and tuples or intervals of numbers, compared as math-verify compares them.

Only what can have no other reading is decided here; `None` leaves an answer to math-verify. tests/test_rewards_plain.py
holds both against each other.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_DIGITS = r"[0-9]{1,15}"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>{_DIGITS})?(?P<decimals>\.{_DIGITS})?"
    rf"|(?P<above>{_DIGITS})/(?P<below>{_DIGITS})"
    rf"|\\[dt]?frac\{{(?P<top>-?{_DIGITS})\}}\{{(?P<bottom>{_DIGITS})\}})"
)
_BRACKETS = re.compile(r"([(\[])([^()\[\]]+)([)\]])")
_THOUSANDS = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_SIZES = re.compile(r"\\left(?=[(\[])|\\right(?=[)\]])")
_THIN = re.compile(r"\\[,;!]")
_SPACES = re.compile(r"(?:\\[ ,;!]|[ \t\r\n])+")
# A backslash and a space at the end lose the space to math-verify, which then stumbles over the backslash.
_DANGLING = re.compile(r"\\\s+$")
_BESIDE = re.compile(r" ?([()\[\],+/-]) ?")
# math-verify rounds to six decimals where a number was written with a point, and compares exactly where none was: what
# is equal, or further apart than this, is the same to both.
NEAR = Fraction(1, 100_000)


class Plain(NamedTuple):
    """A number, or what stands between two brackets."""

    left: str  # ( or [, and nothing for a number
    values: tuple[Fraction, ...]
    right: str


def plain(text: str) -> Plain | None:
    """A text as numbers; None where it is anything else, or could be read in two ways."""
    text = _SIZES.sub("", text)
    if _DANGLING.search(text):
        return None
    if _THOUSANDS.search(_THIN.sub("", text)):
        return None  # 1,000 is a number, and in brackets perhaps two
    # Spaces elsewhere stay, and make it no number: 2 1/2 is five halves, and 10 000 a product to math-verify.
    text = _BESIDE.sub(r"\1", _SPACES.sub(" ", text)).strip(" ")
    number = _number(text)
    if number is not None:
        return Plain("", (number,), "")
    found = _BRACKETS.fullmatch(text)
    parts = found[2].split(",") if found else []
    if found is None or len(parts) == 1:
        return None
    values = [_number(part) for part in parts]
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values):
        return None
    if len(known) > 2 and (found[1], found[3]) != ("(", ")"):
        return None  # nobody says what [1, 2, 3] is
    return Plain(found[1], known, found[3])


def equal(gold: Plain, found: Plain) -> bool | None:
    """Whether two plain answers are equal to math-verify; None where the last decimals decide.

    A pair (a, b) is an interval where a < b, so that its brackets count, and else a point; longer ones are tuples.
    """
    if bool(gold.left) != bool(found.left) or len(gold.values) != len(found.values):
        return False if gold.left and found.left else None
    if len(gold.values) == 2:
        kinds = {_is_interval(one) for one in (gold, found)}
        if None in kinds:
            return None
        if kinds == {True} and (gold.left, gold.right) != (found.left, found.right):
            return False
    verdicts = [_same(a, b) for a, b in zip(gold.values, found.values, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _is_interval(one: Plain) -> bool | None:
    """None where a = b but for the last decimals, or where half of a bracket says that it must be one."""
    a, b = one.values
    if abs(a - b) < NEAR:
        return None
    whole = (one.left, one.right) in (("(", ")"), ("[", "]"))
    return True if a < b else False if whole else None


def _same(a: Fraction, b: Fraction) -> bool | None:
    return True if a == b else False if abs(a - b) > NEAR else None


def _number(text: str) -> Fraction | None:
    """A number out of its text: an integer, a decimal, or a fraction of digits."""
    found = _NUMBER.fullmatch(text)
    if found is None or text in ("", "+", "-"):
        return None
    if found["above"] or found["top"]:
        above, below = int(found["above"] or found["top"]), int(found["below"] or found["bottom"])
        value = Fraction(above, below) if below else None
    else:
        digits = (found["whole"] or "") + (found["decimals"] or "")
        value = Fraction(digits) if len(digits) <= 15 else None  # beyond, a float in between would round
    return value if value is None or found["sign"] != "-" else -value
