"""`step_labels`: which steps of a response are correct, and by whose word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa

from entropyctl.table.columns import column_from
from entropyctl.table.schema import known_column


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
