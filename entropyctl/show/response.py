"""One response: its facts, its text, and its tokens with the values of a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.show.console import print_table
from entropyctl.show.text import number, shorten, visible
from entropyctl.table import check_needs
from entropyctl.table.schema import known_column
from entropyctl.table.types import is_list

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# From low to high: backgrounds that black text can be read on, on a light and on a dark terminal.
SHADES = ("#ffffff", "#fff7bc", "#fee391", "#fec44f", "#fe9929", "#f7745e")
Decode = Callable[[Sequence[int]], str]


def chosen_column(row: pa.Table, color: str | None, path: str) -> str | None:
    """The per-token column to show: the one asked for, else entropies, else the sampler's log-probabilities.

    Raises:
        InputError: the column asked for is missing, or holds no number per token in this row.
    """
    if color is None:
        return next((name for name in ("entropies", "rollout_logprobs") if name in row.column_names), None)
    check_needs(path, row.column_names, [color])
    kind = row.schema.field(color).type
    numeric = is_list(kind) and not pa.types.is_nested(kind.value_type) and not pa.types.is_string(kind.value_type)
    if not numeric:
        raise InputError(f"{path}: column '{color}' is {kind}; --color wants a number for each token")
    if row[color][0].as_py() is None:
        raise InputError(f"{path}: column '{color}' is null in this row, not computed; choose another with --color")
    return color


def token_pieces(decode: Decode, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to the tokens before it.

    A token that ends within a character adds nothing; the token that completes the character adds it. A token is
    decoded behind its predecessor, because some tokenizers drop the space of a first word.
    """
    pieces: list[str] = []
    begin = shown = 0
    for end in range(1, len(ids) + 1):
        before, text = decode(ids[begin:shown]), decode(ids[begin:end])
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        begin, shown = shown, end
    return pieces


def print_response(to: Console, row: pa.Table, color: str | None, decode: Decode | None) -> None:
    """Print a row: short values, then prompt and response, then the tokens.

    Args:
        to: where it goes.
        row: a table of one row.
        color: the per-token column to show, or None.
        decode: text of a list of token ids; None where no tokenizer is at hand.
    """
    values = {name: row[name][0].as_py() for name in row.column_names}
    for name, value in values.items():
        if not isinstance(value, list) and name not in ("prompt", "response"):
            to.print(f"{visible(name)}: {shorten(str(value), 200)}", soft_wrap=True)
    for name in ("prompt", "response"):
        if values.get(name) is not None:
            to.print(f"{name}:", style="bold")
            to.print(visible(str(values[name]), keep="\n"), soft_wrap=True)
    numbers = values.get(color) if color else None
    ids = values.get("tokens") or []
    if numbers is None and not ids:
        return
    pieces = token_pieces(decode, ids) if decode else [""] * len(ids or numbers or [])
    _print_tokens(to, color or "", ids, pieces, numbers or [None] * len(ids))


def _print_tokens(to: Console, color: str, ids: list[int], pieces: list[str], numbers: list[float | None]) -> None:
    colors = _shades(numbers) if to.is_terminal and not to.no_color else [None] * len(numbers)
    if color:
        to.print(_legend(color, numbers, any(colors)), style="bold")
    if any(pieces) and any(colors):
        to.print(_colored(pieces, colors), soft_wrap=True)
        return
    from rich.text import Text

    titles = ["", "token", *(["text"] if any(pieces) else []), *([color] if color else [])]
    rows = []
    for i, (value, shade) in enumerate(zip(numbers, colors, strict=True)):
        cells: list[Any] = [str(i), str(ids[i]) if i < len(ids) else ""]
        cells += [visible(pieces[i])] if any(pieces) else []
        cells += [Text(number(value), style=_style(shade))] if color else []
        rows.append(cells)
    print_table(to, [visible(title) for title in titles], rows, left=["text"])


def _shades(numbers: Sequence[float | None]) -> list[str | None]:
    """A colour for each number, in equal steps from the smallest to the largest of the row."""
    known = [float(value) for value in numbers if value is not None and value == value]
    if not known:
        return [None] * len(numbers)
    low, width = min(known), (max(known) - min(known)) or 1.0
    return [
        None
        if value is None or value != value
        else SHADES[min(int((value - low) / width * len(SHADES)), len(SHADES) - 1)]
        for value in numbers
    ]


def _style(shade: str | None) -> str:
    return f"black on {shade}" if shade else ""


def _legend(color: str, numbers: Sequence[float | None], colored: bool) -> Text:
    from rich.text import Text

    column = known_column(color)
    unit = f" [{column.unit}]" if column and column.unit else ""
    known = [float(value) for value in numbers if value is not None and value == value]
    if not known:
        return Text(f"{visible(color)}{unit}: no values")
    text = Text(f"{visible(color)}{unit}: {number(min(known))} ")
    if colored:
        for shade in SHADES:
            text.append("  ", style=_style(shade))
    else:
        text.append("to")
    return text.append(f" {number(max(known))}")


def _colored(pieces: Sequence[str], colors: Sequence[str | None]) -> Text:
    from rich.text import Text

    text = Text()
    for piece, shade in zip(pieces, colors, strict=True):
        text.append(visible(piece, keep="\n"), style=_style(shade))
    return text
