"""The optimisation step: a masked table and a policy in, new weights and a row of metrics out."""

from entropyctl.training.batch import NEEDS, OPTIONAL, Batch, mini_batches, read_batch
from entropyctl.training.recipe import Recipe, check_policy
from entropyctl.training.step import train_step
from entropyctl.training.update import Trainer, open_trainer, train_steps, update_step

__all__ = [
    "NEEDS",
    "OPTIONAL",
    "Batch",
    "Recipe",
    "Trainer",
    "check_policy",
    "mini_batches",
    "open_trainer",
    "read_batch",
    "train_step",
    "train_steps",
    "update_step",
]
