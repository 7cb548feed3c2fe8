"""The statistics of any number of tokens, and log p and H that can be differentiated, holding tiles of the logits.

`N` tokens, `D` hidden size, `V` vocabulary.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropyctl.tokenstats.compiled import EAGER, Kernels, kernels
from entropyctl.tokenstats.head import Head, Weights, product, through_cap, tile_logits
from entropyctl.tokenstats.sums import BlockStatistics, Pull, Sums, Top, new_sums, no_keys, rows_of, statistics, top
from entropyctl.tokenstats.threads import in_threads


class Tile(NamedTuple):
    """How many logits are looked at together."""

    tokens: int
    columns: int


# 2 MB of float32 logits stay in a core's cache, 32 MB in a GPU's.
TILE_ON_CPU, TILE_ELSEWHERE = Tile(512, 1024), Tile(2048, 4096)


def block_statistics(logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0) -> BlockStatistics:
    """All five statistics of softmax(logits / temperature), as `sums.statistics` defines them.

    Args:
        logits_NV: logits in any floating type; worked on in float32.
        tokens_N: int64 index of each row's token.
        temperature: what the logits are divided by; > 0.
    """
    beta, fold = 1.0 / temperature, _kernels(logits_NV.device).fold
    sums = new_sums(len(tokens_N), logits_NV.device)
    columns = _tile(logits_NV.device).columns
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


def token_logprobs(hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> Tensor:
    """log p of the tokens, `[N]` float32, differentiable; the backward pass makes each tile of logits again."""
    return token_logprobs_and_entropies(hidden_ND, head, tokens_N, temperature)[0]


def token_logprobs_and_entropies(
    hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log p and H of the tokens, each `[N]` float32, both differentiable, as an entropy bonus needs them."""
    weight, bias, scale, cap = head.weights
    device = hidden_ND.device.type
    if device == "cuda" and torch.is_autocast_enabled(device):
        hidden_ND, weight = (one.to(torch.get_autocast_dtype(device)) for one in (hidden_ND, weight))
    apply: Any = _Statistics.apply
    logprobs_N, entropies_N = apply(hidden_ND, weight, bias, tokens_N, 1.0 / temperature, scale, cap)
    return logprobs_N, entropies_N


class _Statistics(torch.autograd.Function):
    """log p and H of tokens, from hidden states and the output layer's weights."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight: Tensor, bias: Tensor | None, *given: Any) -> tuple[Tensor, Tensor]:
        tokens_N, beta, scale, cap = given
        with torch.autocast(hidden_ND.device.type, enabled=False):
            sums = vocabulary_sums(hidden_ND, Weights(weight, bias, scale, cap), tokens_N, beta)
        found = statistics(sums, beta)
        log_z_N = sums.sums[:, 0].log().float()
        ctx.save_for_backward(hidden_ND, weight, bias, tokens_N, sums.top, log_z_N, found.entropies)
        ctx.scalars = beta, scale, cap
        ctx.set_materialize_grads(False)
        return found.logprobs, found.entropies

    @staticmethod
    def backward(ctx: Any, by_logprob_N: Tensor | None, by_entropy_N: Tensor | None) -> Any:
        hidden_ND, weight, bias, tokens_N, top_N, log_z_N, entropies_N = ctx.saved_tensors
        beta, scale, cap = ctx.scalars
        none_N = torch.zeros_like(entropies_N)
        by_logprob_N, by_entropy_N = (
            none_N if one is None else one.float().contiguous() for one in (by_logprob_N, by_entropy_N)
        )
        given = Pull(top_N, log_z_N, entropies_N, by_logprob_N, by_entropy_N)
        weights = Weights(weight, bias, scale, cap)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            grads = vocabulary_gradients(hidden_ND, weights, tokens_N, beta, given, ctx.needs_input_grad[:3])
        return (*grads, None, None, None, None)


def _tile(device: torch.device) -> Tile:
    return TILE_ON_CPU if device.type == "cpu" else TILE_ELSEWHERE


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
    tokens, columns = _tile(device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    size = max(min(tokens, -(-count // threads)), 1)  # at least a piece for each thread, where there are as many tokens
    sums = new_sums(count, device)

    def piece(number: int) -> None:
        start, end = number * size, min((number + 1) * size, count)
        own, hidden, chosen = rows_of(sums, start, end), hidden_ND[start:end], tokens_N[start:end]
        tile = torch.empty(size * columns, device=device)
        for left in range(0, vocabulary, columns):
            logits_NV = tile_logits(hidden, weights, left, min(left + columns, vocabulary), tile)
            if keys_NK is not None:
                passes.rank(logits_NV, left, keys_NK[start:end])
            passes.fold(logits_NV, chosen - left, beta, own)

    in_threads(piece, -(-count // size), device)
    return sums


def vocabulary_gradients(
    hidden_ND: Tensor, weights: Weights, tokens_N: Tensor, beta: float, given: Pull, needs: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """The gradients at hidden states, weight and bias; each None where it is not needed.

    Args:
        hidden_ND: last hidden states.
        weights: of the output layer.
        tokens_N: int64.
        beta: 1 / temperature.
        given: of the tokens.
        needs: which of the three.
    """
    device, pull = hidden_ND.device, _kernels(hidden_ND.device).pull
    count, vocabulary = len(tokens_N), weights.weight.shape[0]
    tokens, columns = _tile(device)
    pieces = min(torch.get_num_threads(), -(-vocabulary // columns)) if device.type == "cpu" else 1
    # A piece is a part of the vocabulary, so that no two write to the same rows of the weight's gradient.
    by_hidden = [torch.zeros_like(hidden_ND, dtype=torch.float32) for _ in range(pieces if needs[0] else 0)]
    by_weight = torch.zeros_like(weights.weight, dtype=torch.float32) if needs[1] else None
    by_bias = torch.zeros(vocabulary, device=device) if needs[2] and weights.bias is not None else None

    def piece(number: int) -> None:
        tile = torch.empty(tokens * columns, device=device)
        for left in range(number * columns, vocabulary, pieces * columns):
            right = min(left + columns, vocabulary)
            for start in range(0, count, tokens):
                rows = slice(start, min(start + tokens, count))
                hidden = hidden_ND[rows]
                gradient_NV = tile_logits(hidden, weights, left, right, tile)
                logits_NV = gradient_NV.clone() if weights.cap else None
                pull(gradient_NV, tokens_N[rows] - left, beta, Pull(*(one[rows] for one in given)))
                gradient_NV = through_cap(gradient_NV, logits_NV, weights).to(
                    hidden.dtype if hidden.is_cuda else torch.float32
                )
                if by_hidden:
                    _add_product(by_hidden[number][rows], gradient_NV, weights.weight[left:right])
                if by_weight is not None:
                    _add_product(by_weight[left:right], gradient_NV.T, hidden)
                if by_bias is not None:
                    by_bias[left:right] += gradient_NV.sum(dim=0, dtype=torch.float32)

    in_threads(piece, pieces, device)
    total = None if not by_hidden else torch.stack(by_hidden).sum(dim=0) if len(by_hidden) > 1 else by_hidden[0]
    found = [total, by_weight, by_bias]
    inputs = [hidden_ND, weights.weight, weights.bias]
    return [None if a is None or b is None else a.to(b.dtype) for a, b in zip(found, inputs, strict=True)]


def _add_product(out: Tensor, first: Tensor, second: Tensor) -> None:
    if first.dtype == torch.float32:
        out.addmm_(first, second.float())
    else:
        out += product(first, second)
