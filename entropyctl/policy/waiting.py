"""Waiting for the version that a step may be sampled with."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable

from entropyctl.errors import UsageError
from entropyctl.policy.versions import Policy, find_policy, finished_step
from entropyctl.table.activity import Activity

# A look at a link costs nothing beside a step; a version is taken up at once.
POLL_SECONDS = 0.1


def resident_steps(policy: Policy, step: int | None, steps: int, max_lag: int | None) -> range:
    """Numbers of the steps to sample.

    Args:
        policy: the version at the start.
        step: the first, where one was named.
        steps: how many. A loop that goes on counts those that its policy has behind it.
        max_lag: None where the policy is loaded once.
    """
    if step is not None or max_lag is None:
        first = 1 if step is None else step
        return range(first, first + steps)
    return range(finished_step(policy) + 1, steps + 1)


def version_for_step(policy: Policy, steps: range, max_lag: int | None) -> Callable[..., Policy]:
    """Which version samples a step, as a function that waits for it.

    Step K of a loop that began with version v0 at step k0 may be sampled when the newest version is at least
    v0 + (K - k0) - max_lag, and is sampled with the newest. Signals and a reader that goes end the wait.

    Args:
        policy: the version at the start; the only one where max_lag is None.
        steps: of the loop.
        max_lag: how many versions the sampling may be behind the training.

    Raises:
        UsageError: there are no versions to wait for, or nobody who could make them.
    """
    if max_lag is None:
        return lambda step, activity=None: policy
    if policy.root is None:
        raise UsageError(f"--max-lag: {policy.directory} is one checkpoint; give a directory of versions with `latest`")
    root = str(policy.root)

    def wait(step: int, activity: Activity | None = None) -> Policy:
        needed = policy.version + (step - steps.start) - max_lag
        if activity is not None:
            activity.doing("waits", step=step, version=needed)
        while (newest := find_policy(root)).version < needed:
            time.sleep(POLL_SECONDS)
        return newest

    return wait


def check_somebody_reads(output: str | None) -> None:
    """Refuse an output in which nobody sees a step before the end: the version that it makes would never come.

    Raises:
        UsageError: it is a file.
    """
    if output not in (None, "-") or not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        raise UsageError(
            "--max-lag: waits for the versions that `update --publish` makes of these steps, "
            "so the output must be a pipe; keep a file with --tee"
        )
