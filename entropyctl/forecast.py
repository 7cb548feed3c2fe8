"""The forecast of a table: what a step would do to the entropy, as its rows are and under other masks.

    forecast = Forecast(eta=1e-6, masks=parse_masks("--masks", "clip-v:mu=8.5,top-entropy"))
    for step in source:
        forecast.add(step.number, step.rows)
    forecast.as_dict()

A step leaves a few numbers behind, so memory is that of one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl import registry
from entropyctl.dynamics import centred_score, predicted_change
from entropyctl.dynamics.forecast import DIFFICULTIES, QUADRANTS, Comoments, Parts, comoments, difficulty, parts
from entropyctl.errors import UsageError
from entropyctl.inputs import correct, greedy, group, inputs, needs, optional
from entropyctl.mask_specs import MaskSpec
from entropyctl.masks import compile_mask, lay_over
from entropyctl.masks._apply import COLUMNS as LAID
from entropyctl.masks._laid import Laid, laid_on, lay
from entropyctl.memory import Memory
from entropyctl.metrics import PastMetrics
from entropyctl.table.columns import list_column, row_lengths, with_column

Array = npt.NDArray[Any]
Masks = Mapping[str, tuple[MaskSpec, ...]]

# What the rows are without another mask.
AS_IS = "as is"
# Only the greedy baseline and the grades may be missing: without grades nothing is said of difficulties.
READS = ("advantages", "s_star", "expected_s", "logprobs", "old_logprobs", "loss_mask")
OPTIONAL = ("outcome", "greedy", *LAID)
NEW = ("predicted_changes",)


class Under(NamedTuple):
    """A step under a mask: the change by its parts, and how many tokens have a weight, or a penalty."""

    parts: Parts
    pulling: int
    penalised: int


class Of(NamedTuple):
    """The tokens of a step, or those of one difficulty: sums."""

    prompts: int
    responses: int
    tokens: int
    with_advantage: int
    comoments: Comoments


class Block(NamedTuple):
    """A step, or several: sums."""

    whole: Of
    by_difficulty: tuple[Of, ...]
    under: dict[str, Under]


class Tokens(NamedTuple):
    """What the forecast needs of the `N` tokens of a step; float64, nats."""

    advantages: Array
    centred: Array
    logprobs: Array
    change: Array  # dH at weight 1
    row: Array
    laid: Laid


class Forecast:
    """Running totals over steps; add them, then ask for `as_dict`."""

    def __init__(self, eta: float, masks: Masks, history: PastMetrics | None = None) -> None:
        """Begin.

        Args:
            eta: step size on the logits.
            masks: masks by the text that names them, to lay on the rows as they are, each by itself.
            history: metrics of earlier steps, for masks that read them; each step sees those before it, as in `mask`.
        """
        self.eta = eta
        self._masks = {AS_IS: (), **masks}
        self._history = history or PastMetrics(None)
        self._functions = {spec.name: registry.load_function("masks", spec.name) for spec in _specs(masks)}
        self._memories = {
            name: [Memory(None, f"mask {spec.name}", spec.params) for spec in specs]
            for name, specs in self._masks.items()
        }
        self._steps: dict[int, Block] = {}
        self._graded = True

    def add(self, number: int, rows: pa.Table, laid: Mapping[str, Laid] | None = None) -> pa.Table:
        """Forecast a step.

        Args:
            number: of the step.
            rows: its rows, with the columns of `columns_for`.
            laid: what further masks lay on its tokens, by their names; the same ones in every step.

        Returns:
            The rows with `predicted_changes`, of the rows as they are; 0 where a token is not counted.
        """
        tokens = tokens_of(rows, self.eta)
        self._graded &= "outcome" in rows.column_names
        level_B = _difficulty(rows)
        counted = np.flatnonzero(tokens.laid.loss_mask)
        under = {}
        own = {name: self._laid(name, number, rows) for name in self._masks}
        for name, one in {**own, **(laid or {})}.items():
            change_N = weighted(tokens.change, one)
            found = parts(
                change_N[counted],
                tokens.advantages[counted],
                tokens.centred[counted],
                level_B[tokens.row[counted]],
            )
            penalised = 0 if one.kl_coefs is None else np.count_nonzero(one.kl_coefs[one.loss_mask])
            under[name] = Under(found, int(np.count_nonzero(one.pulling())), int(penalised))
        whole, by_difficulty = _populations(rows, tokens, level_B)
        self._steps[number] = Block(whole, by_difficulty, under)
        values_N = weighted(tokens.change, tokens.laid)
        return with_column(rows, *NEW, list_column(values_N, row_lengths(rows["loss_mask"]), pa.float32()))

    def _laid(self, name: str, number: int, rows: pa.Table) -> Laid:
        """What lies on the tokens under a mask, or under several as a pipe of them would lay it."""
        laid = laid_on(rows)
        specs = self._masks[name]
        history = self._history.before(number) if specs else {}
        for index, (spec, memory) in enumerate(zip(specs, self._memories[name], strict=True)):
            given = {"history": history, "state": memory.before(number)}
            params = spec.params
            if self._history.path is None and params.get("eta", 0) is None:
                params = {**params, "eta": self.eta}  # what a mask solves for is what is forecast
            try:
                compiled = compile_mask(rows, self._functions[spec.name], params, given)
            except UsageError as error:
                raise UsageError(f"--masks {name}: {error}") from None
            memory.remember(number, compiled.state)
            laid = lay(laid, compiled)
            if index + 1 < len(specs):
                rows = lay_over(rows, compiled)
        return laid

    def as_dict(self) -> dict[str, Any]:
        """Each step, and all of them: means per counted token, counts and covariances; the stage's help names them."""
        steps = [{"step": number, **_described(block, self._graded)} for number, block in self._steps.items()]
        return {"steps": steps, "all": _described(_total(list(self._steps.values()), list(self._masks)), self._graded)}


