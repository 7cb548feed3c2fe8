"""Two masks over the same rows: which tokens they treat differently, and what it does to the forecast.

`N` tokens of a step that the policy chose, before any mask (`base_mask`). A token is kept where it is counted and has
a weight other than 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.compare.pairs import Pair, paired
from entropyctl.contributions import READS, Largest, facts_of
from entropyctl.dynamics.forecast import QUADRANTS, quadrants
from entropyctl.errors import InputError, MismatchError
from entropyctl.forecast import AS_IS, Array, Forecast, Tokens, columns_for, tokens_of, weighted
from entropyctl.inputs import base_mask
from entropyctl.masks._apply import COLUMNS as LAID
from entropyctl.masks._laid import Laid, laid_on
from entropyctl.table.columns import list_column, row_lengths, with_column
from entropyctl.table.conform import check_values

# What must be the same on both sides for their forecasts to differ by the masks alone.
SAME = ("advantages", "s_star", "expected_s", "logprobs", "old_logprobs")
COUNTS = ("tokens", "both", "neither", "only_a", "only_b", "other_weight", "other_penalty")
NO_MASK, DIFFERENCE = "no mask", "B - A"


def compare_masks(base: Sequence[str], a: str, b: str, top: int, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    """Two masks side by side.

    Args:
        base: tables that both are laid over, for files that hold the masks' columns alone.
        a: a table with the one mask.
        b: a table of the same rows with the other.
        top: most tokens that are named.
        allow: fields of the context on which inputs may disagree.

    Returns:
        a, b: path, and the stage that made it.
        tokens: for all, by sign of A, by quadrant of A and S* - E[S]: how many `tokens`, kept by `both`, `neither`,
        `only_a` and `only_b`; of those that both keep, how many have an `other_weight`; of those that both count, how
        many an `other_penalty`.
        forecast: what `forecast --lr 1` says under no mask, A, B, and the difference.
        top: the tokens whose predicted changes differ most, with their `difference`.
        lacking: the column without which nothing is said of A, S* and the forecast; null where none is missing.

    Raises:
        MismatchError: the tables do not belong together.
    """
    needed, wanted = columns_for({})
    with paired(base, a, b, [*wanted, *READS, *LAID], allow) as pair:
        for source in pair:
            if "loss_mask" not in source.columns:
                remedy = "name the table that the mask was made from with --base"
                raise InputError(f"{source.path}: has no column 'loss_mask'; {remedy}")
        lacking = next((name for name in needed if name not in pair.a.columns or name not in pair.b.columns), None)
        found = Comparison(top, with_forecast=lacking is None)
        for number, rows, other in pair.steps():
            check_values(rows, needed if lacking is None else ["loss_mask"], pair.a.path)
            _check_same(pair, number, rows, other)
            found.add(number, rows, other)
        return {
            "kind": "masks",
            "a": {"path": a, "made_by": _made_by(pair.a.inputs[-1].header.chain)},
            "b": {"path": b, "made_by": _made_by(pair.b.inputs[-1].header.chain)},
            **found.as_dict(),
            "lacking": lacking,
        }


class Comparison:
    """Running totals over steps; add them, then ask for `as_dict`."""

    def __init__(self, top: int, with_forecast: bool) -> None:
        """Begin.

        Args:
            top: most tokens that are named.
            with_forecast: the rows have all that a forecast needs.
        """
        self._counts: dict[str, dict[str, int]] = {}
        self._forecast = Forecast(1.0, {}) if with_forecast else None
        self._largest = Largest(top)

    def add(self, number: int, rows: pa.Table, other: pa.Table) -> None:
        """Compare a step.

        Args:
            number: of the step.
            rows: with the one mask.
            other: the same rows, in the same order, with the other.
        """
        a, b = laid_on(rows), laid_on(other)
        chosen_N = base_mask(rows) | base_mask(other)
        if self._forecast is None:
            self._count({"all": chosen_N}, a, b)
            return
        bare = rows.drop_columns([name for name in ("weights", "kl_coefs", "base_mask") if name in rows.column_names])
        lengths_B = row_lengths(rows["loss_mask"])
        bare = with_column(bare, "loss_mask", list_column(chosen_N, lengths_B, pa.bool_()))
        tokens = tokens_of(bare, self._forecast.eta)
        self._count({"all": chosen_N, **_parts(tokens, chosen_N)}, a, b)
        self._forecast.add(number, bare, {"A": a, "B": b})
        self._note(rows, tokens, a, b)

    def _count(self, parts: dict[str, Array], a: Laid, b: Laid) -> None:
        kept_a, kept_b = a.pulling(), b.pulling()
        weight = kept_a & kept_b & (_numbers(a.weights, 1.0) != _numbers(b.weights, 1.0))
        penalty = (a.loss_mask & b.loss_mask) & (_numbers(a.kl_coefs, 0.0) != _numbers(b.kl_coefs, 0.0))
        flags = (True, kept_a & kept_b, ~kept_a & ~kept_b, kept_a & ~kept_b, kept_b & ~kept_a, weight, penalty)
        for name, part_N in parts.items():
            sums = self._counts.setdefault(name, dict.fromkeys(COUNTS, 0))
            for count, flag_N in zip(COUNTS, flags, strict=True):
                sums[count] += int(np.count_nonzero(part_N & flag_N))

    def _note(self, rows: pa.Table, tokens: Tokens, a: Laid, b: Laid) -> None:
        """Hold the tokens whose changes differ most."""
        change_a, change_b = weighted(tokens.change, a), weighted(tokens.change, b)
        facts = facts_of(rows, tokens) | {"weight_a": _effective(a), "weight_b": _effective(b)}
        facts |= {"change_a": change_a, "change_b": change_b, "difference": change_b - change_a}
        self._largest.add(rows, change_b - change_a, facts)

    def as_dict(self) -> dict[str, Any]:
        """The counts, the forecast and the tokens; `compare_masks` names them."""
        found = None if self._forecast is None else _with_difference(self._forecast.as_dict())
        return {"tokens": self._counts, "forecast": found, "top": [one.as_dict() for one in self._largest.places]}


def _numbers(values_N: Array | None, missing: float) -> Array | float:
    return missing if values_N is None else values_N


def _effective(laid: Laid) -> Array:
    """What a token's gradient is multiplied by: its weight, 0 where it is not counted."""
    return np.where(laid.loss_mask, _numbers(laid.weights, 1.0), 0.0)


