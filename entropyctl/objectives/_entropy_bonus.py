"""Coefficients of an entropy bonus that follow the entropy: Skywork-OR1's and TRL's.

The bonus is loss -= active * coef * mean entropy. Both rules move the coefficient by the entropy that was measured
last: Skywork-OR1's once a step, TRL's once an optimiser step. They differ in what they do at the target itself.
"""

from __future__ import annotations

import math

from entropyctl.errors import UsageError


def skywork(coef: float, entropy: float, target: float, delta: float, low: float, high: float) -> tuple[float, bool]:
    """Skywork-OR1: raise the coefficient while the entropy is below the target, else lower it.

    c' = clip(c + delta if H < target else c - delta, low, high);  active = [H < target]

    Paper: Skywork Open Reasoner 1, arXiv 2505.22312. Code: SkyworkAI/Skywork-OR1, EntController (scripts: start 0,
    target 0.2, delta 1e-4, low 0, high 5e-3; its configuration says delta 1e-3 and high 0.5). Their H is the mean of
    -log p over the sampled tokens. The bonus is active before anything was measured.

    Args:
        coef: the coefficient so far.
        entropy: mean entropy of the step's tokens, nats.
        target: entropy to hold, nats.
        delta: change of the coefficient per step.
        low: smallest coefficient.
        high: largest coefficient.

    Returns:
        The coefficient of this step, and whether it acts.

    Raises:
        UsageError: a number makes no sense.
    """
    return _follow(coef, entropy, entropy < target, (target, delta, low, high))


def trl(coef: float, entropy: float, target: float, delta: float, low: float, high: float) -> tuple[float, bool]:
    """TRL's use_adaptive_entropy: the same rule, with the target itself counted as below.

    c' = clip(c + delta if H <= target else c - delta, low, high);  active = [H <= target]

    Code: TRL, GRPOTrainer (target 0.2, delta 0.005, low 0, high 1). Its H is the exact mean token entropy over the
    accumulation window. The bonus is not active before anything was measured (the entropy is then taken as infinite).

    Args, returns and raises as `skywork`.
    """
    return _follow(coef, entropy, entropy <= target, (target, delta, low, high))


def _follow(coef: float, entropy: float, below: bool, rule: tuple[float, float, float, float]) -> tuple[float, bool]:
    target, delta, low, high = rule
    if not all(map(math.isfinite, (coef, *rule))) or delta < 0 or low > high or math.isnan(entropy):
        raise UsageError(
            f"an entropy bonus of {coef:g} for entropy {entropy:g}, target {target:g}, delta {delta:g} and bounds "
            f"{low:g} to {high:g} makes no sense; give finite numbers, delta 0 or above, and low below high"
        )
    return min(max(coef + delta if below else coef - delta, low), high), below
