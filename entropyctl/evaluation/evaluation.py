"""An evaluation: the counts of a policy's responses by problem, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from entropyctl.evaluation.history import Entry
from entropyctl.laws import evaluate as ev
from entropyctl.laws.summary import summarise
from entropyctl.table import Sink, read, write
from entropyctl.table.header import Context, Record
from entropyctl.table.rows import read_rows
from entropyctl.table.source import open_argument

Announce = Callable[[str], None]
Ks = Sequence[int] | None


class Evaluation(NamedTuple):
    """Counts by problem, with what a file of them says of its origin."""

    evals: pa.Table
    path: str  # for messages
    context: Context
    chain: list[Record]  # of what it was made from
    inputs: list[dict[str, Any]]
    facts: dict[str, Any]  # by which a history knows it again: series, key, n, policy_version
    entry: Entry | None = None  # where it stands in the history already


def of_files(
    paths: Sequence[str], output: str | None, record: Record, ks: Ks, allow: tuple[str, ...], announce: Announce
) -> Evaluation:
    """The evaluation of scored responses, or one that `eval -o` wrote.

    Args:
        paths: scored tables, laid over one another by key; or one table of evaluations.
        output: file of the counts, or None.
        record: of this run.
        ks: the k that will be reported.
        allow: fields on which the inputs may disagree.
        announce: told what was left out.

    Raises:
        InputError: an input is missing or damaged, lacks a column, or holds no rows.
        MismatchError: the inputs do not belong together.
        UsageError: a k is above n.
    """
    if len(paths) == 1 and paths[0] != "-" and _is_evals(paths[0]):
        found = read_rows(paths[0], allow)
        header, inputs, evals = found.header, [found.origin()], ev.as_last_evaluated(found.rows)
        if earlier := found.rows.num_rows - evals.num_rows:
            announce(f"{found.path}: left out {earlier} earlier counts of problems that were evaluated again")
        if output:
            with write(output, "evals", record, context=header.context, chain=header.chain, inputs=inputs) as sink:
                put_counts(sink, evals, ks)
        facts = _facts(evals, header.context, inputs)
        return Evaluation(evals, found.path, header.context, header.chain, inputs, facts)
    with read(paths, columns=ev.COLUMNS, needs=ev.NEEDS, allow_mismatch=allow) as source, ExitStack() as stack:
        counted = stack.enter_context(write(output, "evals", record, source)) if output else None
        evals = ev.evaluate((step.rows for step in source), source.path, announce)
        if counted is not None:
            put_counts(counted, evals, ks)
        inputs = source.origins(sum(evals["n"].to_pylist()))
    facts = _facts(evals, source.context, inputs)
    return Evaluation(evals, source.path, source.context, source.chain, inputs, facts)


def _is_evals(path: str) -> bool:
    entry = open_argument(path)
    try:
        return entry.header.table == "evals"
    finally:
        entry.reader.close()


def _facts(evals: pa.Table, context: Context, inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts by which an evaluation of files is known again.

    One task is here the same problems, sampled in the same way; the key is of the files' contents.
    """
    asked = json.dumps([sorted(set(evals["prompt_id"].to_pylist())), context.get("sampling")], sort_keys=True)
    made = json.dumps([asked, context.get("policies"), [entry.get("digest") or entry["records"] for entry in inputs]])
    return {
        "series": xxhash.xxh3_64_hexdigest(asked.encode()),
        "key": xxhash.xxh3_64_hexdigest(made.encode()),
        "n": min(evals["n"].to_pylist()),
        "policy_version": max(evals["policy_version"].to_pylist()),
    }


def put_counts(sink: Sink, evals: pa.Table, ks: Ks) -> None:
    """Write the counts, with their numbers in the record."""
    sink.put(0, evals, rows_read=sum(evals["n"].to_pylist()))
    sink.summarise(**summarise(evals, ks))
