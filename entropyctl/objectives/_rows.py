"""Means over the tokens of a response, for the objectives that look at whole responses."""

from __future__ import annotations

import torch
from torch import Tensor


def row_mean(values_N: Tensor, row_of_token: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """At each token: the mean over the counted tokens of its row, and their number.

    The mean's gradient at a token is the token's own, as if the mean were that token's value: the coefficients of a
    reduction, 1/L for each of L tokens, make the mean's gradient of it (GSPO's token form). Sums are float64, so
    that long rows lose nothing and atomic additions on a GPU come out alike.

    Args:
        values_N: per token; what stands outside the loss mask has no influence, not even NaN.
        row_of_token: int64 number of each token's row.
        loss_mask: bool, which tokens are counted.

    Returns:
        `[N]` means, 0 in a row without a counted token; `[N]` counts, at least 1.
    """
    own_N = torch.where(loss_mask, values_N, 0.0)
    rows = int(row_of_token.max()) + 1 if len(row_of_token) else 0
    zero_B = torch.zeros(rows, dtype=torch.float64, device=values_N.device)
    sum_B = zero_B.index_add(0, row_of_token, own_N.detach().double())
    count_B = zero_B.index_add(0, row_of_token, loss_mask.double()).clamp(min=1.0)
    mean_N = (sum_B / count_B)[row_of_token].to(own_N.dtype)
    return mean_N + (own_N - own_N.detach()), count_B[row_of_token].to(own_N.dtype)
