"""Estimators of KL(policy || anchor) from the sampled token alone."""

from __future__ import annotations

from torch import Tensor

from entropyctl.errors import UsageError

ESTIMATORS = ("k1", "k2", "k3", "abs", "k1+", "k2+", "k3+", "abs+")


def kl_penalty(logprobs: Tensor, anchor_logprobs: Tensor, estimator: str) -> Tensor:
    """One token's estimate of KL(policy || anchor), with delta = log p - log p_anchor.

    The expectation over tokens drawn from the policy itself is the divergence (of k2 to second order); for tokens
    drawn from the anchor exchange the two, which estimates KL(anchor || policy).

    k1 = delta;  k2 = delta^2 / 2;  k3 = e^-delta + delta - 1;  abs = |delta|
    (Schulman, "Approximating KL divergence", 2020; verl kl_penalty, whose clamps at 20 and 10 are kept.)

    With a `+` behind it an estimator keeps its value and has the gradient of k2, delta, whose expectation under the
    policy is the divergence's gradient; that of k1 is 0 and that of k3 is of the reverse divergence. k2+ is k2.

    Args:
        logprobs: `[N]` log p under the policy that is trained, nats.
        anchor_logprobs: `[N]` log p under the policy to stay near.
        estimator: one of `ESTIMATORS`.

    Returns:
        `[N]` the penalty.

    Raises:
        UsageError: no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise UsageError(f"--kl: there is no estimator '{estimator}'; known: {', '.join(ESTIMATORS)}")
    delta_N = logprobs - anchor_logprobs
    value_N = _value(delta_N, estimator.removesuffix("+"))
    if not estimator.endswith("+"):
        return value_N
    k2_N = _value(delta_N, "k2")
    return value_N.detach() + (k2_N - k2_N.detach())


def _value(delta_N: Tensor, estimator: str) -> Tensor:
    if estimator == "k1":
        return delta_N
    if estimator == "k2":
        return 0.5 * delta_N.square()
    if estimator == "abs":
        return delta_N.abs()
    x_N = (-delta_N).clamp(-20.0, 20.0)
    return (x_N.exp() - x_N - 1.0).clamp(-10.0, 10.0)
