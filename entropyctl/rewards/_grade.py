"""What a grader is given and what it gives back."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Outcome = Literal["correct", "wrong", "unparsable", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "unparsable", "timeout", "error")

# The column is float32, where a larger number would become infinite.
LARGEST = 3.4e38


class GradeInput(NamedTuple):
    """One response to be graded.

    Attributes:
        response: what the model wrote.
        answer: the reference answer; None when there is none.
        data_source: the data set that the problem comes from.
        extra: whatever else came with the problem.
        name: of the row, for messages.
    """

    response: str
    answer: str | None = None
    data_source: str | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    name: str = ""


class Grade(NamedTuple):
    """The verdict on one response.

    Attributes:
        reward: the grader's number; finite.
        outcome: correct, wrong, unparsable, timeout or error.
        predicted: the answer that was read out of the response; None when none was found.
    """

    reward: float
    outcome: Outcome
    predicted: str | None


LONGEST_PREDICTED = 2000


def shortened(grade: Grade) -> Grade:
    """The grade with what was predicted cut to 2000 characters: enough to tell answers apart."""
    return grade._replace(predicted=grade.predicted and grade.predicted[:LONGEST_PREDICTED])


def graded(correct: bool, predicted: str) -> Grade:
    """The grade of an answer that was read: 1 and correct, or 0 and wrong."""
    return Grade(1.0, "correct", predicted) if correct else Grade(0.0, "wrong", predicted)


UNPARSABLE = Grade(0.0, "unparsable", None)
