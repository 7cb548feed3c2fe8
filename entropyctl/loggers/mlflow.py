"""mlflow: a tracking server, or a database of one's own."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from entropyctl.loggers._run import Opened, Run

# By which a run is found again.
TAG = "entropyctl.run"
# mlflow itself asks a server that does not answer for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def mlflow(run: Run) -> Opened:
    """mlflow: a run in the experiment MLFLOW_EXPERIMENT_NAME, else entropyctl, at MLFLOW_TRACKING_URI.

    Without the latter mlflow's own default, the file mlflow.db of the current directory. An @ in a name, which mlflow
    does not allow, becomes _at_: eval/pass_at_4.

    Args:
        run: is found again by its id, in the tag entropyctl.run, unless MLFLOW_RUN_ID names another.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    client = MlflowClient()
    key = os.environ.get("MLFLOW_RUN_ID") or _run_id(client, run)
    client.update_run(key, status="RUNNING")
    known = client.get_run(key).data.params
    params = [Param(name, str(value)) for name, value in run.config.items() if name not in known]
    client.log_batch(key, params=params)

    def log(x: int, scalars: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(key, [Metric(allowed(name), value, now, x) for name, value in scalars.items()])

    return Opened(log, lambda: client.set_terminated(key))


def _run_id(client: Any, run: Run) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
    found = client.get_experiment_by_name(name)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or (found.experiment_id if found else None)
    experiment = experiment or client.create_experiment(name)
    before = client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
    if before:
        return str(before[0].info.run_id)
    return str(client.create_run(experiment, tags={TAG: run.id}, run_name=run.name).info.run_id)


def allowed(name: str) -> str:
    """A metric's name as mlflow takes it."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
