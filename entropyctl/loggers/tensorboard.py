"""tensorboard: event files for TensorBoard."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from entropyctl.loggers._run import Opened, Run


def tensorboard(run: Run, destination: str | None = None) -> Opened:
    """tensorboard: event files in the run's directory, or where `tensorboard:DIR` or TENSORBOARD_LOGGING_DIR say.

    A directory for each run in it; a run that goes on adds a file to its own. `tensorboard --logdir RUN/tensorboard`
    shows them. Needs neither TensorFlow nor torch.

    Args:
        run: gives its directory its name.
        destination: the directory of all runs.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    beside = os.path.join(run.directory, "tensorboard")
    root = destination or os.environ.get("TENSORBOARD_LOGGING_DIR") or beside
    writer = EventFileWriter(os.path.join(root, run.name))

    def log(x: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        writer.add_event(Event(wall_time=time.time(), step=x, summary=Summary(value=values)))
        writer.flush()

    return Opened(log, writer.close)
