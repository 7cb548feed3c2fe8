"""REINFORCE++: discounted returns, whitened over all tokens of the step (2501.03262)."""

from __future__ import annotations

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerToken
from entropyctl.advantages._returns_to_go import returns_to_go
from entropyctl.advantages._whiten import whiten
from entropyctl.errors import UsageError


def reinforce_plus_plus(token_rewards: Array, row_of_token: Array, loss_mask: Array, *, gamma: float = 1.0) -> PerToken:
    """REINFORCE++: discounted returns, whitened over all tokens of the step.

    A_t = (G_t - mean) / sqrt(var + 1e-8),  G_t = r_t + gamma G_{t+1},
    mean and unbiased variance over the counted tokens of the step.

    Paper: REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization,
    arXiv 2501.03262.

    Code: verl, compute_reinforce_plus_plus_outcome_advantage (gamma 1.0).

    Where they differ: the paper puts a KL penalty into the tokens' rewards; run `advantage kl-in-reward` before this
    for it. Tokens outside the mask (the output of a tool) are stepped over: they do not discount. verl refuses a step
    of fewer than two tokens; here one token gets 0.

    Entropy: falls as with any policy gradient; without a baseline per prompt, easy prompts are reinforced throughout.

    Shipped by: verl, OpenRLHF.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        token_rewards: `[N]` r, the reward of each token; a response's reward lies on its last counted token.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        gamma: discount per token.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: gamma lies outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise UsageError(f"--gamma {gamma:g}: must lie in [0, 1]")
    return whiten(returns_to_go(token_rewards, row_of_token, loss_mask, gamma), loss_mask)