def predicted_changes(rows: pa.Table, eta: float = 1.0) -> Array:
    """`[N]` the predicted change of each token's entropy, as the rows are; 0 where a token is not counted.

    Args:
        rows: rows with the columns of `columns_for`, none of which is null where it is needed.
        eta: step size on the logits.
    """
    tokens = tokens_of(rows, eta)
    return weighted(tokens.change, tokens.laid)


def columns_for(masks: Masks) -> tuple[list[str], list[str]]:
    """Columns that a forecast needs, and all that it reads where they are there."""
    reads = list(dict.fromkeys([*READS, *(name for spec in _specs(masks) for name in spec.reads)]))
    needed = needs(reads)
    return needed, [*needed, *optional(reads), *OPTIONAL]


def _specs(masks: Masks) -> list[MaskSpec]:
    return [spec for specs in masks.values() for spec in specs]


def tokens_of(rows: pa.Table, eta: float) -> Tokens:
    """What a forecast needs of the tokens of a step.

    Args:
        rows: rows with the columns of `columns_for`, none of which is null where it is needed.
        eta: step size on the logits.
    """
    A, S, ES, logp, old_logp = (np.asarray(part_N, np.float64) for part_N in inputs(rows, READS[:5]))
    ratios_N = np.exp((logp - old_logp).clip(-20, 20))
    change_N = predicted_change(A, S, ES, ratios_N=ratios_N, eta=eta)
    (row_N,) = inputs(rows, ["row_of_token"])
    return Tokens(A, centred_score(S, ES), logp, change_N, row_N, laid_on(rows))


def weighted(change_N: Array, laid: Laid) -> Array:
    """w dH of the tokens that are counted, 0 for the others."""
    return np.where(laid.loss_mask, change_N if laid.weights is None else change_N * laid.weights, 0.0)


