"""The evaluation of a policy: its responses sampled and scored, as far as they are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

from entropyctl.engines import has_room_beside
from entropyctl.errors import UsageError
from entropyctl.evaluation.comparison import check_comparable
from entropyctl.evaluation.evaluation import Announce, Evaluation, Ks, put_counts
from entropyctl.evaluation.history import Entry, History
from entropyctl.evaluation.metric import check_k
from entropyctl.evaluation.responses import Computing, collect, kept_responses, together
from entropyctl.evaluation.task import Task
from entropyctl.evaluation.unfinished import Unfinished
from entropyctl.laws import evaluate as ev
from entropyctl.policy import Policy
from entropyctl.policy.holding import held
from entropyctl.table import again, write
from entropyctl.table.columns import row_values
from entropyctl.table.header import Record
from entropyctl.table.rows import read_rows


@dataclass(frozen=True)
class Wanted:
    """How a policy is evaluated: what it is asked, how often, and where its responses are kept.

    Attributes:
        task: what is asked.
        n: responses to each problem, at least.
        more: how many more than there are already; None: as many as `n` says.
        ks: the k that will be reported.
        against: the evaluation that it will be compared with, known to be comparable before it is made.
        allow: fields in which that one may differ.
        metrics: what will be asked of its numbers, with the flags that ask: known to be possible before it is made.
        tee: file of the scored responses; without one they lie in the history.
        output: file of the counts.
        history: of evaluations.
        skip: an evaluation that stands in the history is not made again.
        computing: how it is computed.
    """

    task: Task
    n: int = 8
    more: int | None = None
    ks: Ks = None
    against: Evaluation | None = None
    allow: tuple[str, ...] = ()
    metrics: Sequence[tuple[str, str]] = ()
    tee: str | None = None
    output: str | None = None
    history: History | None = None
    skip: bool = False
    computing: Computing = field(default_factory=Computing)


def of_policy(policy: Policy, how: Wanted, record: Record, announce: Announce) -> Evaluation:
    """The evaluation of a policy: its responses are sampled and scored, as far as they are not there yet.

    Stopped at any instant, the same call does only what is missing: what is finished is kept beside the file that is
    made, `tee`, the history's or `output`. Whatever was sampled when, all responses count.

    Args:
        policy: the version.
        how: what is wanted.
        record: of this run; receives the facts by which the evaluation is known again.
        announce: told what was found.

    Raises:
        Locked: another process is at the same responses.
        UsageError: there are no responses to add to, or a k is above n.
        MismatchError: it could not be compared with what it will be.
    """
    series, key = how.task.series(policy), how.task.key(policy)
    if how.skip and how.history and how.more is None and (entry := how.history.done(key, how.n)):
        return _stored(entry, how, policy, record, announce)
    if how.against:
        check_comparable(how.task, policy, how.against, how.allow)
    place = how.tee or (how.history.responses(series, key) if how.history else None)
    beside = place or how.output
    with held(policy), Unfinished(str(beside), key) if has_room_beside(beside) else nullcontext() as unfinished:
        if unfinished is not None and len(unfinished.journal):
            announce(f"eval: goes on after {len(unfinished.journal)} finished responses in {unfinished.journal.path}")
        old = kept_responses(place, key)
        have = 0 if old is None else int(row_values(old.rows["sample"]).max()) + 1
        if have:
            announce(f"eval: {place} holds {have} responses to each problem")
        n = _responses(how, have)
        facts = {"series": series, "key": key, "n": n, "policy_version": policy.version, "task": how.task.facts}
        record |= {"policy": policy.digest, "evaluation": facts}
        chain, origin = old.header.chain if old else [], how.task.origin(policy)
        with ExitStack() as stack:
            # Outputs are opened first: a place that cannot be written is known before anything is sampled.
            sink = (
                stack.enter_context(write(how.output, "evals", record, chain=chain, **origin)) if how.output else None
            )
            kept = (
                stack.enter_context(write(place, "scored", again(record), chain=chain, **origin))
                if place and have < n
                else None
            )
            rows = old.rows if old else None
            if have < n:
                more = collect(policy, how.task, n, first=have, unfinished=unfinished, computing=how.computing)
                rows = together(rows, more)
            assert rows is not None
            if kept is not None:
                kept.put(0, rows)
            evals = ev.evaluate([rows], how.task.source)
            if sink is not None:
                put_counts(sink, evals, how.ks)
        if unfinished is not None:
            unfinished.remove()
    return Evaluation(evals, how.task.source, origin["context"], chain, origin["inputs"], facts)


def _responses(how: Wanted, have: int) -> int:
    """How many responses to each problem there shall be."""
    if how.more is not None and not have:
        raise UsageError(
            "--add-samples: there are no responses of this policy to this task yet; leave it out, or name their file"
        )
    n = max(have, how.n if how.more is None else have + how.more)
    if (highest := max(how.ks or [1])) > n:
        raise UsageError(f"-k {highest}: pass@k needs k <= n, and --n is {n}; choose a smaller k or sample more")
    for name, flag in how.metrics:
        check_k(name, n, flag)
    return n


def _stored(entry: Entry, how: Wanted, policy: Policy, record: Record, announce: Announce) -> Evaluation:
    """An evaluation out of the history, as if it had been made anew."""
    announce(f"eval: policy version {policy.version} has been evaluated: {entry.path}")
    found = read_rows(str(entry.path))
    record |= {"policy": policy.digest, "evaluation": entry.facts}
    context, chain, inputs = found.header.context, found.header.chain, [found.origin()]
    if how.output:
        with write(how.output, "evals", record, context=context, chain=chain, inputs=inputs) as sink:
            put_counts(sink, found.rows, how.ks)
    return Evaluation(found.rows, how.task.source, context, chain, inputs, entry.facts, entry)
