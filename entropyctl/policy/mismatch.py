"""The sampling mismatch of the steps that are scored, and the thresholds that it must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.dynamics.mismatch import Mismatch, MismatchSums, mismatch, mismatch_sums, pooled
from entropyctl.errors import ThresholdCrossed, UsageError
from entropyctl.inputs import base_mask, greedy, step_number
from entropyctl.table.columns import flat_values, null_rows, row_column, row_lengths
from entropyctl.table.header import Context

# What is read of a table beside the log-probabilities that are made.
READS = ("rollout_logprobs", "loss_mask", "base_mask", "greedy")


class Measure(NamedTuple):
    """A number that --fail-over knows."""

    most: float  # the largest value that it can have
    worse: str  # which side of the threshold is bad


MEASURES = {
    "mean": Measure(math.inf, "over"),
    "max": Measure(math.inf, "over"),
    "k3": Measure(math.inf, "over"),
    "disagreements": Measure(1.0, "over"),
    "ess": Measure(1.0, "below"),
    "sequence_ess": Measure(1.0, "below"),
}


class Threshold(NamedTuple):
    """A value that a measure may reach but not pass."""

    name: str
    value: float

    def crossed_by(self, found: Mismatch) -> bool:
        """Whether a step lies on the wrong side."""
        value = getattr(found, self.name)
        return bool(value < self.value if MEASURES[self.name].worse == "below" else value > self.value)


def parse_thresholds(words: Sequence[str]) -> list[Threshold]:
    """`["k3=0.01", "ess=0.9"]` as thresholds.

    Raises:
        UsageError: a measure is not known, or the value is none that it can have.
    """
    found = []
    for word in words:
        name, _, text = word.partition("=")
        if name not in MEASURES:
            raise UsageError(f"--fail-over {word}: must be NAME=VALUE; the names are {', '.join(MEASURES)}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        most = MEASURES[name].most
        if not (0 <= value <= most and math.isfinite(value)):
            rule = "a finite number, 0 or above" if most == math.inf else f"a number from 0 to {most:g}"
            raise UsageError(f"--fail-over {word}: {name} must be {rule}; the names are {', '.join(MEASURES)}")
        found.append(Threshold(name, value))
    return found


@dataclass
class MismatchWatch:
    """Measures each step that is scored; remembers the sums of all, and the first step that crossed a threshold."""

    path: str  # of the rows, for messages
    sampling: Context
    thresholds: Sequence[Threshold] = ()
    at_once: bool = False  # raise before the step goes on, not at the end
    sums: MismatchSums = field(default_factory=MismatchSums)
    crossed: str | None = None

    def see(self, rows: pa.Table) -> pa.Table:
        """The rows as they are, measured.

        Raises:
            ThresholdCrossed: the step crossed a threshold, which is to be known at once.
        """
        if "rollout_logprobs" not in rows.column_names:
            return rows
        sums = step_sums(rows)
        self.sums = pooled(self.sums, sums)
        if self.crossed is None and (found := mismatch(sums)):
            self.crossed = next(
                (self._crossing(step_number(rows), t, found) for t in self.thresholds if t.crossed_by(found)), None
            )
        if self.at_once:
            self.check()
        return rows

    def check(self) -> None:
        """Stop where a step has crossed a threshold.

        Raises:
            ThresholdCrossed: names the step, the measure, its value and the threshold.
        """
        if self.crossed:
            raise ThresholdCrossed(self.crossed)

    def _crossing(self, step: int, threshold: Threshold, found: Mismatch) -> str:
        name, value = threshold
        cause = f" ({self.by_construction} makes them differ)" if self.by_construction else ""
        return (
            f"{self.path}: step {step}: {name} of the sampling mismatch is {getattr(found, name):.4g}, "
            f"{MEASURES[name].worse} --fail-over {name}={value:g}{cause}; score with the number type and the weights "
            "that sampled, or choose another threshold and correct for it by `entropyctl mask importance`"
        )

    @property
    def by_construction(self) -> str | None:
        """The options of the sampling because of which even equal engines differ; None where they mean the same."""
        options = {"top_p": 1.0, "top_k": 0} if self._processed else {"temperature": 1.0}
        set_here = {name: self.sampling.get(name, neutral) for name, neutral in options.items()}
        names = [f"{name.replace('_', '-')} {set_here[name]}" for name in options if set_here[name] != options[name]]
        return " and ".join(names) or None

    @property
    def _processed(self) -> bool:
        return self.sampling.get("logprob_kind", "processed") == "processed"

    def as_dict(self) -> dict[str, Any]:
        """The numbers over all steps; nothing where nothing was compared."""
        found = mismatch(self.sums)
        return {"mismatch": {**found._asdict(), "by_construction": self.by_construction}} if found else {}

    def line(self) -> str | None:
        """The same for people."""
        found = mismatch(self.sums)
        if found is None:
            return None
        cause = f"; {self.by_construction} makes them differ by construction" if self.by_construction else ""
        return (
            f"sampled against scored log p: mean {found.mean:.2g}, max {found.max:.2g}, k3 {found.k3:.2g}, "
            f"ESS {found.ess:.4g} (by response {found.sequence_ess:.4g}), "
            f"{found.disagreeing_tokens} of {found.tokens} tokens disagree confidently{cause}"
        )


def step_sums(rows: pa.Table) -> MismatchSums:
    """The sums of the tokens that the policy chose, without greedy rows and rows of which one side is not known.

    Args:
        rows: scored, with `rollout_logprobs`.
    """
    columns = [name for name in ("logprobs", *READS) if name in rows.column_names]
    left_out_B = greedy(rows)
    for name in columns:
        if name not in ("greedy", "base_mask"):
            left_out_B = left_out_B | null_rows(rows[name])
    rows = rows.select(columns)
    if left_out_B.any():
        rows = rows.take(row_column(np.flatnonzero(~left_out_B), pa.int64()))
    logprobs_N = flat_values(rows["logprobs"])
    chosen_N = base_mask(rows).astype(bool) if "loss_mask" in columns else np.ones(len(logprobs_N), bool)
    return mismatch_sums(logprobs_N, flat_values(rows["rollout_logprobs"]), chosen_N, row_lengths(rows["logprobs"]))
