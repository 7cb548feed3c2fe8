"""The sums from which the statistics of a token follow, taken tile by tile over the vocabulary.

With x the logits of a token's position, beta = 1 / temperature, m the largest logit so far and d = beta (x - m):

    s0 = sum e^d    s1 = sum d e^d    t0 = sum e^2d    t1 = sum d e^2d

Where a tile brings a larger logit m', the sums are made anew for it: with c = beta (m - m') and r = e^c,

    s1 <- r (s1 + c s0)    s0 <- r s0    t1 <- r^2 (t1 + c t0)    t0 <- r^2 t0

which is also how the sums of two parts of a vocabulary become those of both. `N` tokens, `V` columns of a tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# e^d below this counts as 0: it is 1e-19 of the largest term, and its square would be a denormal, which processors
# compute a hundred times slower.
LOWEST = -43.0
SMALLEST = 2.1e-19  # e^LOWEST
FARTHEST = -200.0  # keeps 0 * -inf from making NaN
KEYS_AT_ONCE = 2**20  # of 8 bytes
NONE_YET = torch.finfo(torch.float32).min  # below every logit but -inf


class BlockStatistics(NamedTuple):
    """Statistics of `N` tokens, each `[N]` float32; nats."""

    logprobs: Tensor
    entropies: Tensor
    s_star: Tensor
    expected_s: Tensor
    sum_p2: Tensor


class Sums(NamedTuple):
    """What is known of `N` tokens from the tiles seen so far; float64.

    Attributes:
        top: `[N]` the largest logit.
        sums: `[N, 4]` s0, s1, t0, t1.
        target: `[N]` the logit of the token, -inf until its tile has come.
    """

    top: Tensor
    sums: Tensor
    target: Tensor


class Top(NamedTuple):
    """The `K` likeliest tokens at `N` positions, likeliest first; of equal ones the lower token comes first.

    Attributes:
        tokens: `[N, K]` int64.
        logprobs: `[N, K]` float32, their log p.
    """

    tokens: Tensor
    logprobs: Tensor


class Pull(NamedTuple):
    """What the gradient at a token's logits follows from, each `[N]`.

    Attributes:
        top: float64, the largest logit.
        log_z: float32, log s0.
        entropy: float32, H.
        by_logprob: float32, the gradient at log p.
        by_entropy: float32, the gradient at H.
    """

    top: Tensor
    log_z: Tensor
    entropy: Tensor
    by_logprob: Tensor
    by_entropy: Tensor


def new_sums(count: int, device: torch.device) -> Sums:
    """The sums of `count` tokens before the first tile."""
    return Sums(
        torch.full((count,), NONE_YET, dtype=torch.float64, device=device),
        torch.zeros(count, 4, dtype=torch.float64, device=device),
        torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
    )


def rows_of(sums: Sums, start: int, end: int) -> Sums:
    """The sums of some tokens, as views."""
    return Sums(*(one[start:end] for one in sums))


def fold(x_NV: Tensor, token_N: Tensor, beta: float, sums: Sums) -> None:
    """Take a tile into the sums.

    Args:
        x_NV: float32 logits; is overwritten.
        token_N: int64, each token's column; outside of 0..V-1 where the token is not in this tile.
        beta: 1 / temperature.
        sums: is changed.
    """
    here_N = (token_N >= 0) & (token_N < x_NV.shape[1])
    found_N = x_NV.gather(1, token_N.clamp(0, x_NV.shape[1] - 1)[:, None])[:, 0]
    sums.target.copy_(torch.where(here_N, found_N.double(), sums.target))
    _raise_top(sums, torch.maximum(sums.top, x_NV.amax(dim=1).double()), beta)
    d_NV = x_NV.sub_(sums.top.float()[:, None]).mul_(beta).clamp_(min=FARTHEST)
    e_NV = torch.nn.functional.threshold(d_NV.exp(), SMALLEST, 0.0)
    sums.sums[:, 0] += e_NV.sum(dim=1)
    de_NV = d_NV.mul_(e_NV)
    sums.sums[:, 1] += de_NV.sum(dim=1)
    # Each row's product with itself, without a tile of squares.
    sums.sums[:, 2] += torch.linalg.vecdot(e_NV, e_NV)
    sums.sums[:, 3] += torch.linalg.vecdot(de_NV, e_NV)


def _raise_top(sums: Sums, top_N: Tensor, beta: float) -> None:
    c_N = ((sums.top - top_N) * beta).clamp_(min=FARTHEST)
    r_N = c_N.exp()
    s0, s1, t0, t1 = sums.sums.unbind(1)
    s1.copy_(r_N * (s1 + c_N * s0))
    s0.mul_(r_N)
    t1.copy_(r_N.square() * (t1 + c_N * t0))
    t0.mul_(r_N.square())
    sums.top.copy_(top_N)


def merge(first: Sums, second: Sums, beta: float) -> Sums:
    """The sums of a vocabulary of two parts, from those of each."""
    top_N = torch.maximum(first.top, second.top)
    parts = [Sums(*(one.clone() for one in part)) for part in (first, second)]
    for part in parts:
        _raise_top(part, top_N, beta)
    return Sums(top_N, parts[0].sums + parts[1].sums, torch.maximum(first.target, second.target))


def merge_over_processes(sums: Sums, beta: float, group: Any = None) -> Sums:
    """The sums of a vocabulary of which each process has a part; all processes of the group get them.

    Args:
        sums: of this process's part; is changed.
        beta: 1 / temperature.
        group: of torch.distributed; all processes by default.
    """
    from torch.distributed import ReduceOp, all_reduce

    top_N = sums.top.clone()
    all_reduce(top_N, ReduceOp.MAX, group)
    _raise_top(sums, top_N, beta)
    all_reduce(sums.sums, ReduceOp.SUM, group)
    all_reduce(sums.target, ReduceOp.MAX, group)
    return sums


def statistics(sums: Sums, beta: float) -> BlockStatistics:
    """The five statistics, once every tile has been seen.

        mu = s1 / s0            log p_k = d_k - log s0      H = log s0 - mu
        sum p^2 = t0 / s0^2     E[S] = (t1 - t0 mu) / s0^2  S* = p_k (d_k - mu)

    in which log Z has cancelled from S* and E[S]. 0 log 0 counts as 0, so logits of -inf are allowed.

    Returns:
        log p_k, H, S*, E[S] and sum p^2. log p_k is -inf (and S* is 0) where the token's logit is.
    """
    s0_N, s1_N, t0_N, t1_N = sums.sums.unbind(1)
    mu_N = s1_N / s0_N
    d_N = (sums.target - sums.top) * beta
    logprobs_N = d_N - s0_N.log()
    s_star_N = logprobs_N.exp() * (d_N.clamp(min=FARTHEST) - mu_N)
    return BlockStatistics(
        logprobs_N.float(),
        (s0_N.log() - mu_N).float(),
        s_star_N.float(),
        ((t1_N - t0_N * mu_N) / s0_N.square()).float(),
        (t0_N / s0_N.square()).float(),
    )


def no_keys(count: int, k: int, device: torch.device) -> Tensor:
    """The keys of `count` tokens' `k` largest logits before the first tile, `[count, k]` int64: below all others."""
    return torch.full((count, k), torch.iinfo(torch.int64).min, device=device)


