"""Tokens one below the other: the numbers of each, and the text around it with the token marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from entropyctl.show.console import has_unicode
from entropyctl.show.row_names import shown_name
from entropyctl.show.text import number, visible
from entropyctl.show.tokenizer import Decode, token_pieces

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Fact = dict[str, Any]
TITLES = {
    "probability": "p",
    "entropy": "H",
    "advantage": "A",
    "centred_s": "S* - E[S]",
    "weight": "w",
    "change": "dH",
    "share": "share",
}
INDENT = "    "


def print_top(to: Console, facts: Fact, decode: Decode | None) -> None:
    """Print what `top_tokens` found.

    Args:
        to: where it goes.
        facts: what --json prints.
        decode: text of a list of token ids; None shows the ids.
    """
    top, selected = facts["top"], facts["selected"]
    to.print("predicted change of entropy at eta = 1, -w r A (S* - E[S]), nats", style="bold")
    means = f"mean dH {number(facts['total'])}, mean |dH| {number(facts['absolute'])}"
    to.print(f"{facts['tokens']} counted tokens: {means}", soft_wrap=True)
    if facts["where"]:
        share = _percent(selected["absolute"] / facts["absolute"]) if facts["absolute"] else "-"
        line = f"{selected['tokens']} of them where {visible(facts['where'])}: {number(selected['total'])} of dH"
        to.print(f"{line}, {number(selected['absolute'])} ({share}) of |dH|", soft_wrap=True)
    if not top:
        to.print("none of them changes anything")
        return
    who = f"the {len(top)} largest carry" if len(top) > 1 else "the largest carries"
    to.print(f"{who} {_percent(sum(one['share'] for one in top))} of |dH|")
    to.print()
    print_places(to, top, TITLES, decode)


def print_places(to: Console, places: Sequence[Fact], titles: Mapping[str, str], decode: Decode | None) -> None:
    """Print tokens: a line of numbers each, and a line of what stands around it.

    Args:
        to: where it goes.
        places: tokens, as `contributions.Place.as_dict` has them, and what more is known of them.
        titles: which facts are shown, with their titles.
        decode: text of a list of token ids; None shows the ids.
    """
    heading = ["--row", "at", "token", *titles.values()]
    lines = [_cells(place, titles) for place in places]
    widths = [max(len(line[i]) for line in (heading, *lines)) for i in range(len(heading))]

    def put(line: list[str]) -> None:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        to.print("  ".join([line[0].ljust(widths[0]), *cells]), soft_wrap=True)

    put(heading)
    for line, place in zip(lines, places, strict=True):
        put(line)
        if place["token"] is not None:
            to.print(_context(to, place, decode), soft_wrap=True)


def _cells(place: Fact, titles: Mapping[str, str]) -> list[str]:
    token = "-" if place["token"] is None else str(place["token"])
    facts = [_percent(place[name]) if name == "share" else number(place[name]) for name in titles]
    return [shown_name(place), str(place["position"]), token, *facts]


def with_text(places: Sequence[Fact], decode: Decode | None) -> list[Fact]:
    """The tokens with `text`: what stands before each, it itself, and what stands behind it."""
    if decode is None:
        return list(places)
    return [place | {"text": _texts(place, decode) if place["token"] is not None else None} for place in places]


def _texts(place: Fact, decode: Decode | None) -> list[str]:
    before, token, after = place["before"], place["token"], place["after"]
    if decode is None:
        return ["".join(f"{one} " for one in before), str(token), "".join(f" {one}" for one in after)]
    pieces, at = token_pieces(decode, [*before, token, *after]), len(before)
    return ["".join(part) for part in (pieces[:at], pieces[at : at + 1], pieces[at + 1 :])]


def _context(to: Console, place: Fact, decode: Decode | None) -> Text:
    """The token with what stands before and behind it, as much of it as a line holds."""
    from rich.cells import cell_len
    from rich.text import Text

    before, token, after = map(visible, _texts(place, decode))
    opened, closed = ("⟦", "⟧") if has_unicode(to) else ("[[", "]]")
    room = max(to.width - len(INDENT) - cell_len(token) - 2 * len(opened), 8)
    ahead = room - min(cell_len(after), max(room // 3, room - cell_len(before)))
    while cell_len(before) > ahead:
        before = before[1:]
    text = Text(INDENT + before, no_wrap=True)
    text.append(f"{opened}{token}{closed}", style="bold reverse")
    text.append(after)
    text.truncate(to.width)
    return text


def _percent(share: float) -> str:
    return f"{number(100 * share, 3)} %"
