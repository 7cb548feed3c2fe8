"""Running a model over prompts and responses: hidden states where response tokens are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropyctl.ahead import ahead
from entropyctl.tokenstats.batches import forward_batches
from entropyctl.tokenstats.layout import Layout, Sequences, laid_out
from entropyctl.tokenstats.split import SplitModel
from entropyctl.tokenstats.statistics import head_statistics, head_statistics_and_top
from entropyctl.tokenstats.sums import BlockStatistics, Top

Advance = Callable[[int], None]
Array = npt.NDArray[Any]
Fetch = Callable[[], list[Tensor]]


def response_hidden(
    split: SplitModel, sequences: Sequences, places: Sequence[Array] | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the responses' tokens, and those tokens, behind one another.

    Args:
        split: the model.
        sequences: one forward pass; prompts and responses are not empty.
        places: which tokens of each response; all without it.

    Returns:
        `[N, D]` hidden states and `[N]` int64 tokens, in the order of the sequences.
    """
    layout = laid_out(sequences, split.device, packs=split.sharing.packs, places=places)
    return _hidden(split, layout), layout.tokens


def _hidden(split: SplitModel, layout: Layout) -> Tensor:
    hidden_BTD: Tensor = split.body(use_cache=False, **layout.inputs).last_hidden_state
    return hidden_BTD.flatten(0, 1)[layout.at]


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
    empty = [torch.empty(_count(sequences)) for _ in BlockStatistics._fields]

    def statistics(hidden_ND: Tensor, tokens_N: Tensor) -> BlockStatistics:
        return head_statistics(hidden_ND, split.head, tokens_N, temperature)

    return BlockStatistics(*_of_every_token(split, sequences, statistics, empty, token_budget, advance))


def score_sequences_and_top(
    split: SplitModel,
    sequences: Sequences,
    k: int,
    *,
    temperature: float,
    token_budget: int | None,
    advance: Advance = lambda tokens: None,
) -> tuple[BlockStatistics, Top]:
    """The same, and the `k` likeliest tokens in the place of every response token, with their log p.

    Args:
        split: the model.
        sequences: prompts (not empty) and responses; responses may be empty.
        k: at most the vocabulary.
        temperature: of the sampling.
        token_budget: most tokens in one forward pass; None makes one of all.
        advance: told the response tokens done, for a progress display.
    """
    count = _count(sequences)
    empty = [torch.empty(count) for _ in BlockStatistics._fields]
    empty += [torch.empty(count, k, dtype=torch.int64), torch.empty(count, k)]

    def both(hidden_ND: Tensor, tokens_N: Tensor) -> Sequence[Tensor]:
        statistics, top = head_statistics_and_top(hidden_ND, split.head, tokens_N, temperature, k)
        return [*statistics, *top]

    found = _of_every_token(split, sequences, both, empty, token_budget, advance)
    return BlockStatistics(*found[:-2]), Top(*found[-2:])


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

    return _of_every_token(split, sequences, values, [torch.empty(_count(sequences))], token_budget, advance)[0]


def token_values(split: SplitModel, hidden_ND: Tensor) -> Tensor:
    """A critic's values out of hidden states, `[N]` float32, differentiable."""
    return split.head(hidden_ND)[:, 0].float()


def _count(sequences: Sequences) -> int:
    return sum(len(response) for _, response in sequences)


@torch.no_grad()
def _of_every_token(
    split: SplitModel,
    sequences: Sequences,
    compute: Callable[[Tensor, Tensor], Sequence[Tensor]],
    out: list[Tensor],
    token_budget: int | None,
    advance: Advance,
) -> list[Tensor]:
    """Fill tensors `[N, ...]` with what `compute` gives of hidden states and tokens, for every response token.

    While a pass is computed, the next is laid out, and the numbers of the one before are put in their place.
    """
    counts = [len(response) for _, response in sequences]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    scored = [i for i, count in enumerate(counts) if count]
    batches = forward_batches(split, [sequences[i] for i in scored], token_budget)
    passes = [[scored[i] for i in batch] for batch in batches]
    lay_out = partial(laid_out, device=split.device, packs=split.sharing.packs, places=None)

    def put(chosen: list[int], fetch: Fetch) -> None:
        for target, values in zip(out, fetch(), strict=True):
            for i, part in zip(chosen, torch.split(values, [counts[i] for i in chosen]), strict=True):
                target[starts[i] : starts[i + 1]] = part
        advance(sum(counts[i] for i in chosen))

    last: tuple[list[int], Fetch] | None = None
    layouts = ahead(lay_out([sequences[i] for i in chosen]) for chosen in passes)
    for chosen, layout in zip(passes, layouts, strict=True):
        fetch = _fetching(split.within(partial(_pass, split, layout, compute)))
        if last is not None:
            put(*last)
        last = chosen, fetch
    if last is not None:
        put(*last)
    return out


def _pass(split: SplitModel, layout: Layout, compute: Callable[[Tensor, Tensor], Sequence[Tensor]]) -> list[Tensor]:
    return list(compute(_hidden(split, layout), layout.tokens))


def _fetching(found: list[Tensor]) -> Fetch:
    """The tensors on the CPU: their way there begins now, and asking for them waits for its end."""
    here = [one.to("cpu", non_blocking=True) for one in found]
    if found[0].is_cuda:
        arrived = torch.cuda.current_stream(found[0].device).record_event()
        return lambda: (arrived.synchronize(), here)[1]
    return lambda: here
