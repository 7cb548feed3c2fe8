"""Off-policy sequence mask: drop bad responses that the policy has moved away from (2512.02556)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._off_policy import of_log_ratio, row_means
from entropyctl.masks._runs import runs


def sequence(
    rollout_logprobs: Array,
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    loss_mask: Array,
    row_of_token: Array,
    *,
    delta: float = 0.1,
    anchor: Literal["rollout", "old"] = "rollout",
) -> Compiled:
    """Off-policy sequence mask: drop bad responses that the policy has moved away from.

    keep_t = 0 where A_t < 0 and (1/|o_i|) sum_t log(p_anchor / p_current) > delta,  else 1

    The mean is over the counted tokens of the response. What is dropped stays in the loss's denominator.

    Paper: DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models, arXiv 2512.02556 (it names no number for
    delta).

    Code: none of the authors; Trinity-RFT (delta 0.1), TRL (off_policy_mask_threshold, off by default) and slime
    (opsm_delta 1e-4).

    Where they differ: the frameworks differ in delta, by a factor of 1000, and in what they compare with: the paper
    and TRL with the probabilities of the engine that sampled (anchor rollout, the default), Trinity-RFT and slime with
    those of the trainer at the step's start (anchor old), which differ from the current ones from the second mini-batch
    on: run it as `update --mask live`.

    Entropy: no fixed direction; it removes pushes against responses that have become unlikely, where a push spreads
    probability over everything else.

    Shipped by: TRL, Trinity-RFT, slime.

    Verified: a float64 reference written from the formula.

    Args:
        rollout_logprobs: `[N]` log p by the engine that sampled, nats.
        logprobs: `[N]` log p of the current policy, nats.
        old_logprobs: `[N]` log p of the policy that the step started from, nats.
        advantages: `[N]` A.
        loss_mask: `[N]` True where the token is counted.
        row_of_token: `[N]` the response of each token.
        delta: largest mean log-ratio that a response with A < 0 may have, nats per token.
        anchor: what the current policy is compared with, the engine that sampled or the policy at the step's start.

    Returns:
        Weights, 0 for what is dropped.

    Raises:
        UsageError: delta is negative or not finite.
    """
    require(0 <= delta < math.inf, "--delta", delta, "be a finite number, 0 or above")
    valid_N = np.asarray(loss_mask, bool)
    of = runs(row_of_token)
    anchors = rollout_logprobs if anchor == "rollout" else old_logprobs
    drift_N = of_log_ratio(lambda x: x, anchors, logprobs, valid_N)
    gone_B = row_means(drift_N, valid_N, of) > delta
    drop_N = valid_N & np.less(advantages, 0) & of.spread(gone_B)
    return removed(~drop_N, valid_N, counted=True)
