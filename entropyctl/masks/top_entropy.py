"""Top-entropy: the policy gradient of the fraction of tokens with the highest entropy alone, "80/20" (2506.01939)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._compiled import Array, Compiled, removed
from entropyctl.masks._select import counted, highest, quantile, spread


def top_entropy(
    entropies: Array,
    loss_mask: Array,
    token_key: Array,
    *,
    fraction: float = 0.2,
    variant: Literal["authors", "trl"] = "authors",
) -> Compiled:
    """Top-entropy: the policy gradient of the fraction of tokens with the highest entropy alone, "80/20".

    keep_t = [ H_t >= tau ],  with tau such that a fraction rho of the N counted tokens of the step is kept.
    authors: the max(1, int(rho N + 0.9999)) tokens of highest H.  trl: tau is the (1 - rho)-quantile of H.

    Paper: Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM
    Reasoning, arXiv 2506.01939.

    Code: Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR (rho 0.2); TRL, GRPOTrainer.get_high_entropy_mask
    (top_entropy_quantile, off by default).

    Where they differ: the authors' code (variant authors, the default) divides the loss by the tokens that it keeps.
    Its gradient is 1/rho times that of the paper and of TRL (variant trl), which divide by all tokens. The code
    ranks within a micro-batch, TRL over all ranks, the paper over the batch; here over the step, or over the mini-batch
    under `update --mask live`. The code keeps an exact number of tokens; TRL interpolates the quantile linearly and
    keeps all ties. Both penalise the distance from the reference on every token, removed ones too, and the authors'
    entropy bonus is on every token as well, TRL's on the kept ones. Here removed tokens keep penalties and bonus in
    variant trl, and leave the loss with them in variant authors.

    Entropy: the changes that low-entropy tokens make to it, of either sign, do not happen.

    Shipped by: TRL.

    Verified: a float64 reference written from the formula, and the reference numbers of both codes on small cases.

    Args:
        entropies: `[N]` H of the current policy, nats.
        loss_mask: `[N]` True where the token is counted.
        token_key: `[N]` uint64, the token's identity; it decides between equal entropies (authors).
        fraction: rho, the fraction of tokens to keep.
        variant: the authors' code or TRL's.

    Returns:
        A smaller loss mask (authors), or weights of 0 on the tokens removed (trl).

    Raises:
        UsageError: the fraction is not in [0, 1].
    """
    require(0 <= fraction <= 1, "--fraction", fraction, "lie in [0, 1]")
    valid_N = np.asarray(loss_mask, bool)
    entropies_M, key_M = counted(valid_N, entropies, token_key)
    keep_M = np.ones(len(entropies_M), bool)
    if variant == "authors":
        count = max(1, int(len(entropies_M) * fraction + 0.9999))
        keep_M = highest(entropies_M, key_M, count)
    elif len(entropies_M):
        keep_M = entropies_M >= np.float64(quantile(entropies_M, 1 - fraction))
    return removed(spread(keep_M, valid_N, True), valid_N, counted=variant == "trl")
