"""wandb: Weights & Biases, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping

from entropyctl.loggers._run import Opened, Run

# What wandb sends beside the scalars unless it is told not to: command line, host, packages, diffs, output.
SCALARS_ALONE = {
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "console": "off",
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


def wandb(run: Run) -> Opened:
    """wandb: one run of wandb for each run; WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_MODE, ... as everywhere.

    The scalars alone are sent: no command line, output, code, package list or machine statistics. They are drawn over
    the run's own axis, so that a step may be logged after a later one.

    Args:
        run: becomes the run of wandb with its id, unless WANDB_RUN_ID names another.
    """
    import wandb as package

    said = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "id": "WANDB_RUN_ID"}
    ours = {key: getattr(run, key) for key, variable in said.items() if variable not in os.environ}
    settings = package.Settings(**SCALARS_ALONE, finish_timeout=30)
    opened = package.init(**ours, resume="allow", config=dict(run.config), settings=settings)
    opened.define_metric(run.axis)
    opened.define_metric(f"{run.stage}/*", step_metric=run.axis)

    def log(x: int, scalars: Mapping[str, float]) -> None:
        opened.log({run.axis: x, **scalars})

    return Opened(log, opened.finish)
