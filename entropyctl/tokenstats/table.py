"""The token statistics as columns of a scored table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch

from entropyctl.errors import EngineError
from entropyctl.table.columns import list_column, row_lengths, with_column
from entropyctl.tokenstats.blocks import BlockStatistics
from entropyctl.tokenstats.forward import score_sequences
from entropyctl.tokenstats.head import Head

COLUMNS = BlockStatistics._fields


def add_statistics(
    rows: pa.Table,
    body: Any,
    head: Head,
    *,
    temperature: float,
    token_budget: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with log p, H, S*, E[S] and sum p^2 of every response token.

    Args:
        rows: with `prompt_tokens` and `tokens`.
        body: the scoring model without its head.
        head: its output layer.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass.
        device: where the model is.
        advance: told the response tokens done.

    Raises:
        EngineError: the model computed NaN.
    """
    sequences = list(zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True))
    stats = score_sequences(
        body,
        head,
        sequences,
        temperature=temperature,
        token_budget=token_budget,
        device=device,
        advance=advance,
    )
    lengths_B = row_lengths(rows["tokens"])
    for name, values_N in zip(COLUMNS, stats, strict=True):
        if bool(torch.isnan(values_N).any()):
            raise EngineError(f"the model computed {name} that are not numbers; check the checkpoint, or use float32")
        rows = with_column(rows, name, list_column(values_N.numpy(), lengths_B, pa.float32()))
    return rows
