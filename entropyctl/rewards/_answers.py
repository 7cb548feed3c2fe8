"""Reading the final answer out of a text, in time that grows with its length alone."""

from __future__ import annotations

import re
from fractions import Fraction

from entropyctl.errors import InputError

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Longer numbers are compared as text: Python refuses to read more than 4300 digits, and nobody's answer has them.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,300}|[0-9]{1,1000})"
_NUMBER = re.compile(rf"([+-]?{_DIGITS})(?:\.([0-9]{{1,1000}})|/([0-9]{{1,1000}}))?")


def last_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`: None when there is no box, "" when the last is empty or not closed."""
    start = text.rfind("\\boxed")
    opened = _BOX.match(text, start) if start >= 0 else None
    if opened is None:
        return None if start < 0 else ""
    depth = 1
    for brace in _BRACE.finditer(text, opened.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[opened.end() : brace.start()].strip()
    return ""


def marked_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, else what follows the last `####` on its line; None without either."""
    boxed = last_box(text)
    if boxed is not None:
        return boxed
    _, marker, rest = text.rpartition("####")
    return rest.partition("\n")[0].strip() if marker else None


def reference(answer: str | None) -> str:
    """A reference answer without the worked solution around it: what is marked in it, else all of it.

    Raises:
        InputError: there is none.
    """
    if answer is None or not answer.strip():
        raise InputError("has no answer to grade against; add an answer column, or choose another --reward")
    return marked_answer(answer) or answer.strip()


def number(text: str) -> Fraction | None:
    """An integer, a decimal or a fraction of digits, thousands separated by commas or not; else None."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    whole, decimals, denominator = match.groups()
    whole = whole.replace(",", "")
    if decimals is not None:
        return Fraction(int(whole + decimals), 10 ** len(decimals))
    if denominator is not None:
        return Fraction(int(whole), int(denominator)) if denominator.strip("0") else None
    return Fraction(int(whole))
