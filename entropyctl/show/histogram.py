"""Histograms of quantities over the rows or tokens of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entropyctl.errors import UsageError
from entropyctl.query import Query, Selection, reading, select
from entropyctl.query.value import Array, Kind, Level, Value, spread
from entropyctl.show.bins import Bins, Counts, binned, edges_for, shown_range

MOST_GROUPS = 6
Groups = dict[str, Counts]


def histograms(
    paths: Sequence[str], where: Query | None, quantities: Sequence[Query], by: Query | None
) -> list[dict[str, Any]]:
    """Count quantities in bins, in one pass.

    A quantity of tokens is counted once for each selected token, one of rows once for each selected row.

    Args:
        paths: inputs, laid over one another by key.
        where: the condition of what is counted; None counts all.
        quantities: what is counted.
        by: what counts are taken apart by, of at most six values; None takes nothing apart.

    Returns:
        For each quantity `of`, `per` (row or token), `edges`, and `groups`, which for each value of `by`, or for `all`,
        has count, null, min, max, `counts` (from an edge up to the next), below and above.

    Raises:
        InputError: a column is missing.
        UsageError: something is no number, or `by` has too many values, or is of tokens where a quantity is of rows.
    """
    found: list[Groups] = [{} for _ in quantities]
    with reading(paths, [where, by, *quantities], ()) as source:
        kinds = [quantity.check(source.available, source.path, "number", "truth") for quantity in quantities]
        if where is not None:
            where.check(source.available, source.path, "truth")
        if by is not None:
            _check_levels(by, by.check(source.available, source.path, "number", "truth", "text"), quantities, kinds)
        for step in source:
            chosen = select(where, step.rows, source.path)
            grouped = None if by is None else by.values(step.rows, source.path)
            for groups, quantity, kind in zip(found, quantities, kinds, strict=True):
                value = quantity.values(step.rows, source.path)
                _count(groups, value, kind.level, chosen, grouped)
                if by is not None and len(groups) > MOST_GROUPS:
                    raise UsageError(
                        f"--by {by.text}: has more than {MOST_GROUPS} values; compare it with something, "
                        "for example 'advantages > 0'"
                    )
    return [_facts(quantity, kind, groups) for quantity, kind, groups in zip(quantities, kinds, found, strict=True)]


def _check_levels(by: Query, kind: Kind, quantities: Sequence[Query], kinds: Sequence[Kind]) -> None:
    for quantity, of in zip(quantities, kinds, strict=True):
        if kind.level is Level.TOKEN and of.level is not Level.TOKEN:
            raise UsageError(f"--by {by.text}: is of tokens, and {quantity.text} of rows; take a quantity of rows")


def _count(groups: Groups, value: Value, level: Level, chosen: Selection, grouped: Value | None) -> None:
    """Count a step's values into their groups."""
    of_tokens = level is Level.TOKEN
    at = chosen.tokens if of_tokens else chosen.rows
    data, null = (np.broadcast_to(part, at.shape)[at] for part in (value.data, value.null))
    if grouped is None:
        groups.setdefault("all", Counts()).put(data, null)
        return
    labels, number_B = _codes(spread(grouped, chosen.lengths) if of_tokens else grouped, at.shape)
    number_B = number_B[at]
    for index in np.unique(number_B).tolist():
        here = number_B == index
        groups.setdefault(labels[index], Counts()).put(data[here], null[here])


def _codes(value: Value, shape: tuple[int, ...]) -> tuple[list[str], Array]:
    """The different values in words, and which of them each row or token has."""
    data = np.broadcast_to(value.data, shape)
    null = np.broadcast_to(value.null, shape)
    if value.kind.type == "text":
        data = np.array([word or "" for word in data], str)
    values, codes = np.unique(data, return_inverse=True)
    words = [str(one).lower() if value.kind.type == "truth" else str(one) for one in values.tolist()]
    return [*words, "null"], np.where(null, len(words), codes.reshape(shape))


def _facts(quantity: Query, kind: Kind, groups: Groups) -> dict[str, Any]:
    together = Counts()
    for counts in groups.values():
        together.add(counts)
    edges = edges_for(*shown_range(together)) if together.count else []
    per = "token" if kind.level is Level.TOKEN else "row"
    ordered = {name: _group(groups[name], edges) for name in sorted(groups)}
    return {"of": quantity.text, "per": per, "edges": edges, "groups": ordered}


def _group(counts: Counts, edges: list[float]) -> dict[str, Any]:
    bins = binned(counts, edges) if edges else Bins([], [], 0, 0)
    low, high = (counts.low, counts.high) if counts.count else (None, None)
    return {
        **{"count": counts.count, "null": counts.null, "min": low, "max": high},
        **{"counts": bins.counts, "below": bins.below, "above": bins.above},
    }
