"""Values of a query: numbers, truths or texts, nulls among them; one for each row, for each token, or one for all."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Type = Literal["number", "truth", "text", "null"]


class Level(IntEnum):
    """Of what there is a value each."""

    ALL = 0  # one for all rows
    ROW = 1
    TOKEN = 2


class Kind(NamedTuple):
    """What a part of a query is."""

    type: Type
    level: Level


class Value(NamedTuple):
    """What a part of a query is for the rows of a step."""

    data: Any  # `[]`, `[B]` or `[N]`, with anything where it is null
    null: Any  # bool of the same shape, or one False for all
    kind: Kind

    @property
    def level(self) -> Level:
        """Of what there is a value each."""
        return self.kind.level


def numbers(data: Any, null: Any = np.False_, level: Level = Level.ALL) -> Value:
    """Numbers; what is not a number is null."""
    data = np.asarray(data)
    if data.dtype.kind == "f" and np.isnan(data).any():
        null = null | np.isnan(data)
    return Value(data, null, Kind("number", level))


def truths(data: Any, null: Any = np.False_, level: Level = Level.ALL) -> Value:
    """True or false."""
    return Value(np.asarray(data, bool), null, Kind("truth", level))


def texts(data: Any, null: Any = np.False_, level: Level = Level.ALL) -> Value:
    """Texts."""
    return Value(np.asarray(data, object), null, Kind("text", level))


def spread(value: Value, lengths_B: Array) -> Value:
    """A row's value for each of its tokens; what holds for all stays as it is.

    Args:
        value: of any level.
        lengths_B: tokens of each row.
    """
    if value.level is not Level.ROW:
        return value
    null = np.repeat(value.null, lengths_B) if np.ndim(value.null) else value.null
    return Value(np.repeat(value.data, lengths_B), null, Kind(value.kind.type, Level.TOKEN))
