"""Policy losses, one file each: pure functions from log-probabilities to a loss per token; and the one place
that reduces them to a number.

    from entropyctl.objectives import ppo
    loss, clipped = ppo(logprobs, old_logprobs, advantages, clip_high=0.28)

Positional parameters are flat tensors `[N]`, or `[B]` where they say so; keyword parameters are the objective's own.
"""

from typing import TYPE_CHECKING

from entropyctl.registry import open_room

if TYPE_CHECKING:
    from entropyctl.objectives._kl import ESTIMATORS as ESTIMATORS
    from entropyctl.objectives._kl import kl_penalty as kl_penalty
    from entropyctl.objectives._policy_loss import PolicyLoss as PolicyLoss
    from entropyctl.objectives._reduce import REDUCTIONS as REDUCTIONS
    from entropyctl.objectives._reduce import default_reduction as default_reduction
    from entropyctl.objectives._reduce import token_coefficients as token_coefficients

# Nothing is imported before it is asked for: an objective's help must not wait for torch.
_PARTS = {"ESTIMATORS": "_kl", "kl_penalty": "_kl", "PolicyLoss": "_policy_loss"}
_PARTS |= dict.fromkeys(("REDUCTIONS", "default_reduction", "token_coefficients"), "_reduce")
__getattr__, __all__ = open_room(__name__, _PARTS)