def rank(x_NV: Tensor, left: int, keys_NK: Tensor) -> None:
    """Take a tile into the keys of the largest logits.

    A key has the logit's bits, such that they ascend with it, in its upper half and the token in its lower, counted
    down: so no two are equal, and the K largest of all tiles are the K largest of each, whatever their order.

    Args:
        x_NV: float32 logits.
        left: the tile's first column.
        keys_NK: descending in each row; is changed.
    """
    column_V = torch.arange(left, left + x_NV.shape[1], device=x_NV.device)
    rows = max(KEYS_AT_ONCE // max(x_NV.shape[1], 1), 1)
    for x_RV, keys_RK in zip(torch.split(x_NV, rows), torch.split(keys_NK, rows), strict=True):
        bits_RV = (x_RV + 0.0).view(torch.int32)  # -0 is 0
        bits_RV ^= (bits_RV >> 31) & 0x7FFFFFFF
        found_RV = (bits_RV.long() << 32).add_(0xFFFFFFFF - column_V)
        torch.topk(torch.cat([keys_RK, found_RV], dim=1), keys_RK.shape[1], out=(keys_RK, torch.empty_like(keys_RK)))


def top(keys_NK: Tensor, sums: Sums, beta: float) -> Top:
    """The likeliest tokens, once every tile has been seen."""
    bits_NK = (keys_NK >> 32).int()
    logits_NK = (bits_NK ^ ((bits_NK >> 31) & 0x7FFFFFFF)).view(torch.float32)
    d_NK = (logits_NK.double() - sums.top[:, None]) * beta
    return Top(0xFFFFFFFF - (keys_NK & 0xFFFFFFFF), (d_NK - sums.sums[:, :1].log()).float())


def pull(x_NV: Tensor, token_N: Tensor, beta: float, given: Pull) -> None:
    """Turn a tile of logits into the gradient of sum_N (by_logprob log p + by_entropy H) at them.

        d log p_k / d x_j = beta (1[j = k] - p_j)      d H / d x_j = -beta p_j (log p_j + H)

    Args:
        x_NV: float32 logits; becomes the gradient.
        token_N: int64, each token's column; outside of 0..V-1 where the token is not in this tile.
        beta: 1 / temperature.
        given: of the tokens.
    """
    log_p_NV = x_NV.sub_(given.top.float()[:, None]).mul_(beta).sub_(given.log_z[:, None]).clamp_(min=FARTHEST)
    p_NV = torch.nn.functional.threshold(log_p_NV.exp(), SMALLEST, 0.0)
    factor_NV = log_p_NV.add_(given.entropy[:, None]).mul_(-beta * given.by_entropy[:, None])
    factor_NV.sub_(beta * given.by_logprob[:, None]).mul_(p_NV)
    here_N = (token_N >= 0) & (token_N < x_NV.shape[1])
    at_N1 = token_N.clamp(0, x_NV.shape[1] - 1)[:, None]
    x_NV.scatter_add_(1, at_N1, torch.where(here_N, beta * given.by_logprob, 0.0)[:, None])
