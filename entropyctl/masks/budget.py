"""Entropy budget: drop the tokens that meet a target entropy change at the least loss of advantage."""

from __future__ import annotations

import math

import numpy as np

from entropyctl.dynamics import calibrated, predicted_change
from entropyctl.errors import UsageError, require
from entropyctl.masks._compiled import Array, Compiled


def budget(
    s_star: Array,
    expected_s: Array,
    advantages: Array,
    logprobs: Array,
    old_logprobs: Array,
    entropies: Array,
    weights: Array,
    loss_mask: Array,
    history: dict[str, Array],
    *,
    target_change: float | None = None,
    target_entropy: float | None = None,
    eta: float | None = None,
) -> Compiled:
    """Entropy budget: drop the tokens that meet a target entropy change at the least loss of advantage.

    maximise sum_t w_t |v_t A_t|  subject to  (1/N) sum_t w_t dH_t = target,  0 <= w_t <= 1
    dH_t = -eta v_t r_t A_t (S*_t - E[S]_t),  v_t = the weight of the masks that ran before, 1 without any

    where removing tokens can reach the target. A token gives |dH| and costs |v A|, so the optimum is a threshold on
    |dH| / |v A| = eta r |S* - E[S]|. Predicted below the target, tokens that lower the entropy go, the largest
    first: w_t = 0 above the threshold, 1 below. Predicted above it, tokens that raise the entropy go instead. The
    tokens at the threshold share the fraction that meets the target exactly. Tokens with A = 0 stay; all stay in the
    loss's denominator. In a pipe of masks this is the last: it meets the target for what those before it left.

    Removing tokens cannot turn a fall into a rise of any size: where the target lies beyond what is left when all
    tokens of the wrong direction are gone, exactly those go, which comes nearest to it.

    Source: entropyctl's own; the prediction is Theorem 3.3 of Entropy dynamics in RL fine-tuning, arXiv 2602.03392.

    Entropy: ends where the target says, as far as the prediction holds.

    Shipped by: none of the peers.

    Verified: a linear-programming solver (HiGHS).

    Args:
        s_star: `[N]` S* of the tokens, nats.
        expected_s: `[N]` E[S], nats.
        advantages: `[N]` A.
        logprobs: `[N]` log p of the current policy, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats; their difference is log r.
        entropies: `[N]` H, nats.
        weights: `[N]` v, what the masks that ran before made of the token's gradient.
        loss_mask: `[N]` True where the token is counted.
        history: metrics of earlier steps: predicted_change, realised_change, learning_rate.
        target_change: mean predicted change per counted token to end at, nats, at the step size eta; default 0,
            entropy is held.
        target_entropy: mean entropy to end at instead, nats; the change wanted is its distance from mean(H).
        eta: step size on the logits. When not given: the latest learning rate times the slope, by least squares
            through the origin, of realised on predicted changes in the history (which were predicted with
            eta = learning rate); the learning rate itself where that slope is not above 0, 1 without a history.

    Returns:
        Weights in [0, 1].

    Raises:
        UsageError: a target or eta is not finite or out of range, or both targets are given.
    """
    wanted = _target(target_change, target_entropy)
    if eta is not None:
        require(0 < eta < math.inf, "--eta", eta, "be a finite number above 0")
    valid_N = np.asarray(loss_mask, bool)
    S, ES, A, logp, old_logp, H, v = (
        np.asarray(part_N, np.float64)[valid_N]
        for part_N in (s_star, expected_s, advantages, logprobs, old_logprobs, entropies, weights)
    )
    weights_N = np.ones(len(valid_N))
    if not len(A):
        return Compiled(weights=weights_N)
    r = np.exp((logp - old_logp).clip(-20, 20))
    step = calibrated(history) if eta is None else eta
    per_advantage = predicted_change(np.ones(len(A)), S, ES, ratios_N=r, eta=step)
    change = v * A * per_advantage
    if target_entropy is not None:
        wanted -= float(H.mean())
    weights_N[valid_N] = _cheapest(change, np.abs(per_advantage), wanted * len(A) - float(change.sum()))
    return Compiled(weights=weights_N)


def _target(target_change: float | None, target_entropy: float | None) -> float:
    if target_entropy is None:
        target_change = 0.0 if target_change is None else target_change
        require(math.isfinite(target_change), "--target-change", target_change, "be a finite number")
        return target_change
    require(0 <= target_entropy < math.inf, "--target-entropy", target_entropy, "be a finite number, 0 or above")
    if target_change is not None:
        raise UsageError(f"--target-entropy {target_entropy:g}: must stand alone; leave --target-change out")
    return target_entropy


def _cheapest(change: Array, ratio: Array, gap: float) -> Array:
    """Weights that add `gap` to the sum of the changes by dropping the tokens with the largest |change| / |v A|.

    Args:
        change: predicted change of each token, nats.
        ratio: |change| / |v A|, nats; computed without the division, so that equal tokens are exactly equal.
        gap: what the sum is to grow by; negative to shrink.
    """
    weights = np.ones(len(change))
    wrong = np.sign(change) == -np.sign(gap) if gap else np.zeros(len(change), bool)
    _, level = np.unique(-ratio[wrong], return_inverse=True)
    gain = np.bincount(level, np.abs(change[wrong]))
    before = np.cumsum(gain) - gain
    share = ((abs(gap) - before) / gain).clip(0, 1).round(12)  # rounding in the sums must not leave 1e-16 of a token
    weights[wrong] = 1 - share[level]
    return weights
