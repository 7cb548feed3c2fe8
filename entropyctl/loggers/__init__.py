"""Experiment loggers, one file each, which get a run's scalars and nothing else: no text, no rows, no command line.

    with open_loggers(("tensorboard",), run_of("update", "run/policy")) as loggers:
        loggers.log(3, {"entropy": 0.71})

A logger is a function of its file's name. It takes a `Run`, and what followed its name and a colon if it has a second
parameter `destination`, and returns `Opened`: what logs scalars at a place on the run's axis, and what closes it.
Called again with the same run it goes on with that one. Rows stay in tables.
"""

from typing import TYPE_CHECKING

from entropyctl.registry import open_room

if TYPE_CHECKING:
    from entropyctl.loggers._evaluation import log_evaluation as log_evaluation
    from entropyctl.loggers._loggers import Loggers as Loggers
    from entropyctl.loggers._loggers import open_loggers as open_loggers
    from entropyctl.loggers._loggers import parse_loggers as parse_loggers
    from entropyctl.loggers._run import Opened as Opened
    from entropyctl.loggers._run import Run as Run
    from entropyctl.loggers._run import run_of as run_of
    from entropyctl.loggers.mlflow import mlflow as mlflow
    from entropyctl.loggers.tensorboard import tensorboard as tensorboard
    from entropyctl.loggers.trackio import trackio as trackio
    from entropyctl.loggers.wandb import wandb as wandb

_PARTS = {"log_evaluation": "_evaluation"} | dict.fromkeys(("Loggers", "open_loggers", "parse_loggers"), "_loggers")
_PARTS |= dict.fromkeys(("Opened", "Run", "run_of"), "_run")
__getattr__, __all__ = open_room(__name__, _PARTS)