def _parts(tokens: Tokens, chosen_N: Array) -> dict[str, Array]:
    """The tokens by sign of A, and by quadrant of A and S* - E[S]."""
    A = tokens.advantages
    sides = {"positive": A > 0, "negative": A < 0, "no_advantage": A == 0}
    parts = sides | dict(zip(QUADRANTS, quadrants(A, tokens.centred), strict=True))
    return {name: part_N & chosen_N for name, part_N in parts.items()}


def _with_difference(found: dict[str, Any]) -> dict[str, Any]:
    """The forecast under no mask, A, B, and how far B is from A."""

    def block(facts: dict[str, Any]) -> dict[str, Any]:
        bare, a, b = (facts["under"][name] for name in (AS_IS, "A", "B"))
        return {**facts, "under": {NO_MASK: bare, "A": a, "B": b, DIFFERENCE: _less(b, a)}}

    return {"steps": [block(step) for step in found["steps"]], "all": block(found["all"])}


def _less(one: Any, other: Any) -> Any:
    """One thing less another, field by field; None where one of them is."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _less(one[name], other[name]) for name in one}
    return None if one is None or other is None else one - other


def _check_same(pair: Pair, number: int, rows: pa.Table, other: pa.Table) -> None:
    """Stop where advantages or statistics are not the same on both sides."""
    for name in SAME:
        if name in rows.column_names and name in other.column_names and not rows[name].equals(other[name]):
            raise MismatchError(
                f"{pair.b.path}: '{name}' of step {number} is not that of {pair.a.path}; compare masks of the same "
                "rows, for example by files of --only-new over one --base"
            )


def _made_by(chain: list[dict[str, Any]]) -> str | None:
    """The command's stage and the parameters that it was given."""
    if not chain or chain[-1]["stage"] == "unknown":
        return None
    params = chain[-1].get("params")
    words = (
        [f"{name}={value}" for name, value in params.items() if value is not None] if isinstance(params, dict) else []
    )
    return " ".join([str(chain[-1]["stage"]), *words])
