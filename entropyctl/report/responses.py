"""Single responses with the numbers of their tokens: a few of all, and those that tell most."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.report.sampling import Fair, Largest
from entropyctl.report.view import View
from entropyctl.show.text import visible
from entropyctl.show.tokenizer import Decode, token_pieces
from entropyctl.table.columns import codes, flat_values

Array = npt.NDArray[Any]

# Of the responses on the page, one in five is there because it is an extreme of its kind.
TELLING = 5
EXTREMES = {
    "highest entropy": "largest mean entropy",
    "lowest entropy": "smallest mean entropy",
    "longest": "most tokens",
    "moves the entropy": "largest predicted change of the entropy, |sum of w A (S* − E[S])|",
    "mismatch": "largest difference between the log-probabilities of sampler and scorer",
    "masked": "most tokens left out by the mask",
}
# Tokens on the page, all responses together; of longer ones the rest is left out.
MOST_TOKENS = 300_000
MOST_OF_ONE = 8_192
# Characters of a text on the page: of a prompt, or a response without tokens, and of all others.
MOST_TEXT, MOST_OF_OTHERS = 20_000, 300
TEXTS = ("prompt", "response", "answer", "predicted", "data_source")
MOST_PIECE = 200


class Colour(NamedTuple):
    """Numbers that tokens can be coloured by."""

    name: str
    label: str
    about: str
    diverges: bool  # around 0


COLOURS = (
    Colour("entropies", "entropy H", "entropy of the distribution that the token was drawn from, nats", False),
    Colour("s_star", "S*", "S* = p (H + log p), nats: above 0, reinforcing the token alone lowers the entropy", True),
    Colour(
        "centred", "S* − E[S]", "its sign says what reinforcing the token on policy does: above 0 lowers H; nats", True
    ),
    Colour("advantages", "advantage", "A: above 0 the token is reinforced, below 0 discouraged", True),
    Colour("weight", "weight", "w: what the mask left of the token's gradient; 0 where it left none", False),
    Colour(
        "mismatch",
        "mismatch",
        "log p of the scorer less log p of the sampler, nats: 0 where the two engines agree",
        True,
    ),
    Colour("logprobs", "log p", "log-probability of the token, nats", False),
)


class Held(NamedTuple):
    """What is kept of a response while the others pass."""

    facts: dict[str, Any]
    length: int
    ids: Array
    marks: Array
    numbers: dict[str, Array]


class Responses:
    """The responses that are shown, chosen while all of them pass."""

    def __init__(self, most: int) -> None:
        """Begin.

        Args:
            most: how many are shown, at most.
        """
        each = most // TELLING // len(EXTREMES)
        self._fair = Fair(most - each * len(EXTREMES))
        self._extremes = {name: Largest(each) for name in EXTREMES}
        self.count = 0

    def add(self, view: View) -> None:
        """Let a step's responses take part."""
        self.count += view.rows.num_rows
        made: dict[int, Held] = {}
        starts_B = np.cumsum(view.lengths) - view.lengths
        numbers = _numbers(view)
        facts = _facts(view, numbers)

        def make(i: int) -> Held:
            if i not in made:
                made[i] = _held(view, numbers, facts, i, int(starts_B[i]))
            return made[i]

        outcome_B = codes(view.rows["outcome"]) if "outcome" in view.rows.column_names else np.zeros(len(starts_B), int)
        self._fair.add(view.number, outcome_B, make)
        for name, extreme in self._extremes.items():
            extreme.add(facts[name], make)

    def payload(self, decode: Decode | None) -> dict[str, Any] | None:
        """What the page's script reads; None without responses.

        Args:
            decode: text of a list of token ids; None where no tokenizer is at hand.
        """
        chosen: dict[tuple[Any, ...], tuple[Held, list[str]]] = {}
        found = [("at random", held) for _, held in self._fair.kept]
        found += [(name, held) for name, extreme in self._extremes.items() for _, held in extreme.kept]
        for why, held in found:
            chosen.setdefault(held.facts["key"], (held, []))[1].append(why)
        if not chosen:
            return None
        rows = [chosen[key] for key in sorted(chosen)]
        longest = _longest([held.length for held, _ in rows])
        return _Packing(decode, longest).pack(rows, self.count)


