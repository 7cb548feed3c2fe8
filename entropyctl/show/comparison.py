"""Two masks, or two runs, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entropyctl.show.console import has_unicode, print_table
from entropyctl.show.contributions import print_places
from entropyctl.show.curve import curve
from entropyctl.show.forecast import QUADRANTS, SIGNS, forecast_lines
from entropyctl.show.text import number, shorten, visible
from entropyctl.show.tokenizer import Decode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Facts = dict[str, Any]
COUNTS = {
    "tokens": "tokens",
    "both": "kept by both",
    "neither": "by neither",
    "only_a": "A alone",
    "only_b": "B alone",
    "other_weight": "other weight",
    "other_penalty": "other penalty",
}
PARTS = {"all": "all", **SIGNS, "no_advantage": "A = 0", **QUADRANTS}
TOKEN = {
    "probability": "p",
    "entropy": "H",
    "advantage": "A",
    "centred_s": "S* - E[S]",
    "weight_a": "w of A",
    "weight_b": "w of B",
    "difference": "dH of B - A",
}
NUMBERS = {
    "entropy": "entropy",
    "reward": "reward",
    "predicted_change": "dH predicted",
    "realised_change": "dH realised",
    "mask_fraction": "masked",
    "kl": "KL",
}
CURVES = ("entropy", "reward")
MOST_STEPS = 12
CURVE_LINES = 6


def print_masks(to: Console, facts: Facts, decode: Decode | None) -> None:
    """Print what `compare_masks` found.

    Args:
        to: where it goes.
        facts: what --json prints.
        decode: text of a list of token ids; None shows the ids.
    """
    for side in ("a", "b"):
        made = f"  ({shorten(facts[side]['made_by'], 120)})" if facts[side]["made_by"] else ""
        to.print(f"{side.upper()}  {visible(facts[side]['path'])}{made}", soft_wrap=True)
    to.print()
    counted = [name for name in COUNTS if not name.startswith("other") or facts["tokens"]["all"][name]]
    rows = [[PARTS[part], *(str(sums[name]) for name in counted)] for part, sums in facts["tokens"].items()]
    print_table(to, ["", *(COUNTS[name] for name in counted)], rows, left=[""])
    to.print()
    if facts["forecast"] is None:
        to.print(f"nothing is said of A, S* and the forecast: '{facts['lacking']}' is missing")
        return
    block = facts["forecast"]["all"]
    to.print("predicted change of entropy at eta = 1 per token that the policy chose, nats", style="bold")
    print_table(to, ["", *block["under"]], [list(line) for line in forecast_lines(block)], left=[""])
    if facts["top"]:
        to.print()
        to.print("the tokens whose changes differ most", style="bold")
        print_places(to, facts["top"], TOKEN, decode)


def print_runs(to: Console, facts: Facts) -> None:
    """Print what `compare_runs` found: numbers, curves, and common steps, some of them where there are many."""
    for side in ("a", "b"):
        run = facts[side]
        span = f"{run['steps']} steps, {run['first']} to {run['last']}"
        to.print(f"{side.upper()}  {visible(run['path'])}: {span}", soft_wrap=True)
    steps, numbers = facts["steps"], facts["numbers"]
    to.print(f"{len(steps)} steps in common, {steps[0]} to {steps[-1]}")
    to.print()
    titles = ["", "A, last", "B, last", "B - A", "A, mean", "B, mean", "B - A"]
    sides = ("a", "b", "difference")
    rows = [
        [NUMBERS[name], *(number(found[when][side]) for when in ("end", "mean") for side in sides)]
        for name, found in numbers.items()
    ]
    print_table(to, titles, rows, left=[""])
    if len(steps) > 1:
        for name in CURVES:
            if name in numbers:
                to.print()
                to.print(_curves(to, NUMBERS[name], numbers[name]))
    to.print()
    titles = ["step", *(f"{NUMBERS[name]} of {side}" for name in CURVES if name in numbers for side in "AB")]
    print_table(to, titles, _steps(facts))


def _steps(facts: Facts) -> list[list[str]]:
    """Steps in equal distances, the first and the last among them."""
    steps, count = facts["steps"], min(len(facts["steps"]), MOST_STEPS)
    places = sorted({round(i * (len(steps) - 1) / max(count - 1, 1)) for i in range(count)})
    there = [facts["numbers"][name] for name in CURVES if name in facts["numbers"]]
    return [[str(steps[at]), *(number(found[side][at]) for found in there for side in "ab")] for at in places]


def _curves(to: Console, title: str, found: Facts) -> Table:
    """The curves of both runs beside one another, on one scale."""
    from rich.table import Table

    known = [value for side in "ab" for value in found[side] if value is not None]
    bounds = min(known), max(known)
    width = (to.width - 2) // 2
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in "ab":
        grid.add_column(width=width)
    grid.add_row(*(_curve(to, f"{title} of {side.upper()}", found[side], bounds, width) for side in "ab"))
    return grid


def _curve(to: Console, title: str, values: list[float | None], bounds: tuple[float, float], width: int) -> Text:
    from rich.text import Text

    labels = [number(bounds[1]), *[""] * (CURVE_LINES - 2), number(bounds[0])]
    room = max(len(label) for label in labels)
    text = Text(title, style="bold", no_wrap=True)
    lines = curve(values, width - room - 1, CURVE_LINES, braille=has_unicode(to), bounds=bounds)
    for label, line in zip(labels, lines, strict=True):
        text.append(f"\n{label:>{room}} ", style="not bold dim")
        text.append(line, style="not bold cyan")
    return text
