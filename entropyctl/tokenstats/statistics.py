"""The statistics of any number of tokens, and log p and H that can be differentiated, holding tiles of the logits.

`N` tokens, `D` hidden size, `V` vocabulary.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropyctl.tokenstats.compiled import EAGER, Kernels, kernels
from entropyctl.tokenstats.head import Head, Weights, through_cap, tile_logits
from entropyctl.tokenstats.sums import BlockStatistics, Pull, Sums, Top, new_sums, no_keys, rows_of, statistics, top
from entropyctl.tokenstats.threads import in_threads


class Tile(NamedTuple):
    """How many logits are looked at together."""

    tokens: int
    columns: int


# 2 MB of float32 logits stay in a core's cache and 32 MB in a GPU's, where 64 MB are made in the time that Python needs
# to ask for them when hidden states are small.
TILE_ON_CPU, TILE_ELSEWHERE, TILE_OF_SMALL = Tile(512, 1024), Tile(2048, 4096), Tile(2048, 8192)
SMALL = 2048  # hidden size
SHARES = 2**23  # numbers, 32 MB, of which threads add up the gradient at hidden states


def block_statistics(logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0) -> BlockStatistics:
    """All five statistics of softmax(logits / temperature), as `sums.statistics` defines them.

    Args:
        logits_NV: logits in any floating type; worked on in float32.
        tokens_N: int64 index of each row's token.
        temperature: what the logits are divided by; > 0.
    """
    beta, fold = 1.0 / temperature, _kernels(logits_NV.device).fold
    sums = new_sums(len(tokens_N), logits_NV.device)
    columns = _tile(logits_NV).columns
    for left in range(0, logits_NV.shape[1], columns):
        tile_NV = logits_NV[:, left : left + columns]
        fold(tile_NV.to(torch.float32, copy=True), tokens_N - left, beta, sums)
    return statistics(sums, beta)


def head_statistics(hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> BlockStatistics:
    """The five statistics of tokens.

    Args:
        hidden_ND: last hidden states at the positions that predict the tokens.
        head: the model's output layer.
        tokens_N: int64.
        temperature: of the sampling.
    """
    with torch.no_grad():
        beta = 1.0 / temperature
        return statistics(vocabulary_sums(hidden_ND, head.weights, tokens_N, beta), beta)


def head_statistics_and_top(
    hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float, k: int
) -> tuple[BlockStatistics, Top]:
    """The five statistics, and in the same pass the `k` likeliest tokens with their log p; the first is the arg-max.

    Args:
        hidden_ND: last hidden states at the positions that predict the tokens.
        head: the model's output layer.
        tokens_N: int64.
        temperature: of the sampling.
        k: how many; at most the vocabulary.
    """
    with torch.no_grad():
        beta, weights = 1.0 / temperature, head.weights
        assert 1 <= k <= weights.weight.shape[0]
        keys_NK = no_keys(len(tokens_N), k, hidden_ND.device)
        sums = vocabulary_sums(hidden_ND, weights, tokens_N, beta, keys_NK)
        return statistics(sums, beta), top(keys_NK, sums, beta)


def token_logprobs(
    hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float, *, accumulates: bool = False
) -> Tensor:
    """log p of the tokens, `[N]` float32, differentiable; the backward pass makes each tile of logits again.

    Args:
        hidden_ND: last hidden states at the positions that predict the tokens.
        head: the model's output layer.
        tokens_N: int64.
        temperature: of the sampling.
        accumulates: the backward pass is `Tensor.backward`, which adds up in `grad`: where the output matrix has one
            already, its gradient is added there at once, and memory never holds a second.
    """
    return token_logprobs_and_entropies(hidden_ND, head, tokens_N, temperature, accumulates=accumulates)[0]


def token_logprobs_and_entropies(
    hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float, *, accumulates: bool = False
) -> tuple[Tensor, Tensor]:
    """log p and H of the tokens, each `[N]` float32, both differentiable, as an entropy bonus needs them.

    Args: as for `token_logprobs`.
    """
    weight, bias, scale, cap = head.weights
    device = hidden_ND.device.type
    if device == "cuda" and torch.is_autocast_enabled(device):
        hidden_ND, weight = (one.to(torch.get_autocast_dtype(device)) for one in (hidden_ND, weight))
    apply: Any = _Statistics.apply
    logprobs_N, entropies_N = apply(hidden_ND, weight, bias, tokens_N, 1.0 / temperature, scale, cap, accumulates)
    return logprobs_N, entropies_N


class _Statistics(torch.autograd.Function):
    """log p and H of tokens, from hidden states and the output layer's weights."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight: Tensor, bias: Tensor | None, *given: Any) -> tuple[Tensor, Tensor]:
        tokens_N, beta, scale, cap, accumulates = given
        with torch.autocast(hidden_ND.device.type, enabled=False):
            sums = vocabulary_sums(hidden_ND, Weights(weight, bias, scale, cap), tokens_N, beta)
        found = statistics(sums, beta)
        log_z_N = sums.sums[:, 0].log().float()
        ctx.save_for_backward(hidden_ND, weight, bias, tokens_N, sums.top, log_z_N, found.entropies)
        ctx.scalars = beta, scale, cap, accumulates
        ctx.set_materialize_grads(False)
        return found.logprobs, found.entropies

    @staticmethod
    def backward(ctx: Any, by_logprob_N: Tensor | None, by_entropy_N: Tensor | None) -> Any:
        hidden_ND, weight, bias, tokens_N, top_N, log_z_N, entropies_N = ctx.saved_tensors
        beta, scale, cap, accumulates = ctx.scalars
        none_N = torch.zeros_like(entropies_N)
        by_logprob_N, by_entropy_N = (
            none_N if one is None else one.float().contiguous() for one in (by_logprob_N, by_entropy_N)
        )
        given = Pull(top_N, log_z_N, entropies_N, by_logprob_N, by_entropy_N)
        weights = Weights(weight, bias, scale, cap)
        into = weight.grad if accumulates and weight.is_leaf and weight.dtype == torch.float32 else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            grads = vocabulary_gradients(hidden_ND, weights, tokens_N, beta, given, ctx.needs_input_grad[:3], into)
        return (*grads, None, None, None, None, None)


