"""Which checkpoint a `--policy` argument means, its version, and digests that tell checkpoints apart.

A policy that is trained is a directory:

    run/policy/v000000/          a Hugging Face checkpoint (or a link to one)
    run/policy/v000001/          published by `entropyctl update`, complete before it is visible
    run/policy/trainer-v000001/  optimiser state that belongs to it
    run/policy/latest            link to the newest version, replaced atomically

Every step that `update --publish` reads makes a version, whether it changed a weight or not, so that whoever waits for
a step's version (`rollout --max-lag`) is always answered.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import xxhash

from entropyctl.errors import InputError

MANIFEST = "entropyctl.json"
LATEST = "latest"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Policy:
    """One checkpoint: where it lies and which version of a policy it is."""

    directory: Path
    version: int
    root: Path | None = None  # the directory of versions; None for a plain checkpoint

    @cached_property
    def digest(self) -> str:
        """Digest of weights and configuration; a published version's manifest holds it."""
        manifest = self.directory / MANIFEST
        if manifest.is_file():
            recorded = json.loads(manifest.read_text(encoding="utf-8"))
            if all(file_facts(self.directory / name) == facts for name, facts in recorded["files"].items()):
                return str(recorded["digest"])
        return weights_digest(self.directory)

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer's files."""
        files = [self.directory / name for name in TOKENIZER_FILES if (self.directory / name).is_file()]
        return _digest_of(files)


def version_name(version: int) -> str:
    """`v000012`."""
    return f"v{version:06d}"


def find_policy(path: str) -> Policy:
    """The checkpoint that a path means: itself, or the latest version of a directory of versions.

    Raises:
        InputError: there is no checkpoint.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(f"{path}: no such directory; give a checkpoint in Hugging Face format")
    latest = directory / LATEST
    if latest.is_symlink() or latest.is_dir():
        # Through the link once: another process may publish while this one loads.
        target = latest.parent / latest.readlink() if latest.is_symlink() else latest
        match = re.fullmatch(r"v(\d+)", target.name)
        if match is None:
            raise InputError(
                f"{latest}: points to '{target.name}'; it must point to a version such as {version_name(0)}"
            )
        return Policy(checked(target), int(match[1]), directory)
    return Policy(checked(directory), 0)


def versions_of(root: Path) -> list[tuple[int, Path]]:
    """The versions of a policy with their directories, oldest first; not those newer than `latest`."""
    newest = find_policy(str(root)).version
    found = [(int(path.name[1:]), path) for path in root.glob("v*") if re.fullmatch(r"v\d+", path.name)]
    return sorted(one for one in found if one[0] <= newest)


def find_version(root: Path, version: int) -> Policy:
    """A version of a policy by its number.

    Raises:
        InputError: there is none.
    """
    directory = root / version_name(version)
    if not directory.is_dir():
        raise InputError(
            f"{directory}: is not there; keep more versions with `update --keep`, "
            "or take the newest with --at latest where the stage has that"
        )
    return Policy(checked(directory), version, root)


def finished_step(policy: Policy) -> int:
    """The last training step in this version of a policy; 0 for a model that no step of this policy made."""
    manifest = policy.directory / MANIFEST
    recorded = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    # A version 0 may be a link to what another run published: its steps are not ours.
    return int(recorded.get("step") or policy.version) if recorded.get("version") == policy.version else 0


def checked(directory: Path) -> Path:
    """The directory, if it holds a checkpoint that can be loaded.

    Raises:
        InputError: names what is missing.
    """
    if not config_of(directory).is_file():
        raise InputError(f"{directory}: is not a checkpoint (no config.json); give one in Hugging Face format")
    if not any(directory.glob("*.safetensors")):
        raise InputError(f"{directory}: has no *.safetensors; save the checkpoint with safe serialization")
    return directory


def config_of(directory: Path) -> Path:
    """The file that says what a checkpoint holds; an adapter has one of its own (policy/adapter.py)."""
    adapter = directory / ADAPTER_CONFIG
    return adapter if adapter.is_file() and not (directory / CONFIG).is_file() else directory / CONFIG


def weights_digest(directory: Path) -> str:
    """Digest over a checkpoint's configuration and weight files."""
    return _digest_of([config_of(directory), *sorted(directory.glob("*.safetensors"))])


def file_facts(path: Path) -> list[int] | None:
    """Size and time of change, by which a manifest knows its files again; a copy is read and digested anew."""
    if not path.is_file():
        return None
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _digest_of(files: list[Path]) -> str:
    total = xxhash.xxh3_128()
    # One block that stays in the cache: a new one for each read would cost more than reading and hashing together.
    block = memoryview(bytearray(1 << 20))
    for path in files:
        total.update(path.name.encode())
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(block):
                total.update(block[:count])
    return total.hexdigest()
