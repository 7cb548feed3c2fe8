"""Importance correction: weigh tokens by p_train / p_rollout, truncated or masked (TIS, IcePop, MIS)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._off_policy import clamped, log_ratio, row_sums


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
    valid_N = np.asarray(loss_mask, bool)
    row_N = np.asarray(row_of_token)
    x = log_ratio(old_logprobs, rollout_logprobs, valid_N)
    by_row = (level or chosen.level) == "sequence"
    if by_row:
        x = row_sums(x, row_N, valid_N)
    rho = np.exp(clamped(x))
    w = rho.clip(low, high) if (mode or chosen.mode) == "truncate" else np.where((rho >= low) & (rho <= high), rho, 0)
    if normalise:
        counted = np.bincount(row_N[valid_N], minlength=len(w)) > 0 if by_row else valid_N
        mean = float(w[counted].mean()) if counted.any() else 0.0
        w = w / mean if mean > 1e-8 else w
    return Compiled(weights=np.where(valid_N, w[row_N] if by_row else w, 0.0))
