"""Text of models and of files, made harmless for a terminal."""

from __future__ import annotations

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, keep: str = "") -> str:
    """Text in which every character that a terminal might obey, or that hides, is written as an escape.

    Control characters, the escape of ANSI sequences, changes of direction, zero-width and unassigned characters
    become `\\x1b`, `\\u202e` and so on.

    Args:
        text: what a model or a data file wrote.
        keep: characters to leave as they are, for example a line feed.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, longest: int = 60) -> str:
    """One line of at most `longest` characters, harmless."""
    line = visible(text)
    return line if len(line) <= longest else line[: longest - 3] + "..."


def number(value: float | int | None, digits: int = 4) -> str:
    """A number for people: integers whole, others with `digits` significant digits, None as `-`."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def file_size(count: int) -> str:
    """`15.2 kB` out of a number of bytes."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
