"""Cutting a response into steps: half-open ranges of its tokens, at the ends of lines and sentences.

BCPG-NSA (arXiv 2505.14403) cuts with SAT, a trained sentence segmenter. Here it is done by rule, so that the same
response is always cut alike and nothing has to be installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

Decode = Callable[[Sequence[int]], str]

# A character of UTF-8 has at most 4 bytes and a token at least 1; more tokens than this that decode to a replacement
# character are no beginning of a character, and what they decode to is taken as it is.
LONGEST_CHARACTER = 8

# Line breaks with the blank lines behind them, or marks that may end a sentence with the closing ones behind them.
# Each alternative begins at the first character of its run and gives nothing back, so the search takes linear time.
_END = re.compile(
    r"(?P<line>\n(?:[ \t\r]*+\n)*+)|(?P<cjk>[。！？])|(?<![.!?…])(?P<mark>[.!?…]++)[)\]}\"'”’*]*+(?=(?P<gap>[ \t]++))"
)
# What is written as one: display and inline mathematics, code.
_WHOLE = (("\\[", "\\]"), ("\\(", "\\)"), ("$$", "$$"), ("```", "```"))
_ABBREVIATIONS = frozenset(["approx", "cf", "dr", "e.g", "eq", "eqs", "fig", "i.e", "mr", "mrs", "resp", "vs"])
# A number or letter in front of a sentence: `1.`, `(b).`, `Step 2.`, `**3.`
_MARKER = re.compile(r"\W*(?:(?:step|case|part)\s+)?(?:\d{1,3}|[a-z]|[ivx]{1,4})\W*", re.IGNORECASE)
_LONGEST_MARKER = 40
_SOMETHING = re.compile(r"\S")
# What a sentence begins with, beside a letter that is not small.
_BEGINNINGS = "0123456789$\\*\"“‘'([`"


def split_steps(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges [start, end) of tokens that cover the response without gaps.

    A step ends after line breaks, and after `.`, `!` or `?` where the next sentence begins (not after `3.`, `e.g.` or
    in `5! = 120`). It does not end behind a colon or comma, within closed mathematics or code, or before it says
    anything. A token that holds the end of a step belongs to that step, whatever else it holds.

    Args:
        texts: `[T]` the text that each token adds; see `token_texts`.

    Returns:
        The steps; none for a response without tokens.
    """
    ends = list(accumulate(len(text) for text in texts))
    cuts: list[int] = []
    token = 0
    for cut in cuts_of("".join(texts)):
        while ends[token] < cut:
            token += 1
        if not cuts or cuts[-1] < token + 1:
            cuts.append(token + 1)
    # What is left without text behind the last cut, an end token for example, belongs to the last step.
    if not "".join(texts[cuts[-1] if cuts else 0 :]).strip():
        cuts = cuts[:-1]
    edges = [0, *(cut for cut in cuts if cut < len(texts)), len(texts)]
    return list(pairwise(edges)) if texts else []


def cuts_of(text: str) -> list[int]:
    """Positions in a text behind which a new step begins, ascending."""
    within = _inside(text)
    cuts = []
    start = 0
    for found in _END.finditer(text):
        cut = found.end()
        if within[cut] or not _ends_step(text, start, found):
            continue
        cuts.append(cut)
        start = cut
    return cuts


def _ends_step(text: str, start: int, found: re.Match[str]) -> bool:
    end = found.start()
    before = text[max(start, end - _LONGEST_MARKER) : end]
    if not _SOMETHING.search(text, start, end):
        return False
    if found["line"]:
        return before.rstrip()[-1:] not in (":", ",")
    if _MARKER.fullmatch(before.rpartition("\n")[2]):
        return False
    if found["cjk"]:
        return True
    word = before.split()[-1:]
    following = text[found.end("gap") : found.end("gap") + 1]
    if following == "" or following.islower() or (word and word[0].lower().lstrip("(") in _ABBREVIATIONS):
        return False
    return following.isalpha() or (found["mark"] in (".", "?") and following in _BEGINNINGS)


def _inside(text: str) -> bytearray:
    """For each position whether it lies inside something that is closed and written as one."""
    inside = bytearray(len(text) + 1)
    for opening, closing in _WHOLE:
        begin = text.find(opening)
        while begin >= 0 and (end := text.find(closing, begin + len(opening))) >= 0:
            inside[begin + 1 : end + len(closing)] = b"\1" * (end + len(closing) - begin - 1)
            begin = text.find(opening, end + len(closing))
    return inside


def token_texts(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds to those before it.

    A token that ends inside a character adds nothing; the one that completes the character adds it. A token is
    decoded behind its predecessor, because some tokenizers drop the space of a first word.

    Args:
        ids: `[T]` the response's tokens.
        decode: text of a list of tokens.
    """
    texts: list[str] = []
    begin = known = 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[begin:end])
        if text.endswith("\ufffd") and end < len(ids) and end - known < LONGEST_CHARACTER:
            texts.append("")
            continue
        texts.append(text[len(decode(ids[begin:known])) :])
        begin, known = known, end
    return texts
