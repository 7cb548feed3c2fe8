"""Predicted against realised change of entropy, for one plain SGD step on a real model at several step sizes.

    python tests/bench/predicted_change.py MASKED POLICY [LR...]

MASKED is a masked or advantaged table that POLICY sampled and scored. Every step starts from POLICY again. The
prediction is the theory's, -eta w A (S* - E[S]) with eta = lr, for logits that move freely and alone; a network
moves all positions together, through parameters, so the size differs by what one unit of learning rate moves
logits. In the linear regime the ratio must not depend on lr, and its sign must be positive.
"""

from __future__ import annotations

import sys
from functools import partial

from entropyctl.objectives import ppo
from entropyctl.policy import find_policy
from entropyctl.table import read
from entropyctl.training import NEEDS, OPTIONAL, Recipe, open_trainer, update_step


def main() -> None:
    """Print a line for each learning rate."""
    masked, policy, *rates = sys.argv[1:]
    print(f"{'lr':>10}{'predicted':>14}{'realised':>14}{'ratio':>12}{'gradient norm':>16}")
    for rate in [float(r) for r in rates] or [1e-5, 1e-4, 1e-3]:
        with read([masked], columns=OPTIONAL, needs=NEEDS) as source:
            step = next(iter(source))
            recipe = Recipe(
                objective=partial(ppo, clip_low=0.2, clip_high=0.2, dual_clip=3.0),
                reduction="token-sum",  # the theory's step: every token pulls with eta A, undivided
                norm=None,
                kl="k3",
                mini_batches=1,
                epochs=1,
                grad_clip=float("inf"),
                token_budget=4096,
                temperature=source.temperature,
                dtype="float32",
            )
            trainer = open_trainer(find_policy(policy), "sgd", rate, 0.0, "auto")
            values = update_step(trainer, step.rows, recipe)
        ratio = values["realised_change"] / values["predicted_change"]
        print(
            f"{rate:>10.0e}{values['predicted_change']:>14.3e}{values['realised_change']:>14.3e}"
            f"{ratio:>12.1f}{values['grad_norm']:>16.3f}"
        )


if __name__ == "__main__":
    main()
