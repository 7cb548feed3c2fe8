"""One pass over the responses, a step in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.laws.counts import Counts
from entropyctl.laws.evaluate import NEEDS, evals_of
from entropyctl.report.difficulty import Covariances
from entropyctl.report.discriminator import Discriminator
from entropyctl.report.forking import Forking
from entropyctl.report.progress import OfResponses
from entropyctl.report.responses import Responses
from entropyctl.report.view import COLUMNS, View, view
from entropyctl.table import read
from entropyctl.table.header import Context


class Gathered:
    """What the sections need of the responses."""

    def __init__(self, shown: int) -> None:
        """Begin.

        Args:
            shown: responses that the page shows, at most.
        """
        self.curves, self.covariances, self.discriminator = OfResponses(), Covariances(), Discriminator()
        self.forking, self.responses = Forking(), Responses(shown)
        self.steps: set[int] = set()
        self.tokens = 0
        self.context: Context = {}
        self._counts = Counts("the responses")

    def add(self, step: View) -> None:
        """Add a step."""
        self.steps.add(step.number)
        self.tokens += int(step.lengths.sum())
        for part in (self.curves, self.covariances, self.discriminator, self.forking, self.responses):
            part.add(step)
        if set(NEEDS) <= set(step.rows.column_names) and not step.rows["outcome"].null_count:
            self._counts.add(step.rows)

    def evals(self) -> pa.Table | None:
        """The graded responses counted by problem, as an evals table; None without grades."""
        return evals_of(self._counts) if self._counts.problems else None


def gather(
    sources: Sequence[Sequence[str]],
    shown: int,
    allow: tuple[str, ...] = (),
    advance: Callable[[int], None] = lambda rows: None,
) -> Gathered:
    """Read the responses.

    Args:
        sources: paths; those of one list are laid over one another by key.
        shown: responses that the page shows, at most.
        allow: fields of the context on which tables may disagree.
        advance: told how many rows have been read.

    Raises:
        InputError: a table is damaged or holds no responses.
        MismatchError: tables that are laid over one another do not belong together.
    """
    found = Gathered(shown)
    for paths in sources:
        with read(list(paths), columns=COLUMNS, allow_mismatch=allow) as source:
            for step in source:
                if step.number in found.steps:
                    raise InputError(
                        f"{source.path}: has a step {step.number}, as another table has; name those of one run"
                    )
                if (seen := view(step)) is not None:
                    found.add(seen)
                advance(step.rows.num_rows)
            found.context = found.context or source.context
    return found
