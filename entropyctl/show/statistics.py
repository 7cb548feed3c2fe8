"""Summary statistics of columns of any length, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.table.columns import Array, buffer_view, filled, null_rows, one_chunk
from entropyctl.table.types import is_list

# Quantiles are exact up to this many values; beyond, they are those of a uniform sample of this size.
SAMPLE = 200_000
# A text column with more different values than this is not a column of categories.
MOST_CATEGORIES = 8


class Numbers:
    """Running count, mean, extremes and quantiles of numbers."""

    def __init__(self) -> None:
        self.count = self.nan = 0
        self.total = 0.0
        self.low, self.high = np.inf, -np.inf
        self._sample = _Sample()

    def add(self, values_N: Array) -> None:
        """Add values; NaN is counted apart."""
        values_N = values_N.astype(np.float64)
        good_N = values_N[~np.isnan(values_N)]
        self.nan += len(values_N) - len(good_N)
        if len(good_N):
            self.count += len(good_N)
            self.total += float(good_N.sum())
            self.low, self.high = min(self.low, float(good_N.min())), max(self.high, float(good_N.max()))
            self._sample.add(good_N)

    def as_dict(self, quantiles: bool) -> dict[str, Any]:
        """The statistics; without any value, None for each."""
        if not self.count:
            found = dict.fromkeys(("mean", "min", "max", *(("p1", "p50", "p99") if quantiles else ())))
            return {"count": 0, "nan": self.nan, **found}
        found = {"count": self.count, "nan": self.nan, "mean": self.total / self.count}
        found |= {"min": self.low, "max": self.high}
        if quantiles:
            p1, p50, p99 = np.quantile(self._sample.values, (0.01, 0.5, 0.99)).tolist()
            found |= {"p1": p1, "p50": p50, "p99": p99, "sampled": self.count > SAMPLE}
        return found


class _Sample:
    """A uniform sample without replacement: of all values, those with the smallest random keys."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._keys: Array = np.empty(0)
        self.values: Array = np.empty(0)

    def add(self, values_N: Array) -> None:
        keys_N = self._random.random(len(values_N))
        if len(self.values) == SAMPLE:
            chosen_N = keys_N < self._keys.max()
            keys_N, values_N = keys_N[chosen_N], values_N[chosen_N]
        keys, values = np.concatenate([self._keys, keys_N]), np.concatenate([self.values, values_N])
        if len(values) > SAMPLE:
            kept = np.argpartition(keys, SAMPLE)[:SAMPLE]
            keys, values = keys[kept], values[kept]
        self._keys, self.values = keys, values


class ColumnStatistics:
    """Running statistics of one column: numbers per row, numbers per token (lists), or text."""

    def __init__(self, kind: pa.DataType) -> None:
        self.leaf = kind.value_type if is_list(kind) else kind
        self.is_list = is_list(kind)
        self.is_number = bool(
            pa.types.is_integer(self.leaf) or pa.types.is_floating(self.leaf) or pa.types.is_boolean(self.leaf)
        )
        self.is_text = bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
        self.rows = self.nulls = self.null_entries = 0
        self.numbers = Numbers()
        self.categories: Counter[str] | None = Counter()

    def add(self, column: pa.ChunkedArray) -> None:
        """Add the next rows."""
        array = one_chunk(column)
        self.rows += len(array)
        self.nulls += array.null_count
        if self.is_number:
            self.numbers.add(self._values(array))
        elif self.is_text and self.categories is not None:
            for entry in array.value_counts().to_pylist():
                if entry["values"] is not None:
                    self.categories[entry["values"]] += entry["counts"]
            if len(self.categories) > MOST_CATEGORIES:
                self.categories = None

    def _values(self, array: pa.Array) -> Array:
        values = array.flatten() if self.is_list else array
        self.null_entries += values.null_count if self.is_list else 0
        if pa.types.is_boolean(values.type):
            number_N = buffer_view(values, np.bool_)
        else:
            number_N = filled(values)
        return number_N[~null_rows(values)] if values.null_count else number_N

    def as_dict(self) -> dict[str, Any]:
        """Rows, nulls, and what there is to say of the values."""
        found: dict[str, Any] = {"rows": self.rows, "nulls": self.nulls}
        if self.null_entries:
            found["null_entries"] = self.null_entries
        if self.is_number:
            found |= self.numbers.as_dict(quantiles=self.is_list and pa.types.is_floating(self.leaf))
        elif self.is_text and self.categories:
            found["values"] = dict(self.categories.most_common())
        return found
