"""Versions that are being read, and the old ones that nobody needs any more.

A reader holds a shared lock on the version's configuration, a file that every checkpoint has, for as long as it loads;
who deletes takes the lock for itself, and leaves alone what somebody holds. The lock goes with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entropyctl.errors import InputError
from entropyctl.policy.versions import MANIFEST, Policy, config_of, versions_of


@contextmanager
def held(policy: Policy) -> Iterator[None]:
    """Keep a version from being deleted.

    Raises:
        InputError: it has been deleted already.
    """
    path = config_of(policy.directory)
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # Whoever deleted it held the lock, so that only now it is known whether the file is still the version's.
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise FileNotFoundError
            yield
    except FileNotFoundError:
        if path.exists():
            raise  # something else is missing
        raise InputError(f"{policy.directory}: has been deleted; keep more versions with `update --keep`") from None


def delete_old_versions(root: Path, keep: int) -> list[Path]:
    """Delete the versions of a policy but for the newest ones and those that are held.

    A version that is a link to a checkpoint elsewhere loses the link; the checkpoint stays. So does a version that the
    adapter of a newer one stands on.

    Args:
        root: the directory of versions.
        keep: how many to keep, at least 1, so that what `latest` names is among them.

    Returns:
        What was deleted.
    """
    versions = versions_of(root)
    needed = {_base(directory) for _, directory in versions[-keep:]}
    return [path for _, path in versions[:-keep] if path.name not in needed and _delete(path)]


def _base(directory: Path) -> str | None:
    """The version that a version's adapter stands on, where it is one of the same policy."""
    manifest = directory / MANIFEST
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    return facts.get("base", {}).get("path")


def _delete(directory: Path) -> bool:
    """Delete a version unless it is held: first out of sight, then file by file."""
    gone = directory.with_name(f".{directory.name}.old")
    try:
        with open(config_of(directory), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(gone, ignore_errors=True)  # of a deletion that was interrupted
            if directory.is_symlink():
                directory.unlink()
            else:
                directory.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
    except OSError:  # held (BlockingIOError), no permission, or no version at all: none of that is the training's fault
        return False
    return True
