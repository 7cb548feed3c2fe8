"""Running a model over prompts and responses: hidden states where response tokens are predicted.

Rows of a batch are padded on the right and no attention mask is passed: attention is causal, so what stands to
the right of a token cannot reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropyctl.tokenstats.batches import token_batches
from entropyctl.tokenstats.split import SplitModel
from entropyctl.tokenstats.statistics import head_statistics
from entropyctl.tokenstats.sums import BlockStatistics

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # (prompt, response) token ids
Advance = Callable[[int], None]
Array = npt.NDArray[Any]

# Sharing prompts means smaller forward passes, which are slower per token; it must save this much to be worth it.
SHARING_GAIN = 1.5


class Sharing(Protocol):
    """A model, here or elsewhere, of which it is known whether a prompt's keys and values serve all its responses."""

    @property
    def shares_prompts(self) -> bool: ...


def forward_batches(split: Sharing, sequences: Sequences, budget: int | None) -> list[list[int]]:
    """Cut sequences into forward passes: by length, or by prompt where sharing prompts saves enough.

    Args:
        split: the model.
        sequences: responses are not empty.
        budget: most tokens in one pass; None makes one of all.

    Returns:
        Indices of the sequences of each pass.
    """
    if budget is None:
        return [list(range(len(sequences)))] if sequences else []
    lengths = [len(prompt) + len(response) for prompt, response in sequences]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(sequences):
        groups.setdefault(tuple(prompt), []).append(i)
    shared = sum(len(prompt) + sum(len(sequences[i][1]) for i in rows) for prompt, rows in groups.items())
    if not split.shares_prompts or shared * SHARING_GAIN > sum(lengths):
        return token_batches(lengths, budget)
    batches = []
    for prompt, rows in groups.items():
        parts = token_batches([len(sequences[i][1]) for i in rows], max(budget - len(prompt), 1))
        batches += [[rows[i] for i in part] for part in parts]
    return batches


def response_hidden(
    split: SplitModel, sequences: Sequences, places: Sequence[Array] | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the responses' tokens, and those tokens, behind one another.

    Args:
        split: the model.
        sequences: one forward pass; prompts and responses are not empty. When they all have one prompt and the
            model shares prompts, the prompt is computed once.
        places: which tokens of each response; all without it.

    Returns:
        `[N, D]` hidden states and `[N]` int64 tokens, in the order of the sequences.
    """
    tokens = np.concatenate([np.asarray(response, np.int64) for _, response in sequences])
    first = list(sequences[0][0])
    if split.shares_prompts and len(sequences) > 1 and all(list(prompt) == first for prompt, _ in sequences):
        hidden_ND = _hidden_of_group(split, first, [response for _, response in sequences])
    else:
        hidden_ND = _hidden_of_rows(split, sequences)
    if places is not None:
        starts = np.cumsum([0, *(len(response) for _, response in sequences[:-1])])
        at = np.concatenate([place + start for place, start in zip(places, starts, strict=True)])
        if len(at) < len(tokens):
            hidden_ND, tokens = hidden_ND[torch.from_numpy(at).to(split.device)], tokens[at]
    return hidden_ND, torch.from_numpy(tokens).to(split.device)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    ids = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids).to(device)


def _hidden_of_rows(split: SplitModel, sequences: Sequences) -> Tensor:
    ids = _padded([[*prompt, *response] for prompt, response in sequences], split.device)
    hidden_BTD = split.body(input_ids=ids, use_cache=False).last_hidden_state
    parts = [hidden_BTD[i, len(p) - 1 : len(p) + len(r) - 1] for i, (p, r) in enumerate(sequences)]
    return torch.cat(parts)


def _hidden_of_group(split: SplitModel, prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> Tensor:
    """The same with the prompt's keys and values computed once; gradients flow back through them."""
    out = split.body(input_ids=_padded([prompt], split.device), use_cache=True)
    last_1D = out.last_hidden_state[:, -1]  # predicts the first token of every response
    if max(len(response) for response in responses) == 1:
        return last_1D.expand(len(responses), -1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(len(responses))
    # The last token of a response predicts nothing that is asked for.
    ids = _padded([response[:-1] for response in responses], split.device)
    hidden_BTD = split.body(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    parts = [torch.cat([last_1D, hidden_BTD[i, : len(response) - 1]]) for i, response in enumerate(responses)]
    return torch.cat(parts)


def score_sequences(
    split: SplitModel,
    sequences: Sequences,
    *,
    temperature: float,
    token_budget: int | None,
    advance: Advance = lambda tokens: None,
) -> BlockStatistics:
    """The five statistics of every response token, `[N]` float32 on the CPU, in the order of the sequences.

    Args:
        split: the model.
        sequences: prompts (not empty) and responses; responses may be empty.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass; None makes one of all.
        advance: told the response tokens done, for a progress display.
    """
    names = BlockStatistics._fields

    def statistics(hidden_ND: Tensor, tokens_N: Tensor) -> BlockStatistics:
        return head_statistics(hidden_ND, split.head, tokens_N, temperature)

    return BlockStatistics(*_of_every_token(split, sequences, statistics, len(names), token_budget, advance))


def value_sequences(
    split: SplitModel, sequences: Sequences, *, token_budget: int | None, advance: Advance = lambda tokens: None
) -> Tensor:
    """A critic's value of the state before every response token, `[N]` float32 on the CPU, in the sequences' order.

    The value of token t is the head's output at the position before t, the one that predicts t, as in verl.

    Args:
        split: the critic.
        sequences: prompts (not empty) and responses; responses may be empty.
        token_budget: most tokens in one forward pass; None makes one of all.
        advance: told the response tokens done, for a progress display.
    """

    def values(hidden_ND: Tensor, _: Tensor) -> tuple[Tensor]:
        return (token_values(split, hidden_ND),)

    return _of_every_token(split, sequences, values, 1, token_budget, advance)[0]


def token_values(split: SplitModel, hidden_ND: Tensor) -> Tensor:
    """A critic's values out of hidden states, `[N]` float32, differentiable."""
    return split.head(hidden_ND)[:, 0].float()


@torch.no_grad()
def _of_every_token(
    split: SplitModel,
    sequences: Sequences,
    compute: Callable[[Tensor, Tensor], Sequence[Tensor]],
    width: int,
    token_budget: int | None,
    advance: Advance,
) -> list[Tensor]:
    """`width` numbers of every response token: what `compute` gives of hidden states and tokens, each `[N]`."""
    counts = [len(response) for _, response in sequences]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    out = [torch.empty(int(starts[-1])) for _ in range(width)]
    scored = [i for i, count in enumerate(counts) if count]
    for batch in forward_batches(split, [sequences[i] for i in scored], token_budget):
        chosen = [scored[i] for i in batch]
        found = split.within(partial(_pass, split, [sequences[i] for i in chosen], compute))
        for target, values in zip(out, found, strict=True):
            for i, part in zip(chosen, torch.split(values.cpu(), [counts[i] for i in chosen]), strict=True):
                target[starts[i] : starts[i + 1]] = part
        advance(sum(counts[i] for i in chosen))
    return out


def _pass(
    split: SplitModel, sequences: Sequences, compute: Callable[[Tensor, Tensor], Sequence[Tensor]]
) -> list[Tensor]:
    return list(compute(*response_hidden(split, sequences)))
