"""The points that the tables of a run hold, and how their entropies were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from entropyctl.errors import UsageError
from entropyctl.laws.points import Points, from_columns, from_run, joined
from entropyctl.table.header import check_allowed, merge_contexts
from entropyctl.table.rows import Rows

Definition = dict[str, dict[str, Any]]
# Of whose responses the tables of a run hold the entropy.
RESPONSES = {"metrics": "training", "evals": "evaluated"}


def names_of(inputs: Sequence[Rows]) -> str:
    """The inputs' names, for messages."""
    return " + ".join("standard input" if entry.path == "-" else entry.path for entry in inputs)


def collect(inputs: Sequence[Rows], entropy: str | None, performance: str | None, metric: str | None) -> Points:
    """The points that the inputs hold.

    Args:
        inputs: metrics, evals, or tables of any kind together with the names of two columns.
        entropy: column of the entropies, or None.
        performance: column of the performances, or None.
        metric: what evals stand for, `pass@K`, or None for pass@1.

    Raises:
        UsageError: the names do not fit the inputs.
        InputError: the inputs hold no points.
    """
    if (entropy is None) != (performance is None):
        raise UsageError("--entropy and --performance name the two columns together; give both or neither")
    metrics = [entry for entry in inputs if entry.header.table == "metrics"]
    evals = [entry for entry in inputs if entry.header.table == "evals"]
    if metric is not None and (entropy is not None or not evals):
        raise UsageError("--metric chooses what evals stand for; it needs an evals table and no column names")
    if entropy is not None and performance is not None:
        return joined([from_columns(entry.rows, entropy, performance, entry.path) for entry in inputs])
    if odd := next((entry for entry in inputs if entry.header.table not in RESPONSES), None):
        what = f"is a table of {odd.header.table}" if odd.header.table else "is no table of entropyctl's"
        raise UsageError(
            f"{odd.path}: {what}; name two of its columns with --entropy and --performance "
            f"(it has {', '.join(odd.rows.column_names)})"
        )
    if not evals:
        return joined([from_columns(entry.rows, "entropy", "reward", entry.path) for entry in metrics])
    of_run = pa.concat_tables([entry.rows for entry in metrics], promote_options="permissive") if metrics else None
    evaluated = pa.concat_tables([entry.rows for entry in evals], promote_options="permissive")
    return from_run(of_run, evaluated, metric or "pass@1", names_of(inputs))


def definitions(inputs: Sequence[Rows], points: Points) -> list[tuple[str, Definition]]:
    """How the inputs measured the entropies of these points, as far as their metadata say.

    `sampling.temperature` stands in the context of every chain that sampled. `entropy.mean` is `token` in our own
    metrics and evals; another program's table may say `sequence` in its context, as in the paper: the mean over
    responses of each response's mean over tokens. `entropy.responses` is training or evaluated.
    """
    found: list[tuple[str, Definition]] = []
    for entry in inputs:
        if points.entropies_of in (None, entry.header.table):  # else its performance was taken, and no entropy
            found += definition(entry)
    return found


def definition(entry: Rows) -> list[tuple[str, Definition]]:
    """How an input measured its entropies, with its name."""
    kind, context = entry.header.table, entry.header.context
    sampling, stated = context.get("sampling"), context.get("entropy")
    temperature = sampling.get("temperature") if isinstance(sampling, dict) else None
    facts = {"mean": "token", "responses": RESPONSES[kind]} if kind in RESPONSES else {}
    facts |= stated if isinstance(stated, dict) else {}
    sampled: Definition = {"sampling": {} if temperature is None else {"temperature": temperature}}
    return [(entry.path, sampled), (entry.path, {"entropy": facts})]


def check_definitions(
    found: list[tuple[str, Definition]], allow: tuple[str, ...], inputs: Sequence[Rows]
) -> list[dict[str, Any]]:
    """Stop where entropies were measured in different ways; those that were allowed are returned, for the record.

    Raises:
        MismatchError: names the field and the two inputs.
        UsageError: a field that is to be allowed is one that no input has.
    """
    check_allowed(allow, [facts for _, facts in found] + [entry.header.context for entry in inputs])
    allowed: list[dict[str, Any]] = []
    merge_contexts(found, allow, "fit entropies that were measured in one way", allowed)
    return allowed
