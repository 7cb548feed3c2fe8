"""The tokens that carry most of a predicted change of entropy, each with the tokens around it.

`N` tokens of a step. Only the largest are held, so memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.forecast import Array, Tokens, columns_for, tokens_of, weighted
from entropyctl.query import Query, reading, select
from entropyctl.table.columns import flat_values, row_lengths
from entropyctl.table.schema import KEY

# Tokens that are kept for context.
BEFORE, AFTER = 24, 12
READS = ("tokens", "entropies")


class Place(NamedTuple):
    """A token, what is known of it, and what stands around it."""

    step: int
    prompt_id: str
    sample: int
    position: int  # in the response, from 0
    facts: dict[str, float | None]
    before: list[int]  # token ids; empty where the table has no tokens
    token: int | None
    after: list[int]

    def as_dict(self) -> dict[str, Any]:
        """Its fields, facts among them."""
        fields = self._asdict()
        return {**{name: fields[name] for name in (*KEY, "position", "token")}, **self.facts} | {
            name: fields[name] for name in ("before", "after")
        }


class Largest:
    """The tokens with the largest magnitude of something, over any number of steps; of equal ones the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: list[tuple[float, Place]] = []

    @property
    def places(self) -> list[Place]:
        """The tokens, largest first."""
        return [place for _, place in self._found]

    def add(self, rows: pa.Table, values_N: Array, facts: Mapping[str, Array]) -> None:
        """Look at a step.

        Args:
            rows: its rows, with the key, `loss_mask`, and `tokens` where the table has them.
            values_N: what is compared; 0 is never among the largest.
            facts: what is to be known of a token, `[N]` each; NaN is not known.
        """
        size_N = np.abs(values_N)
        least = self._found[-1][0] if len(self._found) == self._count else 0.0
        places = _largest(size_N, self._count, least)
        ends_B = np.cumsum(row_lengths(rows["loss_mask"]))
        new = [
            (float(size_N[at]), _place(rows, ends_B, int(at), {name: v[at] for name, v in facts.items()}))
            for at in places
        ]
        # Sorting is stable: what came first stays in front of what is as large.
        self._found = sorted([*self._found, *new], key=lambda pair: -pair[0])[: self._count]


def _largest(size_N: Array, count: int, least: float) -> Array:
    """Where the `count` largest values above `least` stand, the first of equal ones, in ascending order."""
    above = np.flatnonzero(size_N > least)
    if len(above) > count:
        bound = np.partition(size_N[above], len(above) - count)[len(above) - count]
        larger, equal = above[size_N[above] > bound], above[size_N[above] == bound]
        above = np.sort(np.concatenate([larger, equal[: count - len(larger)]]))
    return above


def _place(rows: pa.Table, ends_B: Array, at: int, facts: dict[str, Any]) -> Place:
    row = int(np.searchsorted(ends_B, at, side="right"))
    here = rows.slice(row, 1)
    position = at - (int(ends_B[row - 1]) if row else 0)
    ids: list[int] = (here["tokens"][0].as_py() if "tokens" in rows.column_names else None) or []
    step, prompt_id, sample = (here[name][0].as_py() for name in KEY)
    return Place(
        step,
        prompt_id,
        sample,
        position,
        {name: None if np.isnan(value) else float(value) for name, value in facts.items()},
        ids[max(position - BEFORE, 0) : position],
        ids[position] if ids else None,
        ids[position + 1 : position + 1 + AFTER],
    )


def facts_of(rows: pa.Table, tokens: Tokens) -> dict[str, Array]:
    """What is known of each token of a step, `[N]` each; NaN where it is not."""
    nothing_N = np.broadcast_to(np.nan, len(tokens.change))
    computed = "entropies" in rows.column_names and rows["entropies"].null_count == 0
    return {
        "probability": np.exp(tokens.logprobs),
        "entropy": flat_values(rows["entropies"]) if computed else nothing_N,
        "advantage": tokens.advantages,
        "centred_s": tokens.centred,
    }


def top_tokens(paths: Sequence[str], where: Query | None, count: int) -> dict[str, Any]:
    """The tokens that carry most of the predicted change of entropy at eta = 1.

    dH_t = -w_t r_t A_t (S*_t - E[S]_t), as `forecast` predicts it for the rows as they are.

    Args:
        paths: inputs, laid over one another by key.
        where: a condition of the tokens that are looked at; shares are of all tokens.
        count: most tokens that are returned.

    Returns:
        tokens (counted), total (mean dH of these, what `forecast --lr 1` calls so), absolute (mean |dH|), selected (the
        same of the selected tokens, as sums over all counted: tokens, total, absolute), and `top`.

    Raises:
        InputError: a column that the forecast needs is missing.
    """
    needed, wanted = columns_for({})
    found, sums = Largest(count), np.zeros((2, 3))
    with reading(paths, [where], [*wanted, *READS], needs=needed) as source:
        if where is not None:
            where.check(source.available, source.path, "truth")
        for step in source:
            tokens = tokens_of(step.rows, 1.0)
            change_N = weighted(tokens.change, tokens.laid)
            chosen_N = tokens.laid.loss_mask & select(where, step.rows, source.path).tokens
            for sum_3, part_N in zip(sums, (tokens.laid.loss_mask, chosen_N), strict=True):
                sum_3 += part_N.sum(), change_N[part_N].sum(), np.abs(change_N[part_N]).sum()
            weight_N = np.ones(1) if tokens.laid.weights is None else tokens.laid.weights
            facts = facts_of(step.rows, tokens) | {
                "weight": np.broadcast_to(weight_N, len(change_N)),
                "change": change_N,
            }
            found.add(step.rows, np.where(chosen_N, change_N, 0.0), facts)
        counted, _, absolute = sums[0].tolist()
        top = [place.as_dict() | {"share": _share(place.facts["change"], absolute)} for place in found.places]
        return {
            "path": source.path,
            "where": where and where.text,
            **_means(sums[0], counted),
            "selected": _means(sums[1], counted),
            "top": top,
        }


def _means(sum_3: Array, counted: float) -> dict[str, Any]:
    count, total, absolute = sum_3.tolist()
    each = max(counted, 1)
    return {"tokens": int(count), "total": total / each, "absolute": absolute / each}


def _share(change: float | None, absolute: float) -> float:
    return abs(change or 0.0) / absolute
