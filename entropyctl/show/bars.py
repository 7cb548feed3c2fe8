"""A histogram in characters: a line for each bin, with a bar for each group."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from entropyctl.show.console import has_unicode, print_table
from entropyctl.show.text import number, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console

# From this many times the middle count on, bars are as long as the count's logarithm.
WIDE = 50
PARTS = " ▏▎▍▌▋▊▉"
NARROWEST, WIDEST = 8, 50  # of a bar, in characters


def print_histogram(to: Console, facts: dict[str, Any], by: str | None) -> None:
    """Print one of `histograms`."""
    groups: dict[str, dict[str, Any]] = facts["groups"]
    there = [group for group in groups.values() if group["count"]]
    wide = any(_is_wide(_all(group)) for group in there)
    to.print(_title(facts, by, there) + ("; bars are logarithmic" if wide else ""), style="bold", soft_wrap=True)
    if not there:
        return
    edges = [number(edge, 6) for edge in facts["edges"]]
    outside = any(group["below"] or group["above"] for group in there)
    bins = [("", edges[0]), *pairwise(edges), (edges[-1], "")] if outside else list(pairwise(edges))
    width = min(max((to.width - 20) // len(groups) - 12, NARROWEST), WIDEST)
    columns = [_bars(_all(group) if outside else group["counts"], width, wide, to) for group in groups.values()]
    titles = ["from", "to", *(title for name in groups for title in (shorten(name, 20) if by else "count", ""))]
    cells = [[*pair, *(cell for bar in bars for cell in bar)] for pair, *bars in zip(bins, *columns, strict=True)]
    print_table(to, titles, _without_gaps(cells), left=[""])


def _title(facts: dict[str, Any], by: str | None, there: list[dict[str, Any]]) -> str:
    total, null = (sum(group[name] for group in facts["groups"].values()) for name in ("count", "null"))
    title = visible(facts["of"]) + (f" by {visible(by)}" if by else "")
    title += f": {total} {facts['per']}s" + (f", {null} null" if null else "")
    if not there:
        return title
    return f"{title}, {number(min(one['min'] for one in there))} to {number(max(one['max'] for one in there))}"


def _without_gaps(lines: list[list[str]]) -> list[list[str]]:
    """The lines, where nothing is in three or more bins one after the other a single one in their place."""
    found: list[list[str]] = []
    for empty, run in groupby(lines, key=lambda line: not any(line[3::2])):
        part = list(run)
        found += [["...", *[""] * (len(part[0]) - 1)]] if empty and len(part) >= 3 else part
    return found


def _all(group: dict[str, Any]) -> list[int]:
    return [group["below"], *group["counts"], group["above"]]


def _is_wide(counts: list[int]) -> bool:
    there = sorted(count for count in counts if count)
    return bool(there) and there[-1] > WIDE * there[len(there) // 2]


def _bars(counts: list[int], width: int, wide: bool, to: Console) -> list[tuple[str, str]]:
    """Each count with its bar, as a share of the largest of its group."""
    sizes = np.log1p(counts) if wide else np.asarray(counts, np.float64)
    shares = sizes / max(float(sizes.max()), 1e-300)
    return [(str(count), _bar(share, width, has_unicode(to))) for count, share in zip(counts, shares, strict=True)]


def _bar(share: float, width: int, unicode: bool) -> str:
    """A bar of so much of a width; what is not 0 is seen."""
    if share == 0:
        return ""
    if not unicode:
        return "#" * max(round(share * width), 1)
    full, eighths = divmod(max(round(share * width * 8), 1), 8)
    return "█" * full + PARTS[eighths].strip()
