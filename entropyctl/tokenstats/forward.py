"""Running a model over prompts and responses: hidden states where response tokens are predicted.

Rows of a batch are padded on the right and no attention mask is passed: attention is causal, so what stands to
the right of a token cannot reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropyctl.tokenstats.batches import token_batches
from entropyctl.tokenstats.blocks import BlockStatistics, head_statistics
from entropyctl.tokenstats.head import Head

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # (prompt, response) token ids


def response_hidden(body: Any, sequences: Sequences, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the responses' tokens, and those tokens, behind one another.

    Args:
        body: the model without its head.
        sequences: prompts (not empty) and responses.
        device: where the model is.

    Returns:
        `[N, D]` hidden states and `[N]` int64 tokens, in the order of the sequences.
    """
    lengths = [len(prompt) + len(response) for prompt, response in sequences]
    ids = np.zeros((len(sequences), max(lengths)), np.int64)
    rows, positions = [], []
    for row, (prompt, response) in enumerate(sequences):
        ids[row, : len(prompt)] = prompt
        ids[row, len(prompt) : lengths[row]] = response
        rows.append(np.full(len(response), row))
        positions.append(np.arange(len(prompt), lengths[row]))
    row_N, position_N = np.concatenate(rows), np.concatenate(positions)
    hidden_BTD = body(input_ids=torch.from_numpy(ids).to(device), use_cache=False).last_hidden_state
    at = torch.from_numpy(row_N).to(device), torch.from_numpy(position_N - 1).to(device)
    return hidden_BTD[at], torch.from_numpy(ids[row_N, position_N]).to(device)


@torch.no_grad()
def score_sequences(
    body: Any,
    head: Head,
    sequences: Sequences,
    *,
    temperature: float,
    token_budget: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda tokens: None,
) -> BlockStatistics:
    """The five statistics of every response token, `[N]` float32 on the CPU, in the order of the sequences.

    Args:
        body: the model without its head.
        head: its output layer.
        sequences: prompts (not empty) and responses; responses may be empty.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass.
        device: where the model is.
        advance: told the response tokens done, for a progress display.
    """
    counts = [len(response) for _, response in sequences]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    out = BlockStatistics(*(torch.empty(int(starts[-1])) for _ in BlockStatistics._fields))
    scored = [i for i, count in enumerate(counts) if count]
    lengths = [len(sequences[i][0]) + counts[i] for i in scored]
    for batch in token_batches(lengths, token_budget):
        chosen = [scored[i] for i in batch]
        hidden_ND, tokens_N = response_hidden(body, [sequences[i] for i in chosen], device)
        stats = head_statistics(hidden_ND, head, tokens_N, temperature)
        for target, values in zip(out, stats, strict=True):
            for i, part in zip(chosen, torch.split(values.cpu(), [counts[i] for i in chosen]), strict=True):
                target[starts[i] : starts[i + 1]] = part
        advance(sum(counts[i] for i in chosen))
    return out
