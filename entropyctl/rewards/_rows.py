"""Grading the rows of a table."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.rewards._grade import OUTCOMES, Grade, GradeInput
from entropyctl.rewards._grader import Grader
from entropyctl.table.columns import row_column, with_column
from entropyctl.table.conform import row_name

GRADE_COLUMNS = ("reward", "outcome", "predicted")


@dataclass
class GradeSummary:
    """Running totals over steps."""

    rewards: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Rows, mean reward, and how many responses had each outcome that occurred."""
        rows = len(self.rewards)
        counts: dict[str, Any] = {name: self.outcomes[name] for name in OUTCOMES if self.outcomes[name]}
        return {"rows": rows, "reward": sum(self.rewards) / max(rows, 1)} | counts

    def add(self, grades: list[Grade]) -> None:
        """Count a step."""
        self.rewards += [grade.reward for grade in grades]
        self.outcomes.update(grade.outcome for grade in grades)


def grade_rows(
    rows: pa.Table, grader: Grader, path: str, summary: GradeSummary | None = None, name: str | None = None
) -> pa.Table:
    """The rows of a step with `reward`, `outcome` and `predicted`; under a name, with `reward_NAME` alone.

    Args:
        rows: with `response`, and with `answer`, `data_source` and `extra` where the grader reads them.
        grader: an open grader.
        path: the input's name, for messages.
        summary: totals to add this step to.
        name: what the reward is called where it is one of several (`advantage gdpo`); the others stay.

    Raises:
        InputError: a row lacks what the grader needs; names it.
    """
    grades = grader.grade(_items(rows, path))
    if summary is not None:
        summary.add(grades)
    if name is not None:
        return with_column(rows, f"reward_{name}", row_column(np.array([g.reward for g in grades]), pa.float32()))
    if "token_rewards" in rows.column_names:
        rows = rows.drop_columns(["token_rewards"])  # a shaping's, of the rewards that were there before
    rows = with_column(rows, "reward", row_column(np.array([g.reward for g in grades]), pa.float32()))
    rows = with_column(rows, "outcome", pa.array([g.outcome for g in grades], pa.string()))
    return with_column(rows, "predicted", pa.array([g.predicted for g in grades], pa.string()))


def _items(rows: pa.Table, path: str) -> list[GradeInput]:
    def column(name: str) -> list[Any]:
        return rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows

    items = []
    parts = zip(*(column(name) for name in ("response", "answer", "data_source", "extra")), strict=True)
    for index, (response, answer, data_source, extra) in enumerate(parts):
        name = f"{path}: row {row_name(rows, index)}"
        items.append(GradeInput(response or "", answer, data_source, _extra(extra, name), name))
    return items


def _extra(text: str | None, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        raise InputError(f"{name}: column 'extra' is not JSON; write a JSON object") from None
    return value if isinstance(value, dict) else {"extra": value}
