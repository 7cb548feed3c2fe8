"""Dr.GRPO: rewards less their group's mean, not divided by its deviation (2503.20783)."""

from __future__ import annotations

from entropyctl.advantages._groups import Array
from entropyctl.advantages._returns import PerRow
from entropyctl.advantages.grpo import grpo


def dr_grpo(reward: Array, group: Array) -> PerRow:
    """Dr.GRPO: rewards less their group's mean, not divided by its deviation.

    A_i = R_i - mean_g; the same as `grpo --no-std`.

    Paper: Understanding R1-Zero-Like Training: A Critical Perspective, arXiv 2503.20783.

    Code: sail-sg/understand-r1-zero; verl, compute_grpo_outcome_advantage with norm_adv_by_std_in_grpo false.

    Where they differ: the paper's other half is the loss's denominator, a constant instead of the response's length:
    `update --reduction seq-mean-token-sum-norm --norm LONGEST`. The constant is the longest possible response in the
    authors' code and in TRL; verl's default is the padded width of the batch, and until 0.6.1 it left out the mean over
    responses (token-sum-norm). A group of one keeps its reward, as in verl.

    Entropy: falls as with GRPO; very easy and very hard prompts, whose deviation is small, weigh less in it.

    Shipped by: verl, TRL.

    Verified: the authors' numbers (golden vectors of verl).

    Args:
        reward: `[B]` R.
        group: `[B]` number of the row's group.

    Returns:
        `[B]` A, float64.
    """
    return grpo(reward, group, std=False)
