"""A fitted law for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropyctl.show.console import print_table
from entropyctl.show.text import number

if TYPE_CHECKING:
    from rich.console import Console

    from entropyctl.laws import LawFit


def print_law(to: Console, law: LawFit) -> None:
    """Print a law, its intervals, and in words what it does not say."""
    sign = "-" if law.b < 0 else "+"
    quality = f"{law.points} points, rmse {number(law.rmse)}, r2 {number(law.r2)}"
    to.print(f"R = {-law.a:.4g} e^H {sign} {abs(law.b):.4g}   ({quality})")
    rows = []
    for label, name in (("a", "a"), ("b", "b"), ("ceiling b - a", "ceiling")):
        ends = getattr(law, f"{name}_interval")
        rows.append([label, number(getattr(law, name)), f"{number(ends[0])} to {number(ends[1])}" if ends else "-"])
    print_table(to, ["", "estimate", f"{100 * law.confidence:g} % interval"], rows, left=[""])
    if law.a_interval is None:
        to.print("Two points are always fitted exactly: there is no interval, and nothing here tests the law.")
    if law.a <= 0:
        to.print("a is not above 0: performance did not fall with e^H here, so the ceiling is no ceiling.")
