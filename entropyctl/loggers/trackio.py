"""trackio: a dashboard of one's own, with wandb's interface."""

from __future__ import annotations

import os
from collections.abc import Mapping

from entropyctl.loggers._run import Opened, Run


def trackio(run: Run) -> Opened:
    """trackio: a local database, or what TRACKIO_SPACE_ID or TRACKIO_SERVER_URL name; TRACKIO_DIR, TRACKIO_PROJECT.

    `trackio show --project entropyctl` shows it. Without its statistics of CPU and GPU.

    Args:
        run: becomes the run of its name and id, which trackio knows runs by.
    """
    import trackio as package

    project = os.environ.get("TRACKIO_PROJECT", run.project)
    quiet = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False}
    opened = package.init(project, f"{run.name}-{run.id[:8]}", resume="allow", config=dict(run.config), **quiet)

    def log(x: int, scalars: Mapping[str, float]) -> None:
        opened.log(dict(scalars), step=x)

    return Opened(log, package.finish)
