"""W-REINFORCE: push incorrect responses down, and reinforce correct ones a little (2506.01347)."""

from __future__ import annotations

from entropyctl.advantages._groups import Array
from entropyctl.advantages._outcome import outcome_advantages, require_weight
from entropyctl.advantages._returns import PerToken


def w_reinforce(
    reward: Array, row_of_token: Array, loss_mask: Array, *, weight: float = 0.1, gamma: float = 1.0
) -> PerToken:
    """W-REINFORCE: push incorrect responses down, and reinforce correct ones a little.

    A_t = lambda gamma^(L_i - t) for the tokens t = 1 .. L_i of a correct response, -1 for those of the others.

    Paper: The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347 (lambda 0.1).

    Code: TianHongZXY/RLVR-Decomposed, compute_psr_nsr_outcome_advantage (mode weighted; positive_advantage_weight 1 in
    its configuration, 0.1 in its experiments; gamma 1).

    Where they differ: the paper's loss is lambda L_PSR + L_NSR; the code takes one mean over the tokens of the whole
    batch, as is done here, which is not lambda times the one mean plus the other. No baseline and no deviation: the
    advantage of a response does not depend on its group.

    Entropy: kept up by the negative part; lambda decides how much of PSR's fall is let in.

    Shipped by: none of the peers.

    Verified: the authors' numbers (their function on two responses).

    Args:
        reward: `[B]` R, 1 (correct) or 0.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        weight: lambda, the advantage of correct responses; 1 is plain REINFORCE with rewards of 1 and -1.
        gamma: discount per counted token from the end of a correct response.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: weight is negative or not finite, or gamma lies outside [0, 1].
        InputError: a reward is neither 0 nor 1.
    """
    require_weight(weight)
    return outcome_advantages(reward, row_of_token, loss_mask, correct=weight, wrong=-1.0, gamma=gamma)
