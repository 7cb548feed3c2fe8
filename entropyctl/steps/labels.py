"""`step_labels`: which steps of a response are correct, and by whose word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.table.columns import column_from, filled, one_chunk, row_lengths
from entropyctl.table.schema import known_column

BoolArray = npt.NDArray[np.bool_]


class StepLabel(TypedDict):
    """One step: its tokens [start, end) of the response, what each source said (None: not asked), and the consensus."""

    start: int
    end: int
    judge: str | None
    prm: float | None
    correct: bool


def step_label(
    span: tuple[int, int], *, judge: str | None = None, prm: float | None = None, threshold: float | None = None
) -> StepLabel:
    """A label by consensus: correct where every source that was asked says so.

    Args:
        span: tokens [start, end).
        judge: the judge's verdict, or why it gave none; None when no judge was asked.
        prm: p(correct) by the process reward model; None when there is none.
        threshold: what `prm` must be above; None when no model was asked.
    """
    by_model = threshold is None or (prm is not None and prm > threshold)
    asked = judge is not None or threshold is not None
    return StepLabel(
        start=span[0], end=span[1], judge=judge, prm=prm, correct=asked and judge in (None, "correct") and by_model
    )


def labels_column(labels: Sequence[Sequence[StepLabel] | None]) -> pa.Array:
    """The column out of each row's labels, None for rows that are not labelled."""
    column = known_column("step_labels")
    assert column is not None
    return column_from(labels, column.arrow_type)


def step_correct(column: pa.ChunkedArray | pa.Array, lengths: npt.NDArray[np.int64]) -> BoolArray:
    """Which tokens lie in a step that is called correct.

    Args:
        column: `step_labels`, `[B]`; a null row has no correct token.
        lengths: `[B]` tokens of each response.

    Returns:
        `[N]`, the rows behind one another.

    Raises:
        InputError: a step reaches beyond its response, or its place is null.
    """
    column = one_chunk(column)
    steps = column.flatten()
    fields = dict(zip((field.name for field in steps.type), steps.flatten(), strict=True))
    row_S = np.repeat(np.arange(len(column)), row_lengths(column))
    start_S, end_S = filled(fields["start"], -1).astype(np.int64), filled(fields["end"], -1).astype(np.int64)
    bad = np.flatnonzero((start_S < 0) | (end_S < start_S) | (end_S > lengths[row_S]))
    if len(bad):
        row = int(row_S[bad[0]])
        raise InputError(
            f"row number {row} of the step: 'step_labels' has the tokens {start_S[bad[0]]} to {end_S[bad[0]]} of a "
            f"response of {lengths[row]}; label it again with `entropyctl score --steps`"
        )
    correct_S = filled(fields["correct"], False)
    first_B = np.cumsum(lengths) - lengths
    change_N = np.zeros(int(lengths.sum()) + 1, np.int64)
    np.add.at(change_N, (first_B[row_S] + start_S)[correct_S], 1)
    np.add.at(change_N, (first_B[row_S] + end_S)[correct_S], -1)
    return np.cumsum(change_N)[:-1] > 0
