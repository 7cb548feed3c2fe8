"""NSR: push incorrect responses down, leave the others alone (2506.01347)."""

from __future__ import annotations

from typing import Literal

from entropyctl.advantages._groups import Array
from entropyctl.advantages._outcome import outcome_advantages, own_share
from entropyctl.advantages._returns import PerToken


def nsr(
    reward: Array, row_of_token: Array, loss_mask: Array, *, denominator: Literal["own", "all"] = "own"
) -> PerToken:
    """NSR: push incorrect responses down, leave the others alone.

    A_t = - N / N- for the tokens of a response that is not correct, 0 for those of the others;
    N counted tokens in the step, N- of them in responses that are not correct.

    Paper: The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.

    Code: TianHongZXY/RLVR-Decomposed, compute_psr_nsr_outcome_advantage (mode negative).

    Where they differ: the authors' A is -1, and their batch keeps the incorrect responses alone, so that the loss is a
    mean over N- tokens. Here the others stay in the table, and the factor N / N- makes a token mean over the step the
    same number and gradient (own, the default). --denominator all leaves it out: A is the authors', and the loss's
    denominator counts every token. Their gamma discounts rewards, which are 0 here. A step without an incorrect
    response has A = 0 throughout; the authors' is empty.

    Entropy: rises or stays: what is taken from a wrong token goes to the others in proportion to their probability.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the authors' formula.

    Args:
        reward: `[B]` R, 1 (correct) or 0.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        denominator: tokens that the loss is to be a mean of: those of incorrect responses (own), or all.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        InputError: a reward is neither 0 nor 1.
    """
    scale = own_share(reward, row_of_token, loss_mask, 0) if denominator == "own" else 1.0
    return outcome_advantages(reward, row_of_token, loss_mask, correct=0.0, wrong=-scale)
