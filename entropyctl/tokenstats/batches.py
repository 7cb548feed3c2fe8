"""Cutting sequences into forward passes of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from entropyctl.tokenstats.layout import Sequences, by_prompt


class Sharing(NamedTuple):
    """How sequences may share a forward pass of a model.

    Attributes:
        packs: they stand behind one another in a row, a prompt of several once; otherwise each has a padded row.
        alone_beyond: a sequence of more tokens changes what the model computes of others in its pass, so it has one of
            its own; None where none does.
    """

    packs: bool
    alone_beyond: int | None = None


class Shares(Protocol):
    """A model, here or elsewhere, of which it is known how sequences share a pass."""

    @property
    def sharing(self) -> Sharing: ...


def forward_batches(model: Shares, sequences: Sequences, budget: int | None) -> list[list[int]]:
    """Cut sequences into forward passes.

    Args:
        model: whose passes.
        sequences: responses are not empty.
        budget: most tokens in one pass, with what is padding; None makes one of all.

    Returns:
        Indices of the sequences of each pass, those with most tokens first (so that memory runs out at once or not at
        all). They depend on lengths, prompts and positions alone.
    """
    if budget is None:
        return [list(range(len(sequences)))] if sequences else []
    lengths = [len(prompt) + len(response) - 1 for prompt, response in sequences]
    limit = model.sharing.alone_beyond
    alone = [[i] for i, length in enumerate(lengths) if limit is not None and length > limit]
    rest = [i for i, length in enumerate(lengths) if limit is None or length <= limit]
    if model.sharing.packs:
        found = _packed([sequences[i] for i in rest], budget)
    else:
        found = token_batches([lengths[i] for i in rest], budget)
    return alone + [[rest[i] for i in batch] for batch in found]


def _packed(sequences: Sequences, budget: int) -> list[list[int]]:
    """Passes in which no prompt stands twice, and as few as possible of those whose responses are in several."""
    parts: list[tuple[int, list[int]]] = []
    for rows in by_prompt(sequences):
        prompt = len(sequences[rows[0]][0])
        for part in _filled([(len(sequences[i][1]) - 1, [i]) for i in rows], max(budget - prompt, 1)):
            parts.append((prompt + sum(len(sequences[i][1]) - 1 for i in part), part))
    return _filled(parts, budget)


def _filled(parts: Sequence[tuple[int, list[int]]], budget: int) -> list[list[int]]:
    """Parts of so many tokens together, the largest first, as long as they fit."""
    found: list[list[int]] = []
    room = 0
    for tokens, part in sorted(parts, key=lambda one: (-one[0], one[1])):
        if found and tokens <= room:
            found[-1] += part
            room -= tokens
        else:
            found.append(list(part))
            room = budget - tokens
    return found


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Sequences of similar length together in padded rows, so that little is padding.

    Args:
        lengths: tokens of each sequence.
        budget: most tokens, padding included, in one batch; a longer sequence gets a batch of its own.

    Returns:
        Indices of the sequences of each batch, longest batch first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
