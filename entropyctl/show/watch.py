"""The state of a run, from what lies on disk: its versions, its metrics, and what its processes say that they do."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entropyctl.errors import EntropyctlError, InputError
from entropyctl.policy.versions import LATEST, find_policy, finished_step, versions_of
from entropyctl.table.activity import AT_WORK, Facts, read_activities
from entropyctl.table.rows import read_rows

CURVES = ("entropy", "reward", "predicted_change", "realised_change")
LAST = (*CURVES, "step", "entropy_after", "lag", "tokens", "seconds", "mask_fraction", "grad_norm", "kl")
# More steps than a curve has dots on a wide terminal are thinned out.
MOST_POINTS = 512
METRICS_FILE = re.compile(r"step-(\d+)\.parquet")


@dataclass
class Run:
    """Where a run lies, and what has been read of its metrics."""

    path: str
    policy: Path | None
    metrics: Path
    read: dict[tuple[str, int], Facts | None] = field(default_factory=dict)  # by name and time of change


def find_run(path: str, metrics: str | None) -> Run:
    """The run that a path means: the directory that holds `policy` and `metrics`, or the policy itself.

    Raises:
        InputError: there is no run.
    """
    place = Path(path)
    if not place.is_dir():
        raise InputError(f"{path}: no such directory; name that of a run, which holds policy/ and metrics/")
    policy = next((one for one in (place / "policy", place) if os.path.lexists(one / LATEST)), None)
    root = place if policy is None else policy.parent
    run = Run(path, policy, Path(metrics) if metrics is not None else root / "metrics")
    if policy is None and not _files(run.metrics):
        raise InputError(
            f"{path}: is no run (it has no policy/{LATEST} and no metrics/step-*.parquet); name the directory that "
            "holds the --policy of `update` as policy/"
        )
    return run


def look(run: Run) -> dict[str, Any]:
    """All that there is to say of a run now; `entropyctl top --json` prints it."""
    now = time.time()
    policy = _policy(run.policy)
    stages = [] if run.policy is None else stages_of(read_activities(run.policy), policy["version"], now)
    working = [stage for stage in stages if stage["share"] is not None and stage["standing"] == "runs"]
    busiest = max(working, key=lambda stage: float(stage["share"]), default=None)
    curves, last = _curves(run)
    return {
        "run": run.path,
        "policy": policy,
        "stages": stages,
        "busiest": busiest and busiest["stage"],
        **_pace(stages, policy["step"]),
        "last": last,
        "curves": curves,
    }


def _policy(root: Path | None) -> dict[str, Any]:
    if root is None:
        return {"version": None, "step": None, "versions": 0, "changed": None}
    try:
        newest = find_policy(str(root))
        changed = os.lstat(root / LATEST).st_mtime
        count = len(versions_of(root))
        return {"version": newest.version, "step": finished_step(newest), "versions": count, "changed": changed}
    except (EntropyctlError, OSError, ValueError):  # `latest` that points nowhere; a version that is just being deleted
        return {"version": None, "step": None, "versions": 0, "changed": None}


def stages_of(activities: list[Facts], newest: int | None, now: float) -> list[dict[str, Any]]:
    """What each stage does, and for whom it waits.

    Args:
        activities: of one policy, those in front first.
        newest: version of the policy.
        now: seconds since the epoch.
    """
    found = []
    for i, one in enumerate(activities):
        front = activities[i - 1] if i and activities[i - 1]["pipe"] == one["pipe"] else None
        last = i + 1 == len(activities) or activities[i + 1]["pipe"] != one["pipe"]
        version = one["version"]
        found.append(
            {
                name: one[name]
                for name in ("stage", "pipe", "place", "host", "pid", "standing", "doing", "step", "about")
            }
            | {"waits_for": _waits_for(one, front, None if last else activities[i + 1])}
            | {"seconds": max(now - one["since"], 0.0), "until": one["until"], "message": one.get("message", "")}
            | {"version": version, "lag": None if version is None or newest is None else max(newest - version, 0)}
            | {"steps": one["steps"], "tokens": one["tokens"], **_speed(one, now)}
        )
    return found


def _waits_for(one: Facts, front: Facts | None, behind: Facts | None) -> str | None:
    """A stage in front or behind, or a version; None for one that is at work.

    Two neighbours never wait for each other: while one writes and the other reads, bytes go over.
    """
    if one["standing"] not in ("runs", "stopped"):
        return None
    if one["doing"] == "waits":
        return f"version {one['about']}"
    if one["doing"] == "reads":
        return (
            None if front is not None and front["doing"] == "writes" else "input" if front is None else front["stage"]
        )
    if one["doing"] == "writes":
        return None if behind is None or behind["doing"] == "reads" else str(behind["stage"])
    return None


def _speed(one: Facts, now: float) -> dict[str, float | None]:
    """Tokens for a second at work, and the share of the time at work, over the last steps."""
    recent = one.get("recent")
    if not recent:
        return {"tokens_per_second": None, "share": None}
    end = now if one["standing"] == "runs" else one["written"]
    busy = recent["busy"] + (end - one["since"] if one["doing"] in AT_WORK else 0)
    passed = end - recent["since"]
    speed = recent["tokens"] / recent["tokens_seconds"] if recent["tokens_seconds"] > 0 else None
    share = min(max(busy / passed, 0.0), 1.0) if passed > 0 and recent["steps"] else None
    return {"tokens_per_second": speed or None, "share": share, **_cycle(recent)}


def _cycle(recent: Facts) -> dict[str, float | None]:
    steps, seconds = recent["steps"], recent["seconds"]
    return {"seconds_per_step": seconds / steps if steps else None, "step_tokens": recent["tokens"] / max(steps, 1)}


def _pace(stages: list[dict[str, Any]], step: int | None) -> dict[str, float | int | None]:
    """How fast the loop goes round, by its last stage, and how long it has to go."""
    turning = [one for one in stages if one["standing"] == "runs" and one.get("seconds_per_step")]
    until = next((one["until"] for one in stages if one["until"] is not None), None)
    if not turning:
        return {"until": until, "seconds_per_step": None, "tokens_per_second": None, "seconds_to_go": None}
    each = turning[-1]["seconds_per_step"]
    to_go = None if until is None or step is None else max(until - step, 0) * each
    speed = turning[-1]["step_tokens"] / each
    return {"until": until, "seconds_per_step": each, "tokens_per_second": speed, "seconds_to_go": to_go}


def _files(directory: Path) -> list[os.DirEntry[str]]:
    """Metrics of steps, oldest first."""
    try:
        with os.scandir(directory) as entries:
            found = [(int(match[1]), entry) for entry in entries if (match := METRICS_FILE.fullmatch(entry.name))]
    except OSError:
        return []
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _curves(run: Run) -> tuple[dict[str, list[Any]], Facts | None]:
    """Numbers of the steps that have metrics, thinned out where they are many, and all those of the last one."""
    files = _files(run.metrics)
    stride = 1
    while len(files) > MOST_POINTS * stride:
        stride *= 2  # so that most of what has been read stays of use
    rows = [row for entry in [*files[:-1][::stride], *files[-1:]] if (row := _row(run, entry)) is not None]
    return {name: [row.get(name) for row in rows] for name in ("step", *CURVES)}, rows[-1] if rows else None


def _row(run: Run, entry: os.DirEntry[str]) -> Facts | None:
    """The metrics of a step; None where the file is damaged, or has just gone."""
    try:
        key = (entry.name, entry.stat().st_mtime_ns)
        if key not in run.read:
            run.read[key] = None  # a damaged file is read once
            rows = read_rows(entry.path).rows
            row = rows.select([name for name in LAST if name in rows.column_names]).to_pylist()[:1]
            numbers = {name: value for name, value in row[0].items() if isinstance(value, int | float)} if row else None
            run.read[key] = numbers
        return run.read[key]
    except (EntropyctlError, OSError):
        return None
