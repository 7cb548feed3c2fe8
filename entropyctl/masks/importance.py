"""Importance correction: weigh tokens by p_train / p_rollout, truncated or masked (TIS, IcePop, MIS)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import float_type, mean
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._off_policy import clamped, of_log_ratio
from entropyctl.masks._runs import runs


class Preset(NamedTuple):
    """What a name of the field stands for."""

    level: str
    mode: str
    low: float
    high: float


PRESETS = {
    "tis": Preset("token", "truncate", 0.0, 2.0),
    "tis-sequence": Preset("sequence", "truncate", 0.0, 2.0),
    "icepop": Preset("token", "mask", 0.5, 5.0),
    "trl": Preset("sequence", "mask", 0.0, 3.0),
}


def importance(
    rollout_logprobs: Array,
    old_logprobs: Array,
    loss_mask: Array,
    row_of_token: Array,
    *,
    preset: Literal["tis", "tis-sequence", "icepop", "trl"] = "tis",
    level: Literal["token", "sequence"] | None = None,
    mode: Literal["truncate", "mask"] | None = None,
    low: float | None = None,
    high: float | None = None,
    normalise: bool = False,
) -> Compiled:
    """Importance correction: weigh tokens by p_train / p_rollout, truncated or masked.

    rho_t = exp(x_t),  x_t = log p_train - log p_rollout;  at sequence level rho_i = exp(sum_t x_t)
    truncate:  w_t = min(max(rho, low), high)
    mask:      w_t = rho where low <= rho <= high, else 0

    p_train is of the policy that the step started from, so that the weight stays what it is while PPO's own ratio
    moves: on a file its log-probabilities are those of `score`. Masked tokens stay in the loss's denominator.
    Exponents x are clamped to +-20. Presets fill level, mode, low and high; a flag that is given goes before them:
      tis           token, truncate, high 2        verl's decoupled token TIS
      tis-sequence  sequence, truncate, high 2     verl's decoupled sequence TIS
      icepop        token, mask, 0.5 to 5          IcePop, as verl presets it ("0.5_5.0")
      trl           sequence, mask, high 3         TRL's default, sequence_mask (masked importance sampling, MIS)

    Paper: Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale Thinking Model, arXiv 2510.18855
    (IcePop). Truncation is of Yao et al., Your efficient RL framework secretly brings you off-policy RL training,
    a note of 2025.

    Code: verl, compute_rollout_correction_weights (off by default; threshold 2.0); TRL, GRPOTrainer
    (sequence_mask, cap 3.0).

    Where they differ: TRL does not clamp exponents, and truncates from below too where it is given a lower bound;
    verl's truncation has none. verl's configuration class says sequence, its YAML says off.

    Entropy: none by itself; it removes the bias of training on tokens that another distribution sampled.

    Shipped by: verl, TRL, NeMo-RL, slime, OpenRLHF (icepop).

    Verified: verl's numbers (reference fixture).

    Args:
        rollout_logprobs: `[N]` log p by the engine that sampled, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        loss_mask: `[N]` True where the token is counted.
        row_of_token: `[N]` the response of each token.
        preset: a setting by the field's name.
        level: one ratio per token, or the product over a response for all its tokens.
        mode: what happens to a ratio beyond the bounds.
        low: least ratio.
        high: largest ratio.
        normalise: divide by the mean weight, of tokens or (at sequence level) of responses, as
            rollout_is_batch_normalize does; skipped where that mean is below 1e-8.

    Returns:
        Weights; 0 where the token is not counted.

    Raises:
        UsageError: a bound is negative or not finite, or low above high.
    """
    chosen = PRESETS[preset]
    low = chosen.low if low is None else low
    high = chosen.high if high is None else high
    require(0 <= low < math.inf, "--low", low, "be a finite number, 0 or above")
    require(low <= high < math.inf, "--high", high, f"be a finite number, at least the lower bound ({low:g})")
    truncates, by_row = (mode or chosen.mode) == "truncate", (level or chosen.level) == "sequence"
    valid_N = np.asarray(loss_mask, bool)

    def weight(x: Array) -> Array:
        rho = np.exp(clamped(x))
        return rho.clip(low, high) if truncates else rho * ((rho >= low) & (rho <= high))

    if by_row:
        of = runs(row_of_token)
        x_B = of.sums(of_log_ratio(lambda x: x, old_logprobs, rollout_logprobs, valid_N))
        w, some = weight(x_B), of.counts(valid_N) > 0
    else:
        kind = float_type(old_logprobs, rollout_logprobs)
        w, some = of_log_ratio(weight, old_logprobs, rollout_logprobs, valid_N, kind), valid_N
    if normalise and (average := mean(w, some)) > 1e-8:
        w = w / average
    return Compiled(weights=of.spread(w) * valid_N if by_row else w)
