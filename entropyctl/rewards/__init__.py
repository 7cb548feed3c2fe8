"""Graders: what a response is worth. One file each, run in worker processes that can be killed.

    with Grader("math", timeout=5.0) as grader:
        grades = grader.grade([GradeInput(response=r"\\boxed{0.5}", answer="1/2")])

A grader is a pure function of its file's name. Its positional parameters are those that it needs of `response`,
`answer`, `data_source` and `extra`; it returns a `Grade`. One keyword-only parameter, if it has one, takes what
follows the colon in `--reward NAME:...`. Beside it the file may hold

    prepare()   imports what is heavy; called once in each worker, before any clock runs (with the keyword parameter)
    quick(...)  decides easy cases in the calling process, in time linear in the text; None leaves them to a worker
    decisive(response)  as much of a response as the verdict depends on, so that more of them are graded as one

An exception in a grader is the outcome `error` of that response alone; an `InputError` says that the input itself
is at fault, and ends the batch.
"""

from typing import TYPE_CHECKING, Any

from entropyctl.rewards._grade import OUTCOMES, Grade, GradeInput, Outcome
from entropyctl.rewards._grader import Grader

if TYPE_CHECKING:
    from entropyctl.rewards._rows import GRADE_COLUMNS, GradeSummary, grade_rows

__all__ = ["GRADE_COLUMNS", "OUTCOMES", "Grade", "GradeInput", "GradeSummary", "Grader", "Outcome", "grade_rows"]


def __getattr__(name: str) -> Any:
    # Workers import this package too, and have no use for Arrow.
    if name not in __all__:
        raise AttributeError(f"module 'entropyctl.rewards' has no attribute '{name}'")
    from entropyctl.rewards import _rows

    return getattr(_rows, name)
