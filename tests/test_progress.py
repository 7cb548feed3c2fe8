"""What a person at a terminal sees of long work, and nobody else."""

from __future__ import annotations

import io
import re

import pytest

from entropyctl.progress import progress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO, *, quiet: bool = False) -> str:
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("score", 4000, quiet=quiet) as advance:
        for _ in range(3):
            advance(1000)
    return screen.getvalue()


def test_a_terminal_shows_what_is_done_how_fast_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert "score" in text and "3000/4000" in text
    assert re.search(r"\d tokens/s \S*\d:\d\d:\d\d", text)


def test_a_file_and_quiet_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, Terminal(), quiet=True) == ""
