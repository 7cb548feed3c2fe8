"""What a mask did, in totals over steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.dynamics import predicted_change
from entropyctl.dynamics.blocks import blocks
from entropyctl.masks._compiled import Array
from entropyctl.masks._laid import Laid
from entropyctl.table.columns import flat_values


@dataclass
class Removal:
    """How many tokens pulled, and how many of them a mask removed."""

    pulling: int = 0
    removed: int = 0

    def add(self, pulling_N: Array, gone_N: Array | None) -> None:
        """Count tokens; `gone_N` is None where none was removed."""
        self.pulling += int(np.count_nonzero(pulling_N))
        self.removed += 0 if gone_N is None else int(np.count_nonzero(gone_N))

    @property
    def left(self) -> int:
        """How many still pull."""
        return self.pulling - self.removed

    @property
    def fraction(self) -> float:
        """Of those that pulled; 0 where none did."""
        return self.removed / max(self.pulling, 1)


@dataclass
class MaskSummary:
    """Running totals of what a mask did; add steps, then ask for `as_dict`."""

    tokens: int = 0
    penalised: int = 0
    every: Removal = field(default_factory=Removal)
    positive: Removal = field(default_factory=Removal)
    negative: Removal = field(default_factory=Removal)
    change_before: float = 0.0
    change_after: float = 0.0
    penalises: bool = False
    has_advantages: bool = True
    has_scores: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Fractions removed, by sign of advantage, and the predicted change of entropy per token at eta = 1 and r = 1.

        All is said of this mask alone. `tokens` are those that the incoming loss mask counts, and the predicted
        change is per such token, before with the weights that came in. Fractions are of those among them that still
        pulled, with an incoming weight other than 0; one that an earlier mask had removed is not removed again.
        A method of penalties says on which fraction of the tokens; the predicted change leaves them out.
        Nothing is said by sign without `advantages`, nor of a change without `s_star` and `expected_s` beside them.
        """
        found: dict[str, Any] = {"tokens": self.tokens, "masked_fraction": self.every.fraction}
        if self.penalises:
            found["penalised_fraction"] = self.penalised / max(self.tokens, 1)
        if self.has_advantages:
            found |= {
                "masked_fraction_positive": self.positive.fraction,
                "masked_fraction_negative": self.negative.fraction,
            }
        if self.has_advantages and self.has_scores:
            found |= {
                "predicted_change_before": self.change_before / max(self.tokens, 1),
                "predicted_change_after": self.change_after / max(self.tokens, 1),
            }
        return found

    def add(self, rows: pa.Table, before: Laid, after: Laid, penalties_N: Array | None = None) -> None:
        """Count a step, with what lay on its tokens, what lies there now, and the mask's own penalties."""
        self.penalises |= penalties_N is not None
        self.has_advantages &= _is_computed(rows, "advantages")
        self.has_scores &= _is_computed(rows, "s_star") and _is_computed(rows, "expected_s")
        names = ("advantages", "s_star", "expected_s") if self.has_scores else ("advantages",)
        columns = [flat_values(rows[name]) for name in names] if self.has_advantages else []
        reweighs, narrows = after.weights is not before.weights, after.loss_mask is not before.loss_mask
        # Block by block, so that a token's numbers are still in the cache for all that is counted of it.
        for at in blocks(len(before.loss_mask)):
            was, now = before.part(at), after.part(at)
            changed = reweighs or (narrows and not np.array_equal(was.loss_mask, now.loss_mask))
            if penalties_N is not None:
                self.penalised += int(np.count_nonzero(was.loss_mask & (penalties_N[at] != 0)))
            self._count(was, now if changed else was, *(column_N[at] for column_N in columns))

    def _count(self, was: Laid, now: Laid, advantages_N: Array | None = None, *scores_N: Array) -> None:
        """Count a block of tokens; `now` is `was` where the mask left them as they were."""
        pulling_N = was.pulling()
        gone_N = None if now is was else pulling_N & ~now.pulling()
        self.tokens += int(np.count_nonzero(was.loss_mask))
        self.every.add(pulling_N, gone_N)
        if advantages_N is None:
            return
        for side_N, removal in ((advantages_N > 0, self.positive), (advantages_N < 0, self.negative)):
            removal.add(pulling_N & side_N, None if gone_N is None else gone_N & side_N)
        if scores_N:
            change_N = predicted_change(advantages_N, *scores_N)
            total = _total(change_N, was)
            self.change_before += total
            self.change_after += total if now is was else _total(change_N, now)


def _total(change_N: Array, laid: Laid) -> float:
    """Sum over the counted tokens, by their weights."""
    if not laid.loss_mask.all():
        change_N = change_N * laid.loss_mask
    if laid.weights is not None:
        change_N = change_N * laid.weights
    return float(change_N.sum(dtype=np.float64))


def _is_computed(rows: pa.Table, name: str) -> bool:
    return name in rows.column_names and rows[name].null_count == 0
