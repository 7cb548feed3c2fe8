"""One response: its facts, its text, and its tokens with a quantity in numbers and colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.query import Query, column, numbers_of_tokens, query, select
from entropyctl.query.names import MADE
from entropyctl.query.value import Level
from entropyctl.show.console import print_table
from entropyctl.show.scale import legend, scale_of, style
from entropyctl.show.text import number, shorten, visible
from entropyctl.show.tokenizer import Decode, token_pieces
from entropyctl.table.schema import known_column

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NOT_COUNTED, NO_WEIGHT = "not counted", "weight 0"


class Tokens(NamedTuple):
    """What is shown of each token of a response."""

    ids: list[int]
    pieces: list[str]  # "" where there is no text
    numbers: list[float | None]
    marks: list[str]  # why it is removed, or ""
    selected: list[bool]


def chosen_quantity(row: pa.Table, color: str | None, path: str) -> Query | None:
    """The quantity to show: the one asked for, else entropies, else the sampler's log-probabilities.

    A text that is exactly a column's name is that column, whatever characters it has.

    Raises:
        InputError: a column is missing, or the quantity is no number for each token of this row.
        UsageError: the text does not follow the grammar.
    """
    if color is None:
        name = next((name for name in ("entropies", "rollout_logprobs") if name in row.column_names), None)
        return None if name is None else column("--color", name)
    chosen = column("--color", color) if color in row.column_names else query("--color", color)
    kind = chosen.kind(row.schema, path)
    if kind.type not in ("number", "truth") or kind.level is not Level.TOKEN:
        raise InputError(f"{path}: {color} has none for a token; --color wants a number for each token")
    return chosen


def tokens_of(row: pa.Table, color: Query | None, where: Query | None, decode: Decode | None, path: str) -> Tokens:
    """The tokens of a response.

    Args:
        row: a table of one row.
        color: the quantity to show, or None.
        where: the condition of those that are shown; None shows all.
        decode: text of a list of token ids; None where no tokenizer is at hand.
        path: the input's name, for messages.

    Raises:
        InputError: the quantity is null, or no number for each token.
    """
    ids: list[int] = (row["tokens"][0].as_py() if "tokens" in row.column_names else None) or []
    values: list[float | None] = [None] * len(ids)
    if color is not None:
        data, null = numbers_of_tokens(color, row, path)
        values = [None if gone else float(value) for value, gone in zip(data.tolist(), null.tolist(), strict=True)]
        if values and all(null.tolist()):
            raise InputError(f"{path}: {color.text} is null in this row, not computed; choose another with --color")
    pieces = token_pieces(decode, ids) if decode else [""] * len(values)
    selected = [True] * len(values) if where is None else select(where, row, path).tokens.tolist()
    return Tokens(ids, pieces, values, _marks(row, len(values)), selected)


def _marks(row: pa.Table, count: int) -> list[str]:
    """Which tokens teach nothing, and why."""
    weights, counted = (
        (row[name][0].as_py() if name in row.column_names else None) or [1.0] * count
        for name in ("weights", "loss_mask")
    )
    return [
        NOT_COUNTED if not inside else NO_WEIGHT if weight == 0 else ""
        for weight, inside in zip(weights, counted, strict=True)
    ]


def print_response(to: Console, row: pa.Table, color: Query | None, tokens: Tokens) -> None:
    """Print a row: short values, then prompt and response, then the tokens.

    Args:
        to: where it goes.
        row: a table of one row.
        color: the quantity that is shown, or None.
        tokens: its tokens.
    """
    values = {name: row[name][0].as_py() for name in row.column_names}
    for name, value in values.items():
        if not isinstance(value, list) and name not in ("prompt", "response"):
            to.print(f"{visible(name)}: {shorten(str(value), 200)}", soft_wrap=True)
    for name in ("prompt", "response"):
        if values.get(name) is not None:
            to.print(f"{name}:", style="bold")
            to.print(visible(str(values[name]), keep="\n"), soft_wrap=True)
    if tokens.numbers:
        _print_tokens(to, color, tokens)


def _print_tokens(to: Console, color: Query | None, tokens: Tokens) -> None:
    title = "" if color is None else visible(color.text)
    colored = color is not None and to.is_terminal and not to.no_color
    scale = scale_of(color, tokens.numbers) if color is not None and colored else None
    if color is not None:
        to.print(legend(title + _unit(color.text), tokens.numbers, scale), style="bold", soft_wrap=True)
    shades = [scale.shade(value) if scale else None for value in tokens.numbers]
    in_text = scale is not None and any(tokens.pieces)
    if in_text and any(tokens.marks):
        counts = ", ".join(
            f"{tokens.marks.count(why)} {why}" for why in (NOT_COUNTED, NO_WEIGHT) if why in tokens.marks
        )
        to.print(f"struck out: {counts}", style="bold")
    if in_text:
        to.print(_colored(tokens, shades), soft_wrap=True)
    else:
        _list_tokens(to, title, tokens, shades)


def _list_tokens(to: Console, title: str, tokens: Tokens, shades: Sequence[str | None]) -> None:
    from rich.text import Text

    text, marked = any(tokens.pieces), any(tokens.marks)
    titles = ["", "token", *(["text"] if text else []), *([title] if title else []), *(["removed"] if marked else [])]
    rows = []
    for i in [i for i, selected in enumerate(tokens.selected) if selected]:
        cells: list[Any] = [str(i), str(tokens.ids[i]) if i < len(tokens.ids) else ""]
        cells += [visible(tokens.pieces[i])] if text else []
        cells += [Text(number(tokens.numbers[i]), style=style(shades[i]))] if title else []
        rows.append(cells + ([tokens.marks[i]] if marked else []))
    print_table(to, titles, rows, left=["text", "removed"])


def _unit(name: str) -> str:
    known = known_column(name)
    unit = MADE[name].unit if name in MADE else known.unit if known else ""
    return f" [{unit}]" if unit else ""


def _colored(tokens: Tokens, shades: Sequence[str | None]) -> Text:
    """The text, with colours behind the tokens that are selected and a line through those that are removed."""
    from rich.text import Text

    text = Text()
    for piece, shade, mark, selected in zip(tokens.pieces, shades, tokens.marks, tokens.selected, strict=True):
        words = [style(shade)] if selected else []
        text.append(visible(piece, keep="\n"), style=" ".join([*words, *(["strike"] if mark else [])]))
    return text
