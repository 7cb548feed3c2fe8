"""EntroPIC: a PI controller steers high-probability tokens towards a target entropy (2511.15248)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from entropyctl.errors import require
from entropyctl.masks._blocks import float_type, in_blocks, mean
from entropyctl.masks._compiled import Array, Compiled
from entropyctl.masks._select import counted


def entropic(
    entropies: Array,
    advantages: Array,
    logprobs: Array,
    loss_mask: Array,
    state: dict[str, float],
    *,
    target: float = 0.1,
    k_p: float = 1.0,
    k_i: float = 0.01,
    high_prob: float = 0.95,
    anti_windup: bool = False,
    variant: Literal["authors", "plain"] = "authors",
) -> Compiled:
    """EntroPIC: a PI controller steers high-probability tokens towards a target entropy.

    alpha = clip(k_i E + k_p (mean(H) - target), -1, 1),  then E grows by mean(H) - target
    w_t = 1 + alpha (N / N_hp) sign(A_t) where p_t > high_prob, 1 elsewhere

    N tokens are counted, N_hp of them have p above high_prob, and E, the sum of the errors of all steps before, is
    what the method remembers. The code adds a term alpha (1 / N_hp) sum(-r |A|) over the high-probability tokens to
    PPO's loss; under the token mean, these weights have its gradient as long as PPO does not clip. They scale PPO's
    clipped loss, whereas the code's term is never clipped, so tokens that PPO clips feel it there and not here.

    Paper: EntroPIC: Towards Stable Long-Term Training of LLMs via Entropy Stabilization with Proportional-Integral
    Control, arXiv 2511.15248.

    Code: yk7333/EntroPIC (it ships with target -1, which means off; its runs use 0.1, and k_p 1, k_i 0.01,
    high_prob 0.95). The code integrates each micro-batch on its own worker; here all tokens of a call are one error.

    Where they differ: the code normalises its extra term by the high-probability tokens alone, so N / N_hp multiplies
    alpha (variant authors). Variant plain normalises it over all counted tokens: w_t = 1 + alpha sign(A_t). The code
    clips alpha and never clamps E. With a target of 0 the code stops with an error; here it is a target as any
    other. A background article writes the error with the opposite sign; the code's is entropy minus target.

    Entropy: above the target, right answers' likely tokens are pushed up and wrong answers' less down, which lowers
    it; below the target the reverse, which raises it.

    Shipped by: none of the peers.

    Verified: the controller's trace in the reference, and a float64 reference of the code's loss for the gradient.

    Args:
        entropies: `[N]` H, nats.
        advantages: `[N]` A.
        logprobs: `[N]` log p, nats.
        loss_mask: `[N]` True where the token is counted.
        state: `integral`, E after the step before, nats; 0 where it has none.
        target: entropy to hold, nats per token.
        k_p: gain of the error, per nat.
        k_i: gain of its sum, per nat.
        high_prob: probability above which a token is steered.
        anti_windup: leave E as it is while alpha is saturated and the error would saturate it more (no code has this).
        variant: the extra term's mean over high-probability tokens (authors) or over all counted ones (plain).

    Returns:
        Weights, which may be negative: alpha N / N_hp has no bound, and such a token is pushed against its advantage,
        as in the code. The state after this step; with no token counted, as it was.

    Raises:
        UsageError: the target or a gain is negative or not finite, or high_prob outside [0, 1].
    """
    for flag, value in (("--target", target), ("--k-p", k_p), ("--k-i", k_i)):
        require(0 <= value < math.inf, flag, value, "be a finite number, 0 or above")
    require(0 <= high_prob <= 1, "--high-prob", high_prob, "lie in [0, 1]")
    valid_N = np.asarray(loss_mask, bool)
    integral = state.get("integral", 0.0)
    if not valid_N.any():
        return Compiled(weights=np.ones(len(valid_N), np.float32), state={"integral": integral})
    (entropies_M,) = counted(valid_N, entropies)
    error = mean(entropies_M) - target
    wanted = k_i * integral + k_p * error
    alpha = min(max(wanted, -1.0), 1.0)
    # Rounding may leave a log-probability a little above 0, where no probability is above 1.
    bound = math.log(high_prob) if high_prob > 0 else -math.inf
    high_N = valid_N & in_blocks(lambda logp: np.minimum(logp, 0) > bound, logprobs, dtype=np.bool_)
    scale = len(entropies_M) / max(int(np.count_nonzero(high_N)), 1) if variant == "authors" else 1.0
    kind = float_type(advantages, entropies)
    weights_N = in_blocks(lambda high, A: 1 + high * (alpha * scale) * np.sign(A), high_N, advantages, dtype=kind)
    saturated = anti_windup and wanted != alpha and wanted * error > 0
    return Compiled(weights=weights_N, state={"integral": integral if saturated else integral + error})
