"""Sequences laid out as the input of one forward pass: packed in a row, or padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropyctl.tokenstats.attention import NO_MASK, Packing, Segment

Array = npt.NDArray[np.int64]
Tokens = Sequence[int] | npt.NDArray[np.integer[Any]]
Sequences = Sequence[tuple[Tokens, Tokens]]  # (prompt, response) token ids


class Layout(NamedTuple):
    """A forward pass.

    Attributes:
        inputs: arguments of the model's body.
        at: `[N]` int64, where among all positions of the pass, row behind row, each response token is predicted.
        tokens: `[N]` int64, those tokens, in the order of the sequences.
    """

    inputs: dict[str, Any]
    at: Tensor
    tokens: Tensor


def laid_out(sequences: Sequences, device: torch.device, *, packs: bool, places: Sequence[Array] | None) -> Layout:
    """A forward pass over sequences.

    Args:
        sequences: prompts and responses are not empty.
        device: of the model.
        packs: in one row; else each has its own.
        places: which tokens of each response are asked for; None for all.
    """
    inputs, at = (packed if packs else padded)(sequences, device)
    tokens = np.concatenate([np.asarray(response, np.int64) for _, response in sequences])
    if places is not None:
        starts = np.cumsum([0, *(len(response) for _, response in sequences[:-1])])
        chosen = np.concatenate([place + start for place, start in zip(places, starts, strict=True)])
        at, tokens = at[chosen], tokens[chosen]
    return Layout(inputs, _on(at, device), _on(tokens, device))


def by_prompt(sequences: Sequences) -> list[list[int]]:
    """Indices of the sequences of each prompt, in the order in which prompts first come."""
    groups: dict[bytes, list[int]] = {}
    for i, (prompt, _) in enumerate(sequences):
        groups.setdefault(np.asarray(prompt, np.int64).tobytes(), []).append(i)
    return list(groups.values())


def packed(sequences: Sequences, device: torch.device) -> tuple[dict[str, Any], Array]:
    """All sequences in one row; a prompt that several share stands there once.

    Positions begin at 0 in every text, and a response goes on from its prompt. The last token of a response predicts
    nothing that is asked for, so it is left out.

    Args:
        sequences: prompts and responses are not empty.
        device: of the model.

    Returns:
        `inputs` and `at` of the layout.
    """
    row: list[Array] = []
    positions: list[Array] = []
    segments: list[Segment] = []
    at: list[Array] = [np.zeros(0, np.int64)] * len(sequences)
    end = 0

    def put(tokens: Array, position: int, prompt: tuple[int, int] = (0, 0)) -> int:
        nonlocal end
        start, end = end, end + len(tokens)
        if len(tokens):
            row.append(tokens)
            positions.append(np.arange(position, position + len(tokens)))
            segments.append(Segment(start, end, *prompt))
        return start

    for rows in by_prompt(sequences):
        prompt, first = (np.asarray(one, np.int64) for one in sequences[rows[0]])
        if len(rows) == 1:
            start = put(np.concatenate([prompt, first[:-1]]), 0)
            at[rows[0]] = np.arange(start + len(prompt) - 1, end)
            continue
        place = put(prompt, 0), end
        for i in rows:
            start = put(np.asarray(sequences[i][1], np.int64)[:-1], len(prompt), place)
            at[i] = np.concatenate([[place[1] - 1], np.arange(start, end)])
    inputs = {
        "input_ids": _on(np.concatenate(row)[None], device),
        "position_ids": _on(np.concatenate(positions)[None], device),
        "attention_mask": NO_MASK.to(device),
        "packing": Packing(segments),
    }
    return inputs, np.concatenate(at)


def padded(sequences: Sequences, device: torch.device) -> tuple[dict[str, Any], Array]:
    """A row for each sequence, padded on the right.

    No mask is passed: attention is causal, so what stands to the right of a token cannot reach it.

    Args:
        sequences: prompts and responses are not empty.
        device: of the model.

    Returns:
        `inputs` and `at` of the layout.
    """
    width = max(len(prompt) + len(response) - 1 for prompt, response in sequences)
    ids = np.zeros((len(sequences), width), np.int64)
    at = []
    for i, (prompt, response) in enumerate(sequences):
        length = len(prompt) + len(response) - 1
        ids[i, :length] = np.concatenate([prompt, response[:-1]])
        at.append(np.arange(i * width + len(prompt) - 1, i * width + length))
    return {"input_ids": _on(ids, device)}, np.concatenate(at)


def _on(array: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
