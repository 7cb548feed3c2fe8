"""How a step is trained, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from entropyctl.errors import MismatchError, UsageError
from entropyctl.objectives import ESTIMATORS, REDUCTIONS, PolicyLoss
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import parse_dtype
from entropyctl.table import Source


@dataclass(frozen=True)
class Recipe:
    """How a step is trained.

    loss = sum_t k_t [ w_t policy_loss_t + c_t KL_t ]   with k_t from the reduction over the mini-batch
    """

    objective: Callable[[Tensor, Tensor, Tensor], PolicyLoss]
    reduction: str
    norm: float | None
    kl: str  # estimator of the penalty that kl_coefs scale
    mini_batches: int
    epochs: int
    grad_clip: float
    token_budget: int
    temperature: float
    dtype: str  # of the passes; weights and optimiser state are float32

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UsageError: names the option.
        """
        parse_dtype(self.dtype)
        if self.reduction not in REDUCTIONS:
            raise UsageError(f"--reduction: there is no '{self.reduction}'; known: {', '.join(REDUCTIONS)}")
        if self.kl not in ESTIMATORS:
            raise UsageError(f"--kl: there is no '{self.kl}'; known: {', '.join(ESTIMATORS)}")
        if min(self.mini_batches, self.epochs, self.token_budget) < 1:
            raise UsageError("--mini-batches, --epochs and --token-budget must be at least 1")
        if not self.grad_clip > 0:
            raise UsageError(f"--grad-clip {self.grad_clip:g}: must be above 0")
        if self.norm is not None and not self.norm > 0:
            raise UsageError(f"--norm {self.norm:g}: must be above 0")


def scoring_policies(source: Source) -> set[str]:
    """Digests of the policies whose log-probabilities the rows carry; the sampling ones' where none is recorded."""
    scoring = source.context.get("scoring", {}).get("policies")
    return set((scoring or source.context.get("policies", {})).values())


def scored_by(source: Source, policy: Policy) -> bool:
    """Whether the rows' statistics are exactly this policy's, computed in the number type of training."""
    dtype = source.context.get("scoring", {}).get("dtype")
    return dtype == "float32" and scoring_policies(source) == {policy.digest}


def check_policy(source: Source, policy: Policy, allow: tuple[str, ...]) -> None:
    """Stop where the rows were scored by another policy than the one to train, as when a step is run twice.

    Raises:
        MismatchError: names both.
    """
    scored = scoring_policies(source)
    if scored and scored != {policy.digest} and "scoring.policies" not in allow:
        digests = ", ".join(sorted(digest[:12] for digest in scored))
        raise MismatchError(
            f"{source.path}: was scored by policy {digests}, but {policy.directory} is {policy.digest[:12]}; "
            "train the policy that scored, or allow it with --allow-mismatch scoring.policies"
        )
