"""Scoring with a policy that changes: each step by the version that sampled it, or by the newest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from entropyctl.errors import InputError, MismatchError
from entropyctl.policy.versions import Policy, find_policy, find_version
from entropyctl.table import Source
from entropyctl.table.header import Context
from entropyctl.tokenstats import SplitModel

NO_VERSION = -1


class Turning:
    """A model that can become another version of itself.

    One that stays is in memory until it turns; one that takes turns with others is loaded whenever it is asked for.
    """

    def __init__(self, policy: Policy, load: Callable[[Policy], SplitModel], *, stays: bool) -> None:
        self._policy, self._load, self._stays = policy, load, stays
        self._split: SplitModel | None = load(policy) if stays else None

    def turn_to(self, policy: Policy) -> None:
        """Be this version from now on; the old one is given up first, so that memory never holds two."""
        if policy.digest != self._policy.digest and self._stays:
            self._split = None
            self._split = self._load(policy)
        self._policy = policy

    def __call__(self) -> SplitModel:
        """The model."""
        return self._split or self._load(self._policy)


class Turns(Protocol):
    """A model that can become another version of itself."""

    def turn_to(self, policy: Policy) -> None: ...


class Scoring(Protocol):
    """A model that adds columns to the rows of a step."""

    role: str
    policy: Policy

    @property
    def columns(self) -> tuple[str, ...]: ...
    def as_dict(self) -> dict[str, Any]: ...
    def score(self, rows: pa.Table) -> pa.Table: ...


@dataclass
class Following:
    """A scorer that takes, for each step, the version of its policy that fits.

    `at` is `sampled` (the version that the rows name), `latest` (the newest when the step is scored), or `fixed`.
    """

    scorer: Scoring
    model: Turns
    source: Source
    at: str
    dtype: str
    keep_old: bool = False
    _used: dict[int, str] = field(default_factory=dict)  # of the last step: version that sampled -> digest
    _told: dict[str, str] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """What the model is: policy, ref, prm or critic."""
        return self.scorer.role

    @property
    def key(self) -> str:
        """The role as the context has it."""
        return "policies" if self.role == "policy" else self.role

    @property
    def policy(self) -> Policy:
        """The version that scores now."""
        return self.scorer.policy

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are made."""
        return self.scorer.columns

    @property
    def replaces(self) -> tuple[str, ...]:
        """Fields of the context that speak of the numbers which are made anew."""
        return (f"scoring.{self.key}", f"scoring.steps.{self.key}")

    def as_dict(self) -> dict[str, Any]:
        """What the scorer has to say of all steps so far."""
        return self.scorer.as_dict()

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of a step with the model's columns; rows of several versions each by their own."""
        self._used = {}
        version_B = _versions(rows)
        found = np.unique(version_B).tolist()
        newest = self._newest()
        parts, places = [], []
        for version in found:
            policy = chosen_version(self.source, self.role, version, newest, self.at)
            self._turn_to(policy)
            self._used[version] = policy.digest
            places.append(np.flatnonzero(version_B == version))
            parts.append(self.scorer.score(rows if len(found) == 1 else rows.take(places[-1])))
        if len(parts) > 1:
            return pa.concat_tables(parts).take(np.argsort(np.concatenate(places)))
        return parts[0] if parts else self.scorer.score(rows)

    def _turn_to(self, policy: Policy) -> None:
        activity = self.source.activity
        if policy.digest != self.policy.digest:
            activity.doing("loads", version=policy.version)
        self.model.turn_to(policy)
        self.scorer.policy = policy
        if self.role == "policy":
            activity.version = policy.version
        activity.doing("computes")

    def _newest(self) -> Policy:
        root = self.policy.root
        return self.policy if root is None or self.at == "fixed" else find_policy(str(root))

    def context(self) -> Context:
        """What is known of this scoring before a step is scored."""
        return {"scoring": {"dtype": self.dtype}} if self.role == "policy" else {}

    def facts(self, number: int) -> Context:
        """What the step that was scored last adds to the context: for each version that sampled, who scored."""
        scoring: Context = {}
        before = self.source.context.get("scoring", {}).get("policies")
        if self.keep_old and before:
            scoring["old_policies"] = before
        for version, digest in self._used.items():
            for name in _names(self.source, version, self.policy):
                if self._told.setdefault(name, digest) == digest:
                    scoring.setdefault(self.key, {})[name] = digest
                else:  # the newest version scored later rows of an older one, so this holds for the step alone
                    scoring["steps"] = {self.key: {str(number): digest}}
        return {"scoring": scoring} if scoring else {}


def chosen_version(source: Source, role: str, version: int, newest: Policy, at: str) -> Policy:
    """The version that scores rows of a version.

    Args:
        source: the rows; what it allows to differ may differ.
        role: what the model is; the policy alone must be the one that sampled.
        version: as the rows name it.
        newest: of the model.
        at: sampled, latest or fixed.

    Raises:
        InputError: the version is not there any more.
        MismatchError: another policy sampled.
    """
    if role != "policy":
        return newest
    named, allowed = newest, "policies" in source.allow_mismatch
    if version != NO_VERSION and newest.root is not None and at != "fixed":
        try:
            named = find_version(newest.root, version)
        except InputError:
            if at == "sampled" and not allowed:
                raise
    for name in _names(source, version, newest):
        digest = source.context.get("policies", {}).get(name, named.digest)
        # Of an older version that has been deleted, nothing but its number is known.
        if digest == named.digest or (at == "latest" and named.version > version):
            continue
        if allowed:
            return newest
        raise MismatchError(
            f"{source.path}: was sampled by version {name} ({digest[:12]}), but {named.directory} is "
            f"{named.digest[:12]}; give the policy that sampled, or score with another one by --allow-mismatch policies"
        )
    return newest if at == "latest" else named


def first_version(source: Source, role: str, newest: Policy, at: str) -> Policy:
    """The version to load before any step has come: in a pipe, while the stage in front is still at work.

    Raises:
        InputError: it is not there any more.
        MismatchError: another policy sampled.
    """
    sampled = [int(name) for name in source.context.get("policies", {}) if name.isdigit()]
    return chosen_version(source, role, min(sampled, default=NO_VERSION), newest, at)


def _versions(rows: pa.Table) -> npt.NDArray[np.int64]:
    if "policy_version" not in rows.column_names:
        return np.full(rows.num_rows, NO_VERSION)
    return np.array([NO_VERSION if v is None else v for v in rows["policy_version"].to_pylist()], np.int64)


def _names(source: Source, version: int, policy: Policy) -> list[str]:
    """What the context may call a version; all that it knows, where the rows name none."""
    return [str(version)] if version != NO_VERSION else list(source.context.get("policies") or [str(policy.version)])
