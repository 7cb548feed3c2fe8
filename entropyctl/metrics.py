"""The metrics of a run's earlier steps, as arrays."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table import notice
from entropyctl.table.paths import expand
from entropyctl.table.rows import read_rows

COLUMNS = ("step", "entropy", "entropy_after", "predicted_change", "realised_change", "learning_rate")


def read_history(path: str) -> dict[str, npt.NDArray[Any]]:
    """The metrics of the steps in a file or directory, in order of steps.

    Returns:
        Each of `COLUMNS` as `[S]` float64.

    Raises:
        InputError: it is no metrics table.
    """
    return history_of(read_rows(path).rows, path)


def history_of(rows: pa.Table, path: str) -> dict[str, npt.NDArray[Any]]:
    """The same, of a table that has been read; `path` is its name for messages."""
    missing = [name for name in COLUMNS if name not in rows.column_names]
    if missing:
        raise InputError(f"{path}: has no column '{missing[0]}'; name the directory that `update --metrics` wrote")
    found = {name: np.array(rows[name].to_pylist(), np.float64) for name in COLUMNS}
    order = np.argsort(found["step"], kind="stable")
    return {name: values[order] for name, values in found.items()}


class PastMetrics:
    """The metrics of the steps before the one at hand, while a run is adding to them."""

    def __init__(self, path: str | None) -> None:
        """Say where they are; `before` reads them.

        Args:
            path: a file, or the directory that `update --metrics` writes; None for no history.
        """
        self.path = path
        self._read: dict[str, npt.NDArray[Any]] | None = None

    def before(self, step: int) -> dict[str, npt.NDArray[Any]]:
        """The metrics of the steps below one, so that a step that is run again sees what it saw the first time.

        Empty, with a notice, where no earlier step has been written.

        Raises:
            InputError: it is no metrics table.
        """
        if self.path is None:
            return {}
        if self._read is None or not (self._read["step"] >= step - 1).any():
            self._read = self._all(self.path)
        known = self._read["step"] < step
        if len(known) and not known.any():
            notice(f"{self.path}: holds no metrics of steps before {step}; nothing is calibrated there")
        return {name: values[known] for name, values in self._read.items()}

    def _all(self, path: str) -> dict[str, npt.NDArray[Any]]:
        try:
            expand(path)
        except InputError:
            # A loop's first step comes before its first metrics. A misspelt directory looks alike, hence the notice.
            if os.path.splitext(path)[1]:
                raise
            if self._read is None:
                notice(f"{path}: holds no metrics yet; nothing is calibrated before the first")
            return {name: np.zeros(0) for name in COLUMNS}
        return read_history(path)
