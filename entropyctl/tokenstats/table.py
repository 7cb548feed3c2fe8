"""The token statistics as columns of a scored table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.errors import EngineError, InputError, UsageError
from entropyctl.table.columns import (
    flat_values,
    list_column,
    nested_column,
    row_lengths,
    row_of_token,
    with_column,
)
from entropyctl.table.conform import row_name
from entropyctl.tokenstats.forward import score_sequences, score_sequences_and_top, value_sequences
from entropyctl.tokenstats.split import SplitModel
from entropyctl.tokenstats.sums import BlockStatistics

COLUMNS = BlockStatistics._fields
TOP_COLUMNS = ("top_tokens", "top_logprobs")


def add_statistics(
    rows: pa.Table,
    split: SplitModel,
    *,
    temperature: float,
    token_budget: int | None,
    top_k: int | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with log p, H, S*, E[S] and sum p^2 of every response token.

    Args:
        rows: with `prompt_tokens` and `tokens`.
        split: the scoring model.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass; None makes one of all.
        top_k: as many of the likeliest tokens in each place too, with their log p.
        advance: told the response tokens done.

    Raises:
        InputError: a row is no text of this model.
        EngineError: the model computed NaN.
        UsageError: the model has no `top_k` tokens.
    """
    sequences = sequences_of(rows, split.model)
    # Those of another model would pass for this one's.
    rows = rows.drop_columns([name for name in TOP_COLUMNS if name in rows.column_names])
    how: Any = {"temperature": temperature, "token_budget": token_budget, "advance": advance}
    if top_k is None:
        stats = score_sequences(split, sequences, **how)
    else:
        if top_k > (known := split.head.weights.weight.shape[0]):
            raise UsageError(f"--top-k {top_k}: the model has {known} tokens; ask for no more")
        stats, top = score_sequences_and_top(split, sequences, top_k, **how)
        lengths = row_lengths(rows["tokens"])
        for name, values_NK, kind in zip(TOP_COLUMNS, top, (pa.int32(), pa.float32()), strict=True):
            rows = with_column(rows, name, nested_column(values_NK.numpy(), lengths, kind))
    for name, values_N in zip(COLUMNS, stats, strict=True):
        rows = _with_numbers(rows, name, values_N)
    return rows


def add_logprobs(
    rows: pa.Table,
    split: SplitModel,
    name: str,
    *,
    temperature: float,
    token_budget: int | None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with log p of every response token under another model, as column `name`.

    Args and Raises: as for `add_statistics`.
    """
    sequences = sequences_of(rows, split.model)
    stats = score_sequences(split, sequences, temperature=temperature, token_budget=token_budget, advance=advance)
    return _with_numbers(rows, name, stats.logprobs)


def add_values(
    rows: pa.Table,
    split: SplitModel,
    *,
    token_budget: int | None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with a critic's value of the state before every response token.

    Args and Raises: as for `add_statistics`.
    """
    sequences = sequences_of(rows, split.model)
    return _with_numbers(rows, "values", value_sequences(split, sequences, token_budget=token_budget, advance=advance))


def sequences_of(rows: pa.Table, model: Any) -> list[tuple[list[int], list[int]]]:
    """The (prompt, response) token ids of the rows.

    Raises:
        InputError: a row is no text of this model.
    """
    _check_rows(rows, model)
    return list(zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True))


def _with_numbers(rows: pa.Table, name: str, values_N: torch.Tensor) -> pa.Table:
    if bool(torch.isnan(values_N).any()):
        raise EngineError(f"the model computed {name} that are not numbers; check the checkpoint, or use float32")
    return with_column(rows, name, list_column(values_N.numpy(), row_lengths(rows["tokens"]), pa.float32()))


def _check_rows(rows: pa.Table, model: Any) -> None:
    """Refuse what the model would meet with an index error: rows that another program made, or another model."""
    prompts_B, responses_B = row_lengths(rows["prompt_tokens"]), row_lengths(rows["tokens"])
    vocabulary = model.config.get_text_config().vocab_size
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or np.inf
    if (empty_B := (prompts_B == 0) & (responses_B > 0)).any():
        raise InputError(
            f"row {row_name(rows, int(empty_B.argmax()))}: has no prompt_tokens, so nothing predicts its first token; "
            "give it a prompt (a token that begins a text will do), or leave it out"
        )
    if (long_B := prompts_B + responses_B > positions).any():
        i = int(long_B.argmax())
        raise InputError(
            f"row {row_name(rows, i)}: has {prompts_B[i] + responses_B[i]} tokens, more than the {positions} positions "
            "of the model; give the policy that sampled it, or leave the row out"
        )
    for name, lengths_B in (("prompt_tokens", prompts_B), ("tokens", responses_B)):
        ids_N = flat_values(rows[name])
        if (unknown_N := (ids_N < 0) | (ids_N >= vocabulary)).any():
            n = int(unknown_N.argmax())
            raise InputError(
                f"row {row_name(rows, int(row_of_token(lengths_B)[n]))}: has the token {ids_N[n]} in {name}, but the "
                f"model knows 0 to {vocabulary - 1}; give the policy that sampled it"
            )
