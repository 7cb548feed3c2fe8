"""Entropy budget: drop the tokens that meet a target entropy change at the least loss of advantage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from entropyctl.dynamics import calibrated, predicted_change
from entropyctl.dynamics.blocks import blocks
from entropyctl.errors import UsageError, require
from entropyctl.masks._blocks import float_type, mean
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._ratio import ratios
from entropyctl.masks._select import LONG, STRIDE, counted, spread


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
    A, S, ES, v, H = counted(valid_N, advantages, s_star, expected_s, weights, entropies)
    r = ratios(*counted(valid_N, logprobs, old_logprobs))
    tokens = _Tokens(A, S, ES, v, r, eta=calibrated(history) if eta is None else eta)
    if target_entropy is not None:
        wanted -= mean(H)
    gap = wanted * len(A) - sum(float(tokens.part(at).change().sum()) for at in blocks(len(A)))
    return Compiled(weights=spread(_cheapest(tokens, gap), valid_N, 1.0))


class _Tokens(NamedTuple):
    """What the predicted changes of `M` tokens are made of."""

    A: Array
    S: Array
    ES: Array
    v: Array
    r: Array
    eta: float

    def part(self, at: slice | Array) -> _Tokens:
        """Some of them, in float64."""
        A, S, ES, v, r = (np.asarray(column_M[at], np.float64) for column_M in self[:5])
        return _Tokens(A, S, ES, v, r, self.eta)

    def change(self) -> Array:
        """dH, nats."""
        return predicted_change(self.A, self.S, self.ES, weights_N=self.v, ratios_N=self.r, eta=self.eta)

    def level(self) -> Array:
        """|dH| / |v A|, nats; computed without the division, so that equal tokens are exactly equal."""
        return np.abs(predicted_change(1.0, self.S, self.ES, ratios_N=self.r, eta=self.eta))


def _target(target_change: float | None, target_entropy: float | None) -> float:
    if target_entropy is None:
        target_change = 0.0 if target_change is None else target_change
        require(math.isfinite(target_change), "--target-change", target_change, "be a finite number")
        return target_change
    require(0 <= target_entropy < math.inf, "--target-entropy", target_entropy, "be a finite number, 0 or above")
    if target_change is not None:
        raise UsageError(f"--target-entropy {target_entropy:g}: must stand alone; leave --target-change out")
    return target_entropy


def _cheapest(tokens: _Tokens, gap: float) -> Array:
    """Weights that add `gap` to the sum of the changes by dropping the tokens with the largest |dH| / |v A|.

    Args:
        tokens: all that are counted.
        gap: what the sum is to grow by, nats; negative to shrink.
    """
    weights: Array = np.ones(len(tokens.A), float_type(tokens.A, tokens.S))
    if not gap:
        return weights
    least, most = _bracket(tokens, gap)
    wrong, level, gain = _against(tokens, gap, least)
    if gain[level > most].sum() > abs(gap) or (least > 0 and gain.sum() < abs(gap)):  # the sample misled
        most, (wrong, level, gain) = math.inf, _against(tokens, gap, 0.0)
    gone, near = level > most, level <= most
    weights[wrong[gone]] = 0.0
    _, place = np.unique(-level[near], return_inverse=True)
    gain_of_place = np.bincount(place, gain[near])
    before = gain[gone].sum() + np.cumsum(gain_of_place) - gain_of_place
    share = ((abs(gap) - before) / gain_of_place).clip(0, 1)
    weights[wrong[near]] = 1 - share.round(12)[place]  # rounding in the sums must not leave 1e-16 of a token
    return weights


def _against(tokens: _Tokens, gap: float, least: float) -> tuple[Array, Array, Array]:
    """Places, levels and |dH| of the tokens whose change is of the other sign than `gap`, from a level up."""
    places = [np.zeros(0, np.int64)]
    for at in blocks(len(tokens.A)):
        part = tokens.part(at)
        wrong = part.change() < 0 if gap > 0 else part.change() > 0
        places.append(np.flatnonzero(wrong & (part.level() >= least)) + at.start)
    found = np.concatenate(places)
    chosen = tokens.part(found)
    return found, chosen.level(), np.abs(chosen.change())


def _bracket(tokens: _Tokens, gap: float) -> tuple[float, float]:
    """Two levels between which the gains from the top add up to `gap`, by a sample; all levels of a short array.

    Only tokens between the two need sorting: one above both is dropped whatever the others are, one below is not.
    """
    if len(tokens.A) < LONG:
        return 0.0, math.inf
    _, level, gain = _against(tokens.part(slice(None, None, STRIDE)), gap, 0.0)
    order = np.argsort(-level)
    place = int(np.searchsorted(np.cumsum(gain[order]) * STRIDE, abs(gap)))
    slack = int(8 * math.sqrt(place)) + 8
    most = float(level[order[place - slack]]) if place >= slack else math.inf
    least = float(level[order[place + slack]]) if place + slack < len(order) else 0.0
    return least, most
