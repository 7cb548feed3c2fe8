"""Colours for numbers: from low to high, or from below 0 to above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from entropyctl.query import Query
from entropyctl.query.language import Chain
from entropyctl.show.text import number

if TYPE_CHECKING:
    from rich.text import Text

# Backgrounds that black text can be read on, on a light and on a dark terminal.
SEQUENTIAL = ("#ffffff", "#fff7bc", "#fee391", "#fec44f", "#fe9929", "#f7745e")
# Blue below 0, white about it, orange above.
DIVERGING = ("#5e9fe0", "#8fbdea", "#c4dcf3", "#ffffff", "#fee0b6", "#fdb863", "#f08a3c")
# Quantities whose sign means something, also where a response has but one.
SIGNED = {
    *("s_star", "centred_s", "advantages", "mismatch", "change", "predicted_changes"),
    *("returns", "values", "loss_terms", "loss_gradients"),
}


class Scale(NamedTuple):
    """Colours in equal steps from `low` to `high`."""

    low: float
    high: float
    shades: tuple[str, ...]

    def shade(self, value: float | None) -> str | None:
        """The colour of a number; None for none."""
        if value is None or value != value:
            return None
        width = (self.high - self.low) or 1.0
        return self.shades[min(int((value - self.low) / width * len(self.shades)), len(self.shades) - 1)]


def known(values: Sequence[float | None]) -> list[float]:
    """The numbers among them."""
    return [float(value) for value in values if value is not None and value == value]


def scale_of(quantity: Query, values: Sequence[float | None]) -> Scale | None:
    """The scale of a row's numbers; None where it has none.

    Args:
        quantity: what they are; one whose sign means something, a difference, and any with numbers on both sides of 0
            have a scale with 0 in the middle and the largest magnitude at both ends.
        values: one for each token, None where there is none.
    """
    if not (there := known(values)):
        return None
    low, high = min(there), max(there)
    tree = quantity.tree
    difference = isinstance(tree, Chain) and "-" in tree.operators
    if quantity.text in SIGNED or difference or low < 0 < high:
        most = max(abs(low), abs(high))
        return Scale(-most, most, DIVERGING)
    return Scale(low, high, SEQUENTIAL)


def style(shade: str | None) -> str:
    """The style of text on a colour."""
    return f"black on {shade}" if shade else ""


def legend(title: str, values: Sequence[float | None], scale: Scale | None) -> Text:
    """A quantity's name and range, in colours where there is a scale.

    Args:
        title: the name, harmless.
        values: what is shown.
        scale: their colours; None without colours.
    """
    from rich.text import Text

    if not (there := known(values)):
        return Text(f"{title}: no values")
    if scale is None:
        return Text(f"{title}: {number(min(there))} to {number(max(there))}")
    text = Text(f"{title}: {number(scale.low)} ")
    for shade in scale.shades:
        text.append("  ", style=style(shade))
    return text.append(f" {number(scale.high)}")
