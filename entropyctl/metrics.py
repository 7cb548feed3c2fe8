"""The metrics of a run's earlier steps, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from entropyctl.errors import InputError
from entropyctl.table.rows import read_rows

COLUMNS = ("step", "entropy", "entropy_after", "predicted_change", "realised_change", "learning_rate")


def read_history(path: str) -> dict[str, npt.NDArray[Any]]:
    """The metrics of the steps in a file or directory, in order of steps.

    Returns:
        Each of `COLUMNS` as `[S]` float64.

    Raises:
        InputError: it is no metrics table.
    """
    rows = read_rows(path).rows
    missing = [name for name in COLUMNS if name not in rows.column_names]
    if missing:
        raise InputError(f"{path}: has no column '{missing[0]}'; name the directory that `update --metrics` wrote")
    found = {name: np.array(rows[name].to_pylist(), np.float64) for name in COLUMNS}
    order = np.argsort(found["step"], kind="stable")
    return {name: values[order] for name, values in found.items()}
