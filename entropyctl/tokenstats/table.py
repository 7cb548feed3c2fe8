"""The token statistics as columns of a scored table."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import torch

from entropyctl.errors import EngineError
from entropyctl.table.columns import list_column, row_lengths, with_column
from entropyctl.tokenstats.blocks import BlockStatistics
from entropyctl.tokenstats.forward import score_sequences
from entropyctl.tokenstats.split import SplitModel

COLUMNS = BlockStatistics._fields


def add_statistics(
    rows: pa.Table,
    split: SplitModel,
    *,
    temperature: float,
    token_budget: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with log p, H, S*, E[S] and sum p^2 of every response token.

    Args:
        rows: with `prompt_tokens` and `tokens`.
        split: the scoring model.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass.
        advance: told the response tokens done.

    Raises:
        EngineError: the model computed NaN.
    """
    sequences = list(zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True))
    stats = score_sequences(split, sequences, temperature=temperature, token_budget=token_budget, advance=advance)
    lengths_B = row_lengths(rows["tokens"])
    for name, values_N in zip(COLUMNS, stats, strict=True):
        if bool(torch.isnan(values_N).any()):
            raise EngineError(f"the model computed {name} that are not numbers; check the checkpoint, or use float32")
        rows = with_column(rows, name, list_column(values_N.numpy(), lengths_B, pa.float32()))
    return rows
