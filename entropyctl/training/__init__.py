"""The optimisation step: a masked table and a policy in, new weights and a row of metrics out."""

from entropyctl.training.batch import Batch, columns_for, mini_batches, read_batch
from entropyctl.training.bonus import EntropyBonus
from entropyctl.training.optimizer import Optimization, Optimizer
from entropyctl.training.recipe import Recipe
from entropyctl.training.scored import check_loop, check_policy
from entropyctl.training.step import train_step
from entropyctl.training.update import Trainer, open_trainer, train_steps, update_step

__all__ = [
    "Batch",
    "EntropyBonus",
    "Optimization",
    "Optimizer",
    "Recipe",
    "Trainer",
    "check_loop",
    "check_policy",
    "columns_for",
    "mini_batches",
    "open_trainer",
    "read_batch",
    "train_step",
    "train_steps",
    "update_step",
]
