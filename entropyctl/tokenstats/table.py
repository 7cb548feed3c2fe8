"""The token statistics as columns of a scored table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from entropyctl.errors import EngineError, InputError
from entropyctl.table.columns import flat_values, list_column, row_lengths, row_of_token, with_column
from entropyctl.table.conform import row_name
from entropyctl.tokenstats.forward import score_sequences, value_sequences
from entropyctl.tokenstats.split import SplitModel
from entropyctl.tokenstats.sums import BlockStatistics

COLUMNS = BlockStatistics._fields


def add_statistics(
    rows: pa.Table,
    split: SplitModel,
    *,
    temperature: float,
    token_budget: int | None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """The rows of a step with log p, H, S*, E[S] and sum p^2 of every response token.

    Args:
        rows: with `prompt_tokens` and `tokens`.
        split: the scoring model.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass; None makes one of all.
        advance: told the response tokens done.

    Raises:
        InputError: a row is no text of this model.
        EngineError: the model computed NaN.
    """
    sequences = sequences_of(rows, split.model)
    stats = score_sequences(split, sequences, temperature=temperature, token_budget=token_budget, advance=advance)
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
