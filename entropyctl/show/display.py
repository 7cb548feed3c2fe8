"""A picture on a terminal, drawn again twice a second until somebody has seen enough."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from entropyctl.show.console import console, has_unicode
from entropyctl.show.top import picture

if TYPE_CHECKING:
    from rich.console import Console

EVERY_SECONDS = 0.5
NO_TERMINAL = (100, 40)  # columns and lines where nobody says how many there are
ENOUGH = ("q", "Q", "")


def can_display(to: Console) -> bool:
    """Whether the output is a terminal on which a picture can be replaced."""
    return to.is_terminal and not to.is_dumb_terminal


def show_once(state: dict[str, Any]) -> None:
    """Print the picture of a state."""
    to = console()
    if not to.is_terminal:
        to.width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else NO_TERMINAL[0]
    to.print(picture(state, to.width, to.height if to.is_terminal else NO_TERMINAL[1], has_unicode(to)))


def display(look: Callable[[], dict[str, Any]]) -> None:
    """Show what `look` returns until q is pressed; the terminal is then as it was before."""
    from rich.live import Live

    to = console()
    with Live(console=to, screen=True, auto_refresh=False) as live, _keys() as pressed:
        while True:
            live.update(picture(look(), to.width, to.height, has_unicode(to)), refresh=True)
            if pressed(EVERY_SECONDS) in ENOUGH:
                return


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """A function that waits for a key; None where none came, and where there is no keyboard, and "" at its end."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed(seconds: float) -> str | None:
        if not select.select([keyboard], [], [], seconds)[0]:
            return None
        return os.read(keyboard, 1).decode("ascii", "replace")

    try:
        tty.setcbreak(keyboard)
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
