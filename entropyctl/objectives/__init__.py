"""Policy losses, one file each: pure functions from log-probabilities to a loss per token; and the one place
that reduces them to a number.
"""

from importlib import import_module
from pathlib import Path

from entropyctl.objectives._kl import ESTIMATORS, kl_penalty
from entropyctl.objectives._policy_loss import PolicyLoss
from entropyctl.objectives._reduce import REDUCTIONS, token_coefficients

__all__ = ["ESTIMATORS", "REDUCTIONS", "PolicyLoss", "kl_penalty", "token_coefficients"]

for _path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    globals()[_path.stem] = getattr(import_module(f"{__name__}.{_path.stem}"), _path.stem)
    __all__ += [_path.stem]
