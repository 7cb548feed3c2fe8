"""Sampling mismatch: how far the engine that sampled lies from the policy that scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.dynamics.blocks import blocks

Array = npt.NDArray[Any]

# Log-ratios are counted within +-600: their exponentials, and sums of 10^47 of these, are still numbers.
LARGEST_LOG_RATIO = 600.0
# A confident disagreement: one side gives the token at least this log-probability, the other this much less.
CONFIDENT, FAR = float(np.log(0.5)), 2.0


class WeightSums(NamedTuple):
    """Importance weights w = e^x, added up in units of the largest, so that none overflows."""

    terms: int = 0
    largest: float = 0.0  # x of the largest
    total: float = 0.0  # sum of w
    squares: float = 0.0  # sum of w^2


class MismatchSums(NamedTuple):
    """What `mismatch` is made of. Those of several steps or shards go together by `pooled`."""

    tokens: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    k3: float = 0.0
    disagreeing: int = 0
    by_token: WeightSums = WeightSums()
    by_response: WeightSums = WeightSums()


class Mismatch(NamedTuple):
    """How far sampling and scoring lie apart, over the counted tokens."""

    tokens: int
    mean: float  # of |x|, nats
    max: float  # of |x|, nats
    k3: float  # nats
    ess: float  # in (0, 1], a fraction of the tokens
    sequence_ess: float  # in (0, 1], a fraction of the responses
    disagreeing_tokens: int
    disagreements: float  # the same as a fraction of the tokens


def mismatch(sums: MismatchSums) -> Mismatch | None:
    """How far the engine that sampled lies from the policy that scores, or None where no token was counted.

    x_t = log p_train - log p_rollout      of sampled tokens, nats
    k3  = mean_t(e^x - 1 - x)              an estimate of KL(rollout || train) without negative terms
    ESS = (sum w)^2 / (N sum w^2)          w_t = e^(x_t), N tokens; by response w_i = e^(sum_t x_t), N responses

    A confident disagreement is a token to which one side gives p >= 0.5, and the other less by more than 2 nats.

    Both sides must mean one distribution. Where sampling is truncated (top-p, top-k), log p_rollout is of the kept
    tokens alone and so the larger: there x <= 0 by construction, and all of this measures that too.

    Code: k3_kl and eff_sample_size of verl, rollout_corr_helper.py, which bounds x by +-20 where this bounds it by
    +-600; its ESS by response counts a response once for each token. The rule for disagreements is martingale's,
    which looks for the engine's confidence alone.

    Args:
        sums: of `mismatch_sums`, or of several of these, `pooled`.
    """
    n = sums.tokens
    if n == 0:
        return None
    return Mismatch(
        tokens=n,
        mean=sums.absolute / n,
        max=sums.largest,
        k3=sums.k3 / n,
        ess=_effective(sums.by_token),
        sequence_ess=_effective(sums.by_response),
        disagreeing_tokens=sums.disagreeing,
        disagreements=sums.disagreeing / n,
    )


def mismatch_sums(logprobs_N: Array, rollout_logprobs_N: Array, counted_N: Array, lengths_B: Array) -> MismatchSums:
    """The sums of a step, in float64, without a float64 copy of it.

    Args:
        logprobs_N: by the policy that scores, nats, in any floating type; responses behind one another.
        rollout_logprobs_N: by the engine that sampled.
        counted_N: bool, True where the policy chose the token.
        lengths_B: tokens of each response, counted or not.
    """
    ends_B = np.cumsum(lengths_B)
    x_B, some_B = np.zeros(len(lengths_B)), np.zeros(len(lengths_B), bool)
    sums = MismatchSums()
    for at in blocks(len(counted_N)):
        places_M = np.flatnonzero(counted_N[at])
        score_M = np.asarray(logprobs_N[at], np.float64)[places_M]
        rollout_M = np.asarray(rollout_logprobs_N[at], np.float64)[places_M]
        x_M = _log_ratio(score_M, rollout_M)
        sums = pooled(sums, _block(x_M, np.maximum(score_M, rollout_M)))
        row_M = np.searchsorted(ends_B, at.start + places_M, side="right")
        np.add.at(x_B, row_M, x_M)
        some_B[row_M] = True
    return sums._replace(by_response=_weights(x_B[some_B]))


def pooled(one: MismatchSums, other: MismatchSums) -> MismatchSums:
    """The sums of both."""
    return MismatchSums(
        one.tokens + other.tokens,
        one.absolute + other.absolute,
        max(one.largest, other.largest),
        one.k3 + other.k3,
        one.disagreeing + other.disagreeing,
        _together(one.by_token, other.by_token),
        _together(one.by_response, other.by_response),
    )


def _log_ratio(score_M: Array, rollout_M: Array) -> Array:
    with np.errstate(invalid="ignore"):  # both -inf: the two agree
        x_M = np.nan_to_num(score_M - rollout_M, posinf=np.inf, neginf=-np.inf)
    return x_M.clip(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def _block(x_M: Array, larger_M: Array) -> MismatchSums:
    """The sums of a block's counted tokens.

    Args:
        x_M: log-ratios.
        larger_M: the larger of each token's two log-probabilities.
    """
    distance_M = np.abs(x_M)
    return MismatchSums(
        len(x_M),
        float(distance_M.sum()),
        float(distance_M.max(initial=0.0)),
        float((np.expm1(x_M) - x_M).sum()),
        int(np.count_nonzero((distance_M > FAR) & (larger_M >= CONFIDENT))),
        _weights(x_M),
    )


def _weights(x_M: Array) -> WeightSums:
    if len(x_M) == 0:
        return WeightSums()
    largest = float(x_M.max())
    w_M = np.exp(x_M - largest)
    return WeightSums(len(x_M), largest, float(w_M.sum()), float(np.square(w_M).sum()))


def _together(one: WeightSums, other: WeightSums) -> WeightSums:
    if one.terms == 0 or other.terms == 0:
        return one if other.terms == 0 else other
    largest = max(one.largest, other.largest)
    a, b = (float(np.exp(sums.largest - largest)) for sums in (one, other))
    return WeightSums(
        one.terms + other.terms,
        largest,
        one.total * a + other.total * b,
        one.squares * a**2 + other.squares * b**2,
    )


def _effective(sums: WeightSums) -> float:
    return sums.total**2 / (sums.terms * sums.squares)
