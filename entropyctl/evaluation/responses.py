"""The scored responses of an evaluation: rollout and score in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from entropyctl.engines import Engine, Request, Response, Sampling, rollout_step
from entropyctl.engines._sampling import Done, ignore
from entropyctl.evaluation.task import Task
from entropyctl.evaluation.unfinished import Unfinished
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_tokenizer
from entropyctl.policy.scorer import Scorer, open_scorer
from entropyctl.registry import load_function
from entropyctl.rewards import Grader, grade_rows
from entropyctl.table.columns import codes, row_column, row_lengths
from entropyctl.table.paths import local_path
from entropyctl.table.rows import Rows, read_rows

# So many tokens are graded, scored and kept at a time: enough to fill a scorer's passes.
GROUP_TOKENS = 1 << 16


@dataclass(frozen=True)
class Computing:
    """How it is computed, which decides no number but by rounding."""

    device: str = "auto"
    batch_rows: int | None = None
    token_budget: int = 4096
    timeout: float = 2.0
    workers: int | None = None
    quiet: bool = True


def kept_responses(path: str | None, key: str) -> Rows | None:
    """The responses of an evaluation that a file holds; None where it holds those of another, or is not there.

    Raises:
        InputError: the file is damaged.
    """
    if path is None or not Path(local_path(path)).exists():
        return None
    found = read_rows(path)
    record = found.header.chain[-1] if found.header.chain else {}
    return found if record.get("evaluation", {}).get("key") == key else None


def together(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Responses that were there with those that have been added: each problem's stand together."""
    if old is None:
        return new
    rows = pa.concat_tables([old, new.select(old.column_names).cast(old.schema)]).combine_chunks()
    return rows.take(row_column(np.argsort(codes(rows["prompt_id"]), kind="stable"), pa.int64()))


def collect(
    policy: Policy,
    task: Task,
    n: int,
    *,
    first: int = 0,
    unfinished: Unfinished | None = None,
    computing: Computing = Computing(),
) -> pa.Table:
    """Sample responses to every problem, grade them, and compute their token statistics.

    A response's random numbers depend on its key alone, so that what is sampled in several runs is what one run would
    have sampled. A model is loaded when it is needed, and not where an earlier run has left nothing to do.

    Args:
        policy: samples and scores.
        task: what it is asked.
        n: responses to each problem.
        first: how many of them are there already: those from this number on are made.
        unfinished: what an earlier run has left, and what this one leaves if it is stopped.
        computing: how it is computed.

    Returns:
        One step (number 0) of a scored table: what `rollout | score` would write, with the context of `Task.origin`.
    """
    models = _Models(policy, task, computing)
    with Grader(task.reward, timeout=computing.timeout, workers=computing.workers) as grader:
        try:
            rows = rollout_step(
                task.problems,
                models.sample if unfinished is None else unfinished.sampler(models.sample),
                load_tokenizer(policy),
                task.sampling,
                step=0,
                n=n,
                first=first,
                seed=task.seed,
                policy_version=policy.version,
                chat=task.chat,
            )
            models.stop_sampling()

            def score(group: pa.Table) -> pa.Table:
                return models.score(grade_rows(group, grader, task.source))

            groups = _groups(rows)
            done = [score(group) if unfinished is None else unfinished.scored(group, score) for group in groups]
        finally:
            models.close()
    return pa.concat_tables(done).combine_chunks()


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows of whole problems, about `GROUP_TOKENS` at a time."""
    length_B = row_lengths(rows["tokens"]) + row_lengths(rows["prompt_tokens"])
    part_B = (np.cumsum(length_B) - length_B) // GROUP_TOKENS
    problem_B = codes(rows["prompt_id"])
    starts = np.flatnonzero(np.diff(problem_B, prepend=-1))
    kept = [int(start) for start in starts if start == 0 or part_B[start] != part_B[start - 1]]
    for begin, end in pairwise([*kept, rows.num_rows]):
        yield rows.slice(begin, end - begin)


class _Models:
    """What samples and what scores, each loaded when it is first asked; one model where it can do both."""

    def __init__(self, policy: Policy, task: Task, computing: Computing) -> None:
        self._policy, self._task, self._how = policy, task, computing
        self._engine: Engine | None = None
        self._scorer: Scorer | None = None

    def sample(self, requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
        if self._engine is None:
            self._engine = load_function("engines", self._task.engine)(
                self._policy,
                dtype=self._task.dtype,
                device=self._how.device,
                batch_rows=self._how.batch_rows,
                arguments=dict(self._task.arguments),
            )
        return self._engine.sample(requests, sampling, done)

    def stop_sampling(self) -> None:
        """An engine of its own gives its memory up to the scorer."""
        if self._engine is not None and self._engine.model is None:
            self.close()

    def score(self, rows: pa.Table) -> pa.Table:
        if self._scorer is None:
            self._scorer = open_scorer(
                self._policy,
                self._task.sampling.temperature,
                dtype=self._task.dtype,
                device=self._how.device,
                token_budget=self._how.token_budget,
                quiet=self._how.quiet,
                model=self._engine.model if self._engine else None,
            )
        return self._scorer.score(rows)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None