def _numbers(view: View) -> dict[str, Array]:
    """`[N]` numbers by the name of their colour."""
    values = dict(view.values)
    if view.has("s_star", "expected_s"):
        values["centred"] = values["s_star"] - values["expected_s"]
    if view.has("logprobs", "rollout_logprobs"):
        values["mismatch"] = values["logprobs"] - values["rollout_logprobs"]
    if view.weight is not None:
        values["weight"] = np.where(view.own, view.weight, np.nan).astype(np.float32)
    return {colour.name: values[colour.name] for colour in COLOURS if colour.name in values}


def _facts(view: View, numbers: dict[str, Array]) -> dict[str, Array]:
    """`[B]` what responses are compared by; NaN where it is not known."""
    unknown_B = np.full(len(view.lengths), np.nan)
    entropy_B = view.means(numbers["entropies"]) if "entropies" in numbers else unknown_B
    masked_B = unknown_B if view.mark is None else view.means((view.mark == 1).astype(np.float64))
    change_B, mismatch_B = unknown_B, unknown_B
    if "centred" in numbers and "advantages" in numbers:
        weight_N = 1.0 if view.weight is None else view.weight
        change_N = np.nan_to_num(numbers["centred"] * numbers["advantages"]) * weight_N * view.own
        change_B = np.abs(np.bincount(view.row, change_N, len(view.lengths)))
    if "mismatch" in numbers:
        mismatch_B = _largest(np.abs(numbers["mismatch"]), view.lengths)
    return {
        "highest entropy": entropy_B,
        "lowest entropy": -entropy_B,
        "longest": view.lengths.astype(np.float64),
        "moves the entropy": np.where(change_B > 0, change_B, np.nan),
        "mismatch": np.where(mismatch_B > 0, mismatch_B, np.nan),
        "masked": np.where(masked_B > 0, masked_B, np.nan),
    }


def _largest(values_N: Array, lengths_B: Array) -> Array:
    """`[B]` the largest value of each row, 0 for a row without values; NaN is passed over."""
    found_B = np.zeros(len(lengths_B))
    some_B = lengths_B > 0
    if some_B.any():
        found_B[some_B] = np.fmax.reduceat(values_N, (np.cumsum(lengths_B) - lengths_B)[some_B])
    return np.nan_to_num(found_B)


def _held(view: View, numbers: dict[str, Array], facts: dict[str, Array], i: int, start: int) -> Held:
    row = view.rows.slice(i, 1)
    own = {name: row[name][0].as_py() for name in row.column_names if name not in (*numbers, "tokens", "loss_mask")}
    length = int(view.lengths[i])
    part = slice(start, start + min(length, MOST_OF_ONE))
    ids = flat_values(row["tokens"])[:MOST_OF_ONE] if "tokens" in row.column_names else np.empty(0, np.int32)
    marks = np.zeros(part.stop - part.start, np.uint8) if view.mark is None else view.mark[part].astype(np.uint8)
    return Held(
        facts={
            "key": (
                int(own.get("step") or 0),
                _text("prompt_id", own.get("prompt_id") or ""),
                int(own.get("sample") or i),
            ),
            "texts": {name: _text(name, own[name]) for name in TEXTS if own.get(name) is not None},
            "outcome": None if own.get("outcome") is None else _text("outcome", own["outcome"]),
            "finish": None if own.get("finish_reason") is None else _text("finish_reason", own["finish_reason"]),
            "version": own.get("policy_version"),
            "reward": own.get("reward"),
            "entropy": float(facts["highest entropy"][i]),
            "masked": 0.0 if view.mark is None else float(np.nan_to_num(facts["masked"][i])),
        },
        length=length,
        ids=ids.copy(),
        marks=np.where(view.own[part], marks, 3).astype(np.uint8),  # 3: not the policy's own token
        numbers={name: values[part].copy() for name, values in numbers.items()},
    )


def _longest(lengths: Sequence[int]) -> int:
    """The most tokens of one response, so that all together are at most MOST_TOKENS."""
    sorted_L = np.sort(np.minimum(lengths, MOST_OF_ONE))
    left, room = len(sorted_L), MOST_TOKENS
    for length in sorted_L.tolist():
        if length * left > room:
            return room // left
        left, room = left - 1, room - length
    return MOST_OF_ONE


