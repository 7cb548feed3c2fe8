"""The loss of a mini-batch's tokens, from their log-probabilities alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from entropyctl.objectives import kl_penalty
from entropyctl.registry import inputs_of
from entropyctl.training.batch import Array, Batch
from entropyctl.training.recipe import Recipe


class TokenLoss(NamedTuple):
    """What a forward pass adds to the loss of its mini-batch, and sums over its counted tokens."""

    losses: Tensor  # [N] k_t loss_t, differentiable
    kl: float  # sum of k3 estimates of KL(old || new); 0 where no log-probabilities of the old policy are read
    clipped: float  # tokens that a clip holds


def token_loss(
    logprobs_N: Tensor, batch: Batch, coefficient_N: Array, recipe: Recipe, entropies_N: Tensor | None = None
) -> TokenLoss:
    """k_t [ w_t policy_loss_t + (c_t + kl_coef) KL_t(kl_to) + ref_kl_coef KL_t(reference) - entropy_coef H_t ].

    Args:
        logprobs_N: log p of the tokens under the policy in training, differentiable.
        batch: whole responses.
        coefficient_N: k_t of the reduction over the mini-batch.
        recipe: how to train.
        entropies_N: H of the tokens, differentiable, where the recipe has an entropy bonus.
    """

    def tensor(values: Any) -> Tensor:
        array = np.require(values, requirements=["C", "W"])  # torch warns of arrays that it may not write to
        kind = logprobs_N.dtype if array.dtype.kind == "f" else None
        return torch.from_numpy(array).to(logprobs_N.device, kind)

    mask_N = tensor(batch.loss_mask)
    given = {"logprobs": logprobs_N, "loss_mask": mask_N, "row_of_token": tensor(batch.row_of_token)}
    arguments = [given[name] if name in given else tensor(batch.inputs[name]) for name in inputs_of(recipe.objective)]
    policy = recipe.objective(*arguments)
    loss_N = tensor(batch.weights) * policy.loss
    coef_N = tensor(batch.kl_coefs) + recipe.kl_coef
    if coef_N.any():
        anchor = batch.inputs["ref_logprobs"] if recipe.kl_to == "ref" else batch.old_logprobs
        loss_N = loss_N + coef_N * kl_penalty(logprobs_N, tensor(anchor), recipe.kl)
    if recipe.ref_kl_coef:
        penalty_N = kl_penalty(logprobs_N, tensor(batch.inputs["ref_logprobs"]), recipe.ref_kl)
        loss_N = loss_N + recipe.ref_kl_coef * penalty_N
    if entropies_N is not None and recipe.bonus is not None:
        loss_N = loss_N - recipe.bonus.coef_now * entropies_N
    kl = 0.0
    if batch.old_logprobs is not None:
        # The tokens were drawn from the old policy, so this way round: KL(old || new).
        kl = float((kl_penalty(tensor(batch.old_logprobs), logprobs_N.detach(), "k3") * mask_N).sum())
    # A token outside the mask must not turn the sum into NaN by 0 * inf.
    losses_N = torch.where(mask_N, tensor(coefficient_N.astype(np.float64)) * loss_N, 0.0)
    return TokenLoss(losses_N, kl, float((policy.clipped & mask_N).sum()))
