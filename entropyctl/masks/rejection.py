"""Rejection: drop tokens or responses on which trainer and sampling engine disagree (verl's rollout_rs)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from entropyctl.errors import UsageError, require
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._off_policy import clamped, of_log_ratio, row_means
from entropyctl.masks._runs import runs

# verl has no defaults; these are its documented presets. Elsewhere: 0.5 to 2 for a ratio, 0.01 for a divergence.
BOUNDS = {"seq_mean_k1": (0.999, 1.001)}
RATIO, DIVERGENCE = (0.5, 2.0), 0.01
ESTIMATORS: dict[str, Callable[[Array], Array]] = {
    "k1": lambda x: -x,
    "k2": lambda x: x**2 / 2,
    "k3": lambda x: np.expm1(x) - x,
}


def rejection(
    rollout_logprobs: Array,
    old_logprobs: Array,
    loss_mask: Array,
    row_of_token: Array,
    *,
    statistic: Literal[
        "token_k1",
        "token_k2",
        "token_k3",
        "seq_sum_k1",
        "seq_sum_k2",
        "seq_sum_k3",
        "seq_mean_k1",
        "seq_mean_k2",
        "seq_mean_k3",
        "seq_max_k2",
        "seq_max_k3",
    ] = "seq_sum_k1",
    low: float | None = None,
    high: float | None = None,
) -> Compiled:
    """Rejection: drop tokens or responses on which trainer and sampling engine disagree.

    x_t = log p_train - log p_rollout, within +-20;  k1 = -x,  k2 = x^2 / 2,  k3 = e^x - 1 - x
    keep_t = [ log(low) <= k1 <= log(high) ]  or  [ k2 <= high ]  or  [ k3 <= high ]

    of the token itself, or of the sum, the mean or the maximum over its response. A bound itself is kept. What is
    dropped leaves the loss's denominator. Several statistics are several masks in a pipe: a response stays or goes
    as a whole, so with seq_ statistics first and token_ ones last that is exactly verl's comma-separated list.

    Source: verl-project/verl, rollout correction (docs/algo/rollout_corr.md).

    Code: verl, rollout_corr_helper.py, rollout_rs (off by default; presets seq_sum_k1 0.5 to 2, seq_mean_k1 0.999
    to 1.001, seq_mean_k3 0.01).

    Where they differ: verl's documents call the bounds of k1 bounds of p_train / p_rollout. As k1 is -x, its code
    bounds p_rollout / p_train, and so does this: 0.1 to 1.2 keeps p_train / p_rollout from 0.833 to 10.

    Entropy: none by itself; it removes tokens that another distribution sampled.

    Shipped by: verl; AReaL has rejection sampling of its own.

    Verified: verl's numbers (reference fixture).

    Args:
        rollout_logprobs: `[N]` log p by the engine that sampled, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        loss_mask: `[N]` True where the token is counted.
        row_of_token: `[N]` the response of each token.
        statistic: what is tested, in verl's words.
        low: least p_rollout / p_train (k1 alone); default 1 / high where high is given, else 0.999 (seq_mean_k1) or
            0.5.
        high: largest p_rollout / p_train (k1), by default 1.001 (seq_mean_k1) or 2; or largest k2 or k3, nats, by
            default 0.01.

    Returns:
        The loss mask.

    Raises:
        UsageError: a bound is out of range, low above high, or low given for k2 or k3.
    """
    scope, _, estimator = statistic.rpartition("_")
    least, most = _bounds(statistic, low, high)
    valid_N = np.asarray(loss_mask, bool)
    k = ESTIMATORS[estimator]
    value = of_log_ratio(lambda x: k(clamped(x)), old_logprobs, rollout_logprobs, valid_N)
    of = runs(row_of_token)
    if scope == "seq_sum":
        value = of.sums(value)
    elif scope == "seq_mean":
        value = row_means(value, valid_N, of)
    elif scope == "seq_max":
        value = of.largest(value, 0.0)
    keep = (value >= least) & (value <= most)
    return removed(keep if scope == "token" else of.spread(keep), valid_N, counted=False)


def _bounds(statistic: str, low: float | None, high: float | None) -> tuple[float, float]:
    """The interval that a statistic may lie in."""
    if not statistic.endswith("k1"):
        if low is not None:
            raise UsageError(f"--low {low:g}: must be left out, {statistic} has an upper bound alone")
        high = DIVERGENCE if high is None else high
        require(0 <= high < math.inf, "--high", high, "be a finite number, 0 or above")
        return -math.inf, high
    least, most = BOUNDS.get(statistic, RATIO)
    if high is not None:
        require(0 < high < math.inf, "--high", high, "be a finite number above 0")
        least, most = 1 / high, high
    least = least if low is None else low
    require(0 < least < math.inf, "--low", least, "be a finite number above 0")
    if least > most:
        flag, value, rule = ("--low", least, "at most") if low is not None else ("--high", most, "at least")
        raise UsageError(f"{flag} {value:g}: must be {rule} the other bound ({most if low is not None else least:g})")
    return math.log(least), math.log(most)
