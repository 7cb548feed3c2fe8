"""Statistics of a block of tokens from its logits, and log-probabilities that can be differentiated.

`N` tokens, `V` vocabulary, `D` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from entropyctl.tokenstats.split import Head

# Logits of one block in float32 are 256 x 49152 x 4 bytes = 48 MiB for a small vocabulary, 148 MiB for 152k.
TOKENS_PER_BLOCK = 256

# Terms further below the maximum than this are exactly 0 in float32. Bounding them keeps 0 * -inf from making NaN.
LOWEST = -200.0


class BlockStatistics(NamedTuple):
    """Statistics of `N` tokens, each `[N]` float32; nats."""

    logprobs: Tensor
    entropies: Tensor
    s_star: Tensor
    expected_s: Tensor
    sum_p2: Tensor


def block_statistics(logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0) -> BlockStatistics:
    """All five statistics of softmax(logits / temperature).

    With m the row's maximum, d = (x - m) / temperature, e = exp(d) and the sums s0 = sum e, s1 = sum d e, t0 = sum e^2,
    t1 = sum d e^2:

        mu = s1 / s0            log p_k = d_k - log s0      H = log s0 - mu
        sum p^2 = t0 / s0^2     E[S] = (t1 - t0 mu) / s0^2  S* = p_k (d_k - mu)

    in which log Z has cancelled from S* and E[S]. 0 log 0 counts as 0, so logits of -inf are allowed. The maximum
    is taken off before the temperature divides, which keeps logits of 1e4 exact to the last bits that matter.

    Args:
        logits_NV: logits in any floating type; worked on in float32.
        tokens_N: int64 index of each row's token.
        temperature: what the logits are divided by; > 0.

    Returns:
        log p_k, H, S*, E[S] and sum p^2. log p_k is -inf (and S* is 0) where the token's logit is.
    """
    x_NV = logits_NV.float()
    m_N1 = x_NV.amax(dim=1, keepdim=True)
    dk_N = ((x_NV.gather(1, tokens_N[:, None]).double() - m_N1) / temperature)[:, 0]
    d_NV = (x_NV - m_N1).div_(temperature).clamp_(min=LOWEST)
    e_NV = d_NV.exp()
    s0_N = e_NV.sum(dim=1, dtype=torch.float64)
    de_NV = d_NV.mul_(e_NV)
    s1_N = de_NV.sum(dim=1, dtype=torch.float64)
    t1_N = de_NV.mul_(e_NV).sum(dim=1, dtype=torch.float64)
    t0_N = e_NV.square_().sum(dim=1, dtype=torch.float64)
    mu_N = s1_N / s0_N
    logprobs_N = dk_N - s0_N.log()
    s_star_N = logprobs_N.exp() * (dk_N.clamp(min=LOWEST) - mu_N)
    return BlockStatistics(
        logprobs_N.float(),
        (s0_N.log() - mu_N).float(),
        s_star_N.float(),
        ((t1_N - t0_N * mu_N) / s0_N.square()).float(),
        (t0_N / s0_N.square()).float(),
    )


def head_statistics(hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> BlockStatistics:
    """The statistics of any number of tokens, holding the logits of one block at a time.

    Args:
        hidden_ND: last hidden states at the positions that predict the tokens.
        head: the model's output layer.
        tokens_N: int64.
        temperature: of the sampling.
    """
    parts = [
        block_statistics(head(hidden), tokens, temperature)
        for hidden, tokens in zip(
            torch.split(hidden_ND, TOKENS_PER_BLOCK), torch.split(tokens_N, TOKENS_PER_BLOCK), strict=True
        )
    ]
    return BlockStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))


def token_logprobs(hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> Tensor:
    """log p of the tokens, `[N]` float32, differentiable; each block's logits are made again in the backward pass."""

    def block(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        d_NV = _shifted(head(hidden), temperature)
        return (d_NV.gather(1, tokens[:, None])[:, 0] - d_NV.logsumexp(dim=1),)

    return _in_blocks(block, hidden_ND, tokens_N)[0]


def token_logprobs_and_entropies(
    hidden_ND: Tensor, head: Head, tokens_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log p and H of the tokens, each `[N]` float32, both differentiable, as an entropy bonus needs them."""

    def block(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        d_NV = _shifted(head(hidden), temperature)
        log_z_N = d_NV.logsumexp(dim=1)
        p_NV = (d_NV - log_z_N[:, None]).exp()
        entropy_N = log_z_N - (p_NV * d_NV.clamp(min=LOWEST)).sum(dim=1)
        return d_NV.gather(1, tokens[:, None])[:, 0] - log_z_N, entropy_N

    logprobs_N, entropies_N = _in_blocks(block, hidden_ND, tokens_N)
    return logprobs_N, entropies_N


def _shifted(logits_NV: Tensor, temperature: float) -> Tensor:
    x_NV = logits_NV.float()
    return (x_NV - x_NV.detach().amax(dim=1, keepdim=True)) / temperature


def _in_blocks(
    block: Callable[[Tensor, Tensor], tuple[Tensor, ...]], hidden_ND: Tensor, tokens_N: Tensor
) -> list[Tensor]:
    pieces = zip(torch.split(hidden_ND, TOKENS_PER_BLOCK), torch.split(tokens_N, TOKENS_PER_BLOCK), strict=True)
    parts = [checkpoint(block, hidden, tokens, use_reentrant=False) for hidden, tokens in pieces]
    return [torch.cat(column) for column in zip(*parts, strict=True)]