def _tile(hidden_ND: Tensor) -> Tile:
    if hidden_ND.device.type == "cpu":
        return TILE_ON_CPU
    return TILE_OF_SMALL if hidden_ND.shape[1] < SMALL else TILE_ELSEWHERE


def _kernels(device: torch.device) -> Kernels:
    """The passes over a tile: compiled on a CPU, Triton's on a GPU, torch's where there is neither."""
    if device.type == "cpu":
        return kernels()
    if device.type == "cuda" and find_spec("triton") is not None:
        from entropyctl.tokenstats import gpu

        return gpu.kernels(device)
    return EAGER


def vocabulary_sums(
    hidden_ND: Tensor, weights: Weights, tokens_N: Tensor, beta: float, keys_NK: Tensor | None = None
) -> Sums:
    """The sums of tokens over all of the vocabulary, or over the part of it that the weights are of.

    Args:
        hidden_ND: last hidden states.
        weights: of the output layer.
        tokens_N: int64, relative to the weights' first row.
        beta: 1 / temperature.
        keys_NK: of the largest logits, where these are asked for; is changed.
    """
    device, passes = hidden_ND.device, _kernels(hidden_ND.device)
    count, vocabulary = len(tokens_N), weights.weight.shape[0]
    tokens, columns = _tile(hidden_ND)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    size = max(min(tokens, -(-count // threads)), 1)  # at least a piece for each thread, where there are as many tokens
    sums = new_sums(count, device)

    def piece(number: int) -> None:
        start, end = number * size, min((number + 1) * size, count)
        own, hidden, chosen = rows_of(sums, start, end), hidden_ND[start:end], tokens_N[start:end]
        tile = torch.empty(size * columns, device=device)
        lefts = torch.arange(0, vocabulary, columns, device=device)
        for left, column_N in zip(range(0, vocabulary, columns), chosen - lefts[:, None], strict=True):
            logits_NV = tile_logits(hidden, weights, left, min(left + columns, vocabulary), tile)
            if keys_NK is not None:
                passes.rank(logits_NV, left, keys_NK[start:end])
            passes.fold(logits_NV, column_N, beta, own)

    in_threads(piece, -(-count // size), device)
    return sums


def vocabulary_gradients(
    hidden_ND: Tensor,
    weights: Weights,
    tokens_N: Tensor,
    beta: float,
    given: Pull,
    needs: tuple[bool, bool, bool],
    into: Tensor | None = None,
) -> list[Tensor | None]:
    """The gradients at hidden states, weight and bias; each None where it is not needed.

    Args:
        hidden_ND: last hidden states.
        weights: of the output layer.
        tokens_N: int64.
        beta: 1 / temperature.
        given: of the tokens.
        needs: which of the three.
        into: float32, to which that at the weight is added, and is None then.
    """
    device, count, vocabulary = hidden_ND.device, len(tokens_N), weights.weight.shape[0]
    pieces = min(torch.get_num_threads(), -(-vocabulary // _tile(hidden_ND).columns)) if device.type == "cpu" else 1
    by_hidden = torch.zeros_like(hidden_ND, dtype=torch.float32) if needs[0] else None
    by_bias = torch.zeros(vocabulary, device=device) if needs[2] and weights.bias is not None else None
    # A piece is a part of the vocabulary, so that no two write to the same rows of the weight's gradient. To that at
    # hidden states each has a share, and these are added in one order whichever is done first.
    at_once = max(SHARES // (hidden_ND.shape[1] * pieces), 64) if pieces > 1 else max(count, 1)
    # All tokens at once add up a tile of it in float32, which need not be kept then.
    kind = weights.weight.dtype if count <= at_once else torch.float32
    by_weight = (torch.zeros_like(weights.weight, dtype=kind) if into is None else into) if needs[1] else None
    for start in range(0, count, at_once):
        rows = slice(start, start + at_once)
        shares: list[Tensor | None] = [None] * pieces
        if by_hidden is not None:
            shares = [by_hidden[rows], *(torch.zeros_like(by_hidden[rows]) for _ in range(pieces - 1))]
        work = (hidden_ND[rows], weights, tokens_N[rows], beta, Pull(*(one[rows] for one in given)))
        add = partial(_add_piece, work=work, shares=shares, by_weight=by_weight, by_bias=by_bias)
        in_threads(add, pieces, device)
        for share in shares[1:]:
            if by_hidden is not None and share is not None:
                by_hidden[rows] += share
    found = [by_hidden, by_weight if into is None else None, by_bias]
    inputs = [hidden_ND, weights.weight, weights.bias]
    return [None if a is None or b is None else a.to(b.dtype) for a, b in zip(found, inputs, strict=True)]


def _add_piece(
    number: int,
    work: tuple[Tensor, Weights, Tensor, float, Pull],
    shares: list[Tensor | None],
    by_weight: Tensor | None,
    by_bias: Tensor | None,
) -> None:
    """Add to the gradients what every so-many-th tile of columns brings."""
    hidden_ND, weights, tokens_N, beta, given = work
    (tokens, columns), pull = _tile(hidden_ND), _kernels(hidden_ND.device).pull
    buffer = torch.empty(min(tokens, len(hidden_ND)) * columns, device=hidden_ND.device)
    by_hidden, vocabulary = shares[number], weights.weight.shape[0]
    for left in range(number * columns, vocabulary, len(shares) * columns):
        part, column_N = slice(left, min(left + columns, vocabulary)), tokens_N - left
        by_part = None if by_weight is None else by_weight[part].float()  # itself where it is float32
        for start in range(0, len(hidden_ND), tokens):
            rows = slice(start, start + tokens)
            gradient_NV = tile_logits(hidden_ND[rows], weights, part.start, part.stop, buffer)
            logits_NV = gradient_NV.clone() if weights.cap else None
            pull(gradient_NV, column_N[rows], beta, Pull(*(one[rows] for one in given)))
            gradient_NV = through_cap(gradient_NV, logits_NV, weights)
            if hidden_ND.is_cuda:  # whose matrix units take 16-bit numbers
                gradient_NV = gradient_NV.to(hidden_ND.dtype)
            if by_hidden is not None:
                _add_product(by_hidden[rows], gradient_NV, weights.weight[part])
            if by_part is not None:
                _add_product(by_part, gradient_NV.T, hidden_ND[rows])
            if by_bias is not None:
                by_bias[part] += gradient_NV.sum(dim=0, dtype=torch.float32)
        if by_weight is not None and by_part is not None and by_weight.dtype != torch.float32:
            by_weight[part] = by_part


def _add_product(out: Tensor, first: Tensor, second: Tensor) -> None:
    if first.dtype == torch.float32:
        out.addmm_(first, second.float())
    else:
        torch.addmm(out, first, second.to(first.dtype), out_dtype=torch.float32, out=out)