class _Packing:
    """Responses as JSON: texts once each, numbers as base64 of little-endian integers."""

    def __init__(self, decode: Decode | None, longest: int) -> None:
        self._decode, self._longest = decode, longest
        self._pieces: dict[tuple[str, int], int] = {}
        self._prompts: dict[str, int] = {}
        self._scales: dict[str, tuple[float, float]] = {}

    def pack(self, rows: list[tuple[Held, list[str]]], count: int) -> dict[str, Any]:
        """All of it."""
        colours = []
        for colour in COLOURS:
            parts = [held.numbers[colour.name][: self._longest] for held, _ in rows if colour.name in held.numbers]
            values = np.concatenate(parts) if parts else np.empty(0)
            known = values[~np.isnan(values)]
            if len(known):
                self._scales[colour.name] = (float(known.min()), float(known.max()))
                colours.append({**colour._asdict(), "scale": self._scales[colour.name], "ends": _ends(known, colour)})
        packed = [self._row(held, why) for held, why in rows]
        return {
            "of": count,
            "longest": self._longest,
            "colours": colours,
            "extremes": EXTREMES,
            "pieces": [[text, token] for text, token in self._pieces],
            "has_text": self._decode is not None,
            "prompts": list(self._prompts),
            "rows": packed,
        }

    def _row(self, held: Held, why: list[str]) -> dict[str, Any]:
        facts, shown = held.facts, min(held.length, self._longest)
        texts = facts["texts"]
        row = {
            **{name: facts[name] for name in ("key", "outcome", "finish", "version")},
            "reward": None if facts["reward"] is None else float(f"{facts['reward']:.6g}"),
            "entropy": None if np.isnan(facts["entropy"]) else float(f"{facts['entropy']:.6g}"),
            "masked": float(f"{facts['masked']:.4g}"),
            "length": held.length,
            "shown": shown,
            "why": why,
            "prompt": self._prompts.setdefault(texts["prompt"], len(self._prompts)) if "prompt" in texts else None,
            "answer": texts.get("answer"),
            "predicted": texts.get("predicted"),
            "source": texts.get("data_source"),
        }
        row["pieces"] = _base64(np.array(self._indices(held.ids[:shown]), "<u4"))
        row["marks"] = _base64(held.marks[:shown])
        row["numbers"] = {
            name: _base64(_quantised(held.numbers[name][:shown], *scale))
            for name, scale in self._scales.items()
            if name in held.numbers
        }
        if self._decode is None or not len(held.ids):
            row["response"] = texts.get("response")
        return row

    def _indices(self, ids: Array) -> list[int]:
        tokens = ids.tolist()
        pieces = token_pieces(self._decode, tokens) if self._decode else [""] * len(tokens)
        cut = [piece if len(piece) <= MOST_PIECE else piece[:MOST_PIECE] + "…" for piece in pieces]
        keys = zip((visible(piece, keep="\n") for piece in cut), tokens, strict=True)
        return [self._pieces.setdefault(key, len(self._pieces)) for key in keys]


def _text(name: str, value: Any) -> str:
    """What a column holds as harmless text of bounded length."""
    if isinstance(value, list):  # a conversation
        value = "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in value if isinstance(turn, dict))
    text, most = str(value), MOST_TEXT if name in ("prompt", "response") else MOST_OF_OTHERS
    left = len(text) - most
    return visible(text[:most], keep="\n") + (f"\n… {left:,} more characters" if left > 0 else "")


def _ends(known: Array, colour: Colour) -> tuple[float, float]:
    """Between which values the colours run: 98 of 100 tokens lie inside."""
    low, high = (float(end) for end in np.quantile(known, (0.01, 0.99)))
    if colour.diverges:
        most = max(abs(low), abs(high)) or float(np.abs(known).max()) or 1.0
        return -most, most
    return (low, high) if high > low else (low, low + 1.0)


def _quantised(values: Array, low: float, high: float) -> Array:
    """65 535 equal steps from the smallest to the largest value of the page; the last number is "not known"."""
    width = high - low or 1.0
    places = np.rint((values.astype(np.float64) - low) / width * 65_534)
    return np.where(np.isnan(places), 65_535, places).astype("<u2")


def _base64(values: Array) -> str:
    return base64.b64encode(values.tobytes()).decode()
