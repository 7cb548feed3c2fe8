"""The final answer is mathematically equal to the reference (math-verify)."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from math import log10
from typing import Any

from entropyctl.errors import UsageError
from entropyctl.rewards._answers import last_box, marked_answer, reference
from entropyctl.rewards._evaluation import nothing_evaluated
from entropyctl.rewards._grade import UNPARSABLE, Grade, graded
from entropyctl.rewards._plain import equal, plain

# Longest answer that is parsed, and the end of a response without marks in which one is looked for, in characters.
LONGEST = 2000
_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
# What would be written out to more digits than fit anywhere: towers, exponents and factorials of large numbers.
# Numbers that nobody writes out: 999999!, (9!)!, 2^{1000000}, and a^{b^c} by its own numbers.
_HUGE = re.compile(r"[0-9]{6}\s*[)}]?\s*!|![\s)}]*!|[0-9)}]\s*(?:\^|\*\*)\s*[{(]?\s*[0-9]{6}|binom\s*\{?\s*[0-9]{6}")
_TOWER = re.compile(r"[0-9]\s*[)}]?\s*(?:\^|\*\*)\s*[{(]*\s*([0-9]{1,5})\s*(?:\^|\*\*)\s*[{(]*\s*([0-9]{1,5})")


def math(response: str, answer: str | None) -> Grade:
    r"""The final answer is mathematically equal to the reference (math-verify).

    The final answer is the content of the last `\boxed{...}`; without a box, what follows the last `####` on its
    line; without that, what math-verify finds in the last 2000 characters. A reference that is a worked solution
    is read in the same way, else taken whole.

    correct (1): the same text, or equal to math-verify: `\frac12` = 0.5, `x^2+1` = `1+x^2`; 1/3 = 0.333333.
    wrong (0): math-verify reads another value.
    unparsable (0): there is no answer, its box is not closed, or it is not mathematics; it is longer than 2000
    characters; or it has a number such as `999999!` or `9^{9^9}` that cannot be written out.

    Where it differs from math-verify alone: a response with several boxes is judged by the last one, not by the
    set of them.

    Args:
        response: what the model wrote.
        answer: the reference.

    Raises:
        InputError: there is no reference.
    """
    if (decided := quick(response, answer)) is not None:
        return decided
    from math_verify import parse, verify

    wanted = reference(answer)
    found, text = marked_answer(response), decisive(response)
    if _explodes(text) and not _explodes(wanted):
        return UNPARSABLE
    with nothing_evaluated():
        predicted = parse(text, parsing_timeout=None)
        if not predicted:
            return UNPARSABLE
        gold = _parsed(_boxed(wanted))
        if not gold:
            raise ValueError("math-verify cannot read the reference answer")
        # The second entry is the text that the first was parsed from.
        shown = found if found is not None else str(predicted[-1])
        return graded(verify(gold, predicted, timeout_seconds=None), shown)


@lru_cache(maxsize=1024)
def _parsed(wanted: str) -> list[Any]:
    """A reference answer by math-verify; a problem's responses are graded one after the other."""
    from math_verify import parse

    return list(parse(wanted, parsing_timeout=None))


def quick(response: str, answer: str | None) -> Grade | None:
    """The cases that need no algebra: no answer, the same text, or two plain numbers or tuples of them."""
    wanted = reference(answer)
    marked = marked_answer(response)
    found = response.strip() if marked is None else marked
    if not found:
        return UNPARSABLE
    if found == wanted:
        return graded(True, found)
    if _INTEGER.fullmatch(found) and _INTEGER.fullmatch(wanted):
        return graded(int(found) == int(wanted), found)
    if marked is not None and (gold := plain(wanted)) is not None and (read := plain(found)) is not None:
        verdict = equal(gold, read)
        return None if verdict is None else graded(verdict, found)
    return UNPARSABLE if marked is not None and len(marked) > LONGEST else None


def decisive(response: str) -> str:
    """As much of a response as the verdict depends on: what is marked, else the end that is searched for an answer."""
    found = marked_answer(response)
    return _boxed(found) if found is not None else response[-LONGEST:]


def _explodes(text: str) -> bool:
    """Whether writing a text's numbers out would take more than a million digits, as far as a glance shows."""
    towers = (int(last) * log10(int(middle) or 1) for middle, last in _TOWER.findall(text))
    return _HUGE.search(text) is not None or any(digits > 6 for digits in towers)


def _boxed(text: str) -> str:
    return text if last_box(text) is not None else f"\\boxed{{{text}}}"


def prepare() -> None:
    """Import math-verify and let it build its tables, before the clock runs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UsageError(
            f"--reward math needs the package math-verify ({error}); pip install 'entropyctl[math]'"
        ) from None
    logging.disable(logging.CRITICAL)  # a warning that its own clock is off: ours is the one that runs
    verify(parse(r"\boxed{x^2+\frac12}", parsing_timeout=None), parse("It is 1/2.", parsing_timeout=None))
