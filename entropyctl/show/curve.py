"""A curve in characters, two by four dots in each where the terminal has Braille."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # the dots of a character, row by row


def curve(
    values: Sequence[float | None],
    width: int,
    height: int,
    braille: bool = True,
    bounds: tuple[float, float] | None = None,
) -> list[str]:
    """Lines of text with the values from left to right, the largest at the top.

    Args:
        values: in equal distances; None and what is no number leave a gap. More values than dots become means.
        width: in characters.
        height: in lines.
        braille: eight dots a character; an asterisk otherwise.
        bounds: what the lowest and the highest line stand for; the smallest and the largest value by default.
    """
    across, down = (2, 4) if braille else (1, 1)
    columns, rows = width * across, height * down
    heights = [
        None if y is None else min(int(y * rows), rows - 1) for y in _scaled(_resampled(values, columns), bounds)
    ]
    cells = [[0] * width for _ in range(height)]
    before = None
    for x, top in enumerate(heights):
        if top is not None:
            low, high = (top, top) if before is None else (min(top, before), max(top, before))
            # From where the last column ended, so that a steep curve stays a line.
            for y in range(low if before is None or low == top else low + 1, high + 1 if top == high else high):
                row = rows - 1 - y
                cells[row // down][x // across] |= _BRAILLE[row % down][x % across]
        before = top
    return ["".join(_character(dots, braille) for dots in line) for line in cells]


def _character(dots: int, braille: bool) -> str:
    if dots == 0:
        return " "
    return chr(0x2800 + dots) if braille else "*"


def _resampled(values: Sequence[float | None], columns: int) -> list[float | None]:
    """One value for each column: the mean of those that fall into it, or a point between two."""
    known = [None if value is None or not math.isfinite(value) else float(value) for value in values]
    count = len(known)
    if count > columns:
        parts = [known[x * count // columns : (x + 1) * count // columns] for x in range(columns)]
        return [_mean([value for value in part if value is not None]) for part in parts]
    found: list[float | None] = []
    for x in range(columns if count > 1 else count):
        place = x * (count - 1) / (columns - 1) if columns > 1 else 0.0
        left = min(int(place), max(count - 2, 0))
        a, b = known[left], known[min(left + 1, count - 1)]
        near = a if place - left < 0.5 else b
        found.append(near if a is None or b is None else a + (b - a) * (place - left))
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _scaled(values: list[float | None], bounds: tuple[float, float] | None) -> list[float | None]:
    """Between 0 for the lower bound and 1 for the upper; a curve that is flat lies in the middle."""
    known = [value for value in values if value is not None]
    low, high = bounds or (min(known, default=0.0), max(known, default=0.0))
    return [None if value is None else (value - low) / (high - low) if high > low else 0.5 for value in values]
