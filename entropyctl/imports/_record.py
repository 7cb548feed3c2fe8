"""One record of a dump, whose fields are asked for by type; a fault names the file, the line and the field."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.errors import InputError
from entropyctl.prompts._problem import canonical, plain

Array = npt.NDArray[Any]
LARGEST_TOKEN = np.iinfo(np.int32).max


class Record(NamedTuple):
    """A line of JSON, or a row of Parquet.

    Attributes:
        path: of its file.
        place: where it stands there, as `line 12`.
        value: its fields.
    """

    path: str
    place: str
    value: Mapping[str, Any]

    def fault(self, what: str) -> InputError:
        """An error about this record, to be raised; `what` has the fault and, after a semicolon, the remedy."""
        return InputError(f"{self.path}: {self.place}: {what}")

    def within(self, name: str) -> Record:
        """An object among the fields as a record of its own; empty where it is null or missing."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self._odd(name, "an object")
        return Record(self.path, f"{self.place}: '{name}'", value or {})

    def text(self, name: str) -> str | None:
        """A text; None where it is null or missing."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, str):
            raise self._odd(name, "a text")
        return None if value is None else str(plain(value))

    def number(self, name: str) -> float | None:
        """A number; None where it is null, missing, or not finite."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise self._odd(name, "a number")
        return float(value) if math.isfinite(value) else None

    def integer(self, name: str) -> int:
        """A whole number, which must be there."""
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
            raise self._odd(name, "a whole number")
        return value

    def tokens(self, name: str) -> Array:
        """`[N]` int32 token ids."""
        values_N = self._list(name)
        if len(values_N) and values_N.dtype.kind not in "iu":
            raise self._odd(name, "a list of token ids")
        if len(values_N) and (values_N.min() < 0 or values_N.max() > LARGEST_TOKEN):
            raise self._odd(name, f"a list of token ids from 0 to {LARGEST_TOKEN}")
        return values_N.astype(np.int32)

    def flags(self, name: str, length: int) -> Array:
        """`[length]` bool, of booleans or of 0 and 1."""
        values_N = self.numbers(name, length)
        if np.isnan(values_N).any():
            raise self._odd(name, "a list without nulls")
        return values_N != 0

    def numbers(self, name: str, length: int) -> Array:
        """`[length]` float64, NaN where an entry is null."""
        values_N = self._list(name)
        if values_N.dtype.kind not in "iufb":
            try:
                values_N = np.array([math.nan if v is None else v for v in values_N.tolist()], float)
            except (ValueError, TypeError):
                raise self._odd(name, "a list of numbers") from None
        if len(values_N) != length:
            raise self.fault(f"'{name}' has {len(values_N)} entries for {length} tokens; the dump is damaged")
        return values_N.astype(float)

    def rest(self, used: Collection[str]) -> str | None:
        """The fields that are not in `used`, as one JSON object; None where there are none."""
        left = {name: plain(value) for name, value in self.value.items() if name not in used}
        return canonical(left) if left else None

    def _list(self, name: str) -> Array:
        value = self.value.get(name)
        if not isinstance(value, list):
            raise self._odd(name, "a list")
        try:
            values_N = np.asarray(value)
        except (ValueError, OverflowError):  # lists of several lengths
            raise self._odd(name, "a list of numbers") from None
        if values_N.ndim != 1 or values_N.dtype.kind == "U":
            raise self._odd(name, "a list of numbers")
        return values_N

    def _odd(self, name: str, wanted: str) -> InputError:
        state = "is missing" if name not in self.value else f"must be {wanted}"
        return self.fault(f"'{name}' {state}; name a dump of the format that was asked for")


def under(values_N: Array, loss_mask_N: Array) -> Array | None:
    """Numbers of the tokens that count, and 0 for the rest; None where one of those that count is not known.

    Args:
        values_N: NaN where a number is not known.
        loss_mask_N: which tokens the policy chose itself.
    """
    if not np.isfinite(values_N[loss_mask_N]).all():
        return None
    return np.where(loss_mask_N, values_N, 0.0)
