"""How a step is trained, as one value."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from entropyctl.errors import UsageError
from entropyctl.objectives import ESTIMATORS, REDUCTIONS, PolicyLoss
from entropyctl.policy.checkpoint import parse_dtype
from entropyctl.registry import inputs_of
from entropyctl.training.batch import Array, Batch
from entropyctl.training.bonus import EntropyBonus


@dataclass(frozen=True)
class Recipe:
    """How a step is trained.

    loss = sum_t k_t [ w_t policy_loss_t + (c_t + kl_coef) KL_t(kl_to) + ref_kl_coef KL_t(reference) - coef H_t ]

    with k_t from the reduction over the mini-batch.
    """

    objective: Callable[..., PolicyLoss]
    reduction: str
    norm: float | None
    kl: str  # estimator of the penalty that kl_coefs and kl_coef scale
    mini_batches: int
    epochs: int
    grad_clip: float
    token_budget: int
    dtype: str  # of the passes; weights and optimiser state are float32
    temperature: float = 1.0
    kl_coef: float = 0.0  # of that penalty on every token
    kl_to: Literal["old", "ref"] = "old"  # what it is taken against: the policy that the step started from, or another
    ref_kl: str = "k3"  # estimator of the penalty against the reference
    ref_kl_coef: float = 0.0
    bonus: EntropyBonus | None = None
    all_rows: bool = False  # means over responses count those without a counted token too

    @property
    def trains(self) -> str:
        """Whose weights the objective trains, as `score` calls them: its module's `TRAINS`, else the policy's."""
        function = getattr(self.objective, "func", self.objective)
        return str(getattr(sys.modules[function.__module__], "TRAINS", "policies"))

    def own(self, batch: Batch) -> Batch:
        """The batch as the objective takes it: masks are the policy's, another model learns from whole responses."""
        return batch if self.trains == "policies" else batch.masked(batch.chosen, None, None)

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that the loss and its metrics read."""
        own = tuple(inputs_of(self.objective))
        old = ("old_logprobs",) if "advantages" in own or self.kl_coef else ()
        return (*own, *old, *(("ref_logprobs",) if self.ref_kl_coef or self.kl_to == "ref" else ()), "base_mask")

    @property
    def pulls_by_advantage(self) -> bool:
        """Whether a token without an advantage and without a coefficient of the mask's has no gradient."""
        own = inputs_of(self.objective)
        other = self.kl_coef or self.ref_kl_coef or self.bonus is not None
        return "advantages" in own and "ref_logprobs" not in own and not other

    def needed(self, batch: Batch) -> Array:
        """`[N]` bool, the tokens whose log p the loss is made of, and of which one in its response has a gradient."""
        learning_N = batch.learning(by_advantage=self.pulls_by_advantage)
        if "row_of_token" not in inputs_of(self.objective):  # each token's loss is its own
            return learning_N
        has_one_B = np.zeros(len(batch.lengths), bool)
        has_one_B[batch.rows_with(learning_N)] = True
        return batch.loss_mask & has_one_B[batch.row_of_token]

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UsageError: names the option.
        """
        parse_dtype(self.dtype)
        if self.reduction not in REDUCTIONS:
            raise UsageError(f"--reduction: there is no '{self.reduction}'; known: {', '.join(REDUCTIONS)}")
        for flag, kl in (("--kl", self.kl), ("--ref-kl", self.ref_kl)):
            if kl not in ESTIMATORS:
                raise UsageError(f"{flag}: there is no '{kl}'; known: {', '.join(ESTIMATORS)}")
        for flag, coef in (("--kl-coef", self.kl_coef), ("--ref-kl-coef", self.ref_kl_coef)):
            if not 0 <= coef < math.inf:
                raise UsageError(f"{flag} {coef:g}: must be a finite number, 0 or above")
        if min(self.mini_batches, self.epochs, self.token_budget) < 1:
            raise UsageError("--mini-batches, --epochs and --token-budget must be at least 1")
        if not self.grad_clip > 0:
            raise UsageError(f"--grad-clip {self.grad_clip:g}: must be above 0")
        if self.norm is not None and not self.norm > 0:
            raise UsageError(f"--norm {self.norm:g}: must be above 0")
        if self.norm is not None and not self.reduction.endswith("-norm"):
            raise UsageError(
                f"--norm {self.norm:g}: --reduction {self.reduction} divides by no constant; leave it out, "
                "or take a reduction that ends in -norm"
            )
