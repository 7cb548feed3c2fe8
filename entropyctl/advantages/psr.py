"""PSR: reinforce correct responses, leave the others alone (2506.01347)."""

from __future__ import annotations

from typing import Literal

from entropyctl.advantages._groups import Array
from entropyctl.advantages._outcome import outcome_advantages, own_share
from entropyctl.advantages._returns import PerToken


def psr(
    reward: Array,
    row_of_token: Array,
    loss_mask: Array,
    *,
    gamma: float = 1.0,
    denominator: Literal["own", "all"] = "own",
) -> PerToken:
    """PSR: reinforce correct responses, leave the others alone.

    A_t = gamma^(L_i - t) N / N+ for the tokens t = 1 .. L_i of a correct response, 0 for those of the others;
    N counted tokens in the step, N+ of them in correct responses.

    Paper: The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.

    Code: TianHongZXY/RLVR-Decomposed, compute_psr_nsr_outcome_advantage (mode positive; gamma 1).

    Where they differ: the authors' A is 1, and their batch keeps the correct responses alone, so that the loss is a
    mean over N+ tokens. Here the others stay in the table, and the factor N / N+ makes a token mean over the step the
    same number and gradient (own, the default). --denominator all leaves it out: A is the authors', and the loss's
    denominator counts every token. A step without a correct response has A = 0 throughout; the authors' is empty.

    Entropy: falls, and faster than with GRPO: probability only moves to what was sampled and correct.

    Shipped by: none of the peers.

    Verified: a float64 reference written from the authors' formula.

    Args:
        reward: `[B]` R, 1 (correct) or 0.
        row_of_token: `[N]` row of each token.
        loss_mask: `[N]` True where the token is counted.
        gamma: discount per counted token from the end of the response.
        denominator: tokens that the loss is to be a mean of: those of correct responses (own), or all.

    Returns:
        `[N]` A, float64; 0 where the token is not counted.

    Raises:
        UsageError: gamma lies outside [0, 1].
        InputError: a reward is neither 0 nor 1.
    """
    scale = own_share(reward, row_of_token, loss_mask, 1) if denominator == "own" else 1.0
    return outcome_advantages(reward, row_of_token, loss_mask, correct=scale, wrong=0.0, gamma=gamma)