def _difficulty(rows: pa.Table) -> Array:
    """`[B]` difficulty of each row's problem; a greedy baseline row, which is no sample, is of its problem's."""
    level_B = np.full(rows.num_rows, -1)
    if "outcome" not in rows.column_names:
        return level_B
    sample_B, group_B = ~greedy(rows), group(rows)
    level_B[sample_B] = difficulty(correct(rows)[sample_B], group_B[sample_B])
    level_G = np.full(int(group_B.max(initial=-1)) + 1, -1)
    level_G[group_B[sample_B]] = level_B[sample_B]
    return level_G[group_B]


def _populations(rows: pa.Table, tokens: Tokens, level_B: Array) -> tuple[Of, tuple[Of, ...]]:
    """The counted tokens of the step, and those of each difficulty."""
    group_B, sampled_B = group(rows), ~greedy(rows)

    def of(row_B: Array) -> Of:
        chosen_N = tokens.laid.loss_mask & row_B[tokens.row]
        A = tokens.advantages[chosen_N]
        return Of(
            len(np.unique(group_B[row_B])),
            int(np.count_nonzero(row_B & sampled_B)),
            len(A),
            int(np.count_nonzero(A)),
            comoments(A, tokens.centred[chosen_N], tokens.logprobs[chosen_N]),
        )

    return of(np.ones(len(level_B), bool)), tuple(of(level_B == level) for level in range(len(DIFFICULTIES)))


def _sum(items: list[Any], empty: Any) -> Any:
    """Named tuples of numbers and of named tuples, added field by field."""
    for item in items:
        pairs = zip(empty, item, strict=True)
        empty = type(item)(*(_sum([b], a) if isinstance(b, tuple) else a + b for a, b in pairs))
    return empty


def _total(blocks: list[Block], masks: list[str]) -> Block:
    masks = list(dict.fromkeys([*masks, *(name for block in blocks for name in block.under)]))
    none = Of(0, 0, 0, 0, Comoments(0.0, 0.0))
    no_parts = Parts(0.0, np.zeros(2), np.zeros(len(QUADRANTS)), np.zeros(len(DIFFICULTIES)), 0.0, 0, 0.0, 0.0)
    return Block(
        _sum([block.whole for block in blocks], none),
        tuple(_sum([block.by_difficulty[i] for block in blocks], none) for i in range(len(DIFFICULTIES))),
        {name: _sum([block.under[name] for block in blocks], Under(no_parts, 0, 0)) for name in masks},
    )


def _described(block: Block, graded: bool) -> dict[str, Any]:
    by_difficulty = {name: _population(of) for name, of in zip(DIFFICULTIES, block.by_difficulty, strict=True)}
    return {
        **_population(block.whole),
        "difficulty": by_difficulty if graded else None,
        "under": {name: _means(under, block.whole.tokens, graded) for name, under in block.under.items()},
    }


def _population(of: Of) -> dict[str, Any]:
    covariances = [value / of.tokens if of.tokens else None for value in of.comoments]
    counts = {"prompts": of.prompts, "responses": of.responses, "tokens": of.tokens}
    return {
        **counts,
        "tokens_with_advantage": of.with_advantage,
        "cov_A_centred_S": covariances[0],
        "cov_A_logp": covariances[1],
    }


def _means(under: Under, tokens: int, graded: bool) -> dict[str, Any]:
    sums, count = under.parts, max(tokens, 1)

    def named(names: tuple[str, ...], sums_P: Array) -> dict[str, float]:
        return dict(zip(names, (sums_P / count).tolist(), strict=True))

    return {
        "total": sums.total / count,
        "by_sign": named(("positive", "negative"), sums.by_sign),
        "by_difficulty": named(DIFFICULTIES, sums.by_difficulty) if graded else None,
        "by_quadrant": named(QUADRANTS, sums.by_quadrant),
        "largest": {
            "tokens": sums.largest_tokens,
            "change": sums.largest / count,
            "share": sums.largest_absolute / sums.absolute if sums.absolute else None,
        },
        "pulling": under.pulling,
        "penalised": under.penalised,
    }
