"""Whose numbers the rows carry: those of the policy in training, or of a version that it has grown out of.

A step may be scored by any version that this very run has stood for: a file of several steps was scored before the
first was trained, and in a resident loop sampling may run ahead. Rows of an earlier run's version are refused: that is
how a step that has been trained on is known when it comes again.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Collection
from os import fstat
from pathlib import Path
from typing import Any

import pyarrow as pa

from entropyctl.errors import MismatchError, UsageError
from entropyctl.policy import Policy
from entropyctl.table import Source


def scorers(source: Source, number: int, rows: pa.Table, role: str = "policies") -> set[str]:
    """Digests of the models that scored a step; empty where the table says nothing of them.

    Args:
        source: the table, which knows by now what came with the step.
        number: the step.
        rows: its rows.
        role: as what a model scored: `policies` (of which the sampling ones count where no scoring is recorded),
            `prm` or `critic`.

    Raises:
        MismatchError: rows of a version of which the table says nothing, though it does of others.
    """
    scoring = source.context.get("scoring", {})
    if digest := scoring.get("steps", {}).get(role, {}).get(str(number)):
        return {digest}
    named = scoring.get(role) or (source.context.get("policies", {}) if role == "policies" else {})
    given = rows["policy_version"].unique().to_pylist() if "policy_version" in rows.column_names else [None]
    if not named or None in given:
        return set(named.values())
    if unknown := [version for version in given if str(version) not in named]:
        raise MismatchError(
            f"{source.path}: step {number} has rows of version {unknown[0]}, of which its context says nothing; a "
            "program in the pipe drops what the ends of steps carry (entropyctl.context)"
        )
    return {named[str(version)] for version in given}


def scored_by(source: Source, number: int, rows: pa.Table, policy: Policy) -> bool:
    """Whether a step's statistics are exactly this policy's, computed in the number type of training."""
    dtype = source.context.get("scoring", {}).get("dtype")
    return dtype == "float32" and scorers(source, number, rows) == {policy.digest}


WHAT = {"policies": "policy", "prm": "reward model", "critic": "critic"}


def check_policy(source: Source, policy: Policy, allow: tuple[str, ...], role: str = "policies") -> None:
    """Stop before the work where no row was scored by the model to train, as when a step is run twice.

    Args:
        source: the table.
        policy: the version to train.
        allow: what the user accepts.
        role: as what the model scored.

    Raises:
        MismatchError: names both.
    """
    scoring = source.context.get("scoring", {})
    known = set(scoring.get(role, {}).values()) | set(scoring.get("steps", {}).get(role, {}).values())
    if role == "policies" and not known:
        known = set(source.context.get("policies", {}).values())
    if known and policy.digest not in known:
        _refuse(source, known, policy, allow, role)


def check_step(
    source: Source,
    number: int,
    rows: pa.Table,
    versions: Collection[str],
    policy: Policy,
    allow: tuple[str, ...],
    role: str = "policies",
) -> None:
    """Stop where a step was scored by a model that this run has never stood for.

    Args:
        source: the table.
        number: the step.
        rows: its rows.
        versions: digests of what has been trained since the run began, the version in training included.
        policy: that version.
        allow: what the user accepts.
        role: as what the model scored.

    Raises:
        MismatchError: names both.
    """
    if {f"scoring.{role}", "scoring"} & set(allow):
        return
    found = scorers(source, number, rows, role)
    if not found <= set(versions):
        _refuse(source, found - set(versions), policy, allow, role)


def _refuse(source: Source, found: set[str], policy: Policy, allow: tuple[str, ...], role: str) -> None:
    if {f"scoring.{role}", "scoring"} & set(allow):
        return
    digests = ", ".join(sorted(digest[:12] for digest in found))
    what = WHAT[role]
    was = "its values are of" if role == "critic" else "was scored by"
    raise MismatchError(
        f"{source.path}: {was} {what} {digests}, but {policy.directory} is {policy.digest[:12]}; "
        f"train the {what} that scored, or allow it with --allow-mismatch scoring.{role}"
    )


def lag(rows: pa.Table, policy: Policy) -> int | None:
    """How many versions the oldest row's sampling is behind the version in training; None where rows name none."""
    if "policy_version" not in rows.column_names:
        return None
    given = [version for version in rows["policy_version"].unique().to_pylist() if version is not None]
    return policy.version - min(given) if given else None


def check_loop(source: Source, policy: Policy, *, publish: bool, keep: int | None) -> None:
    """Refuse what would leave `rollout --max-lag`, at the other end of the pipe, waiting for ever.

    Raises:
        UsageError: its versions are not published, are published elsewhere, or are deleted too early.
    """
    waiting = _waiting(source)
    if waiting is None:
        return
    lag_allowed, sampled = waiting["max_lag"], waiting.get("policy")
    if not publish:
        raise UsageError(f"rollout --max-lag {lag_allowed} waits for the versions that this makes; give --publish")
    if sampled and policy.root and Path(sampled).is_dir() and not Path(sampled).samefile(policy.root):
        raise UsageError(f"rollout --max-lag waits for versions in {sampled}, but {policy.root} is trained; give one")
    if keep is not None and keep <= lag_allowed:
        raise UsageError(f"--keep {keep}: rollout --max-lag {lag_allowed} needs --keep {lag_allowed + 1} or more")


def _waiting(source: Source) -> dict[str, Any] | None:
    """Parameters of the `rollout --max-lag` that stands at the beginning of the pipe that is read now."""
    if not any(entry.path == "-" for entry in source.inputs) or not stat.S_ISFIFO(fstat(sys.stdin.fileno()).st_mode):
        return None
    for record in source.chain:
        params = record.get("params") or {}
        # A record without its duration is of a stage that is still at work.
        if record["stage"] == "rollout" and "seconds" not in record and params.get("max_lag") is not None:
            return dict(params)
    return None
