"""Publishing a version: complete and durable before it is visible, then one atomic change of `latest`."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from entropyctl.errors import Locked, MismatchError, OutputError, UsageError
from entropyctl.policy.probe import Probe, write_probe
from entropyctl.policy.trainer_state import FACTS, trainer_directory
from entropyctl.policy.versions import (
    ADAPTER_CONFIG,
    CONFIG,
    LATEST,
    MANIFEST,
    Policy,
    file_facts,
    find_policy,
    version_name,
    weights_digest,
)
from entropyctl.table.atomic import cannot_write, sync_directory

# Names the version that is being made visible: if it is still there, that version has never been `latest`.
PUBLISHING = ".publishing"
NOT_COPIED = (".safetensors", ".bin", ".gguf", ".index.json")
WRITTEN_ANEW = (CONFIG, ADAPTER_CONFIG, MANIFEST)


@contextmanager
def policy_to_train(path: str, *, publish: bool, what: str = "policy") -> Iterator[Policy]:
    """The policy that a path means, locked for as long as it is trained where new versions are published.

    Args:
        path: a checkpoint, or a directory of versions.
        publish: whether versions will be published.
        what: its flag without the dashes; `critic` for one.

    Raises:
        UsageError: a plain checkpoint cannot be published to.
        Locked: another process trains the policy.
    """
    policy = find_policy(path)
    if not publish:
        yield policy
        return
    if policy.root is None:
        if os.path.lexists(Path(path).parent / LATEST):
            above = Path(path).parent
            raise UsageError(f"{path}: is one version of {above}; to publish the next one give --{what} {above}")
        raise UsageError(
            f"{path}: is one checkpoint; to publish versions make it version 0 of a {what}: "
            f"mkdir -p run/{what} && ln -s $(realpath {path}) run/{what}/v000000 "
            f"&& ln -s v000000 run/{what}/latest, then --{what} run/{what}"
        )
    with locked(policy.root):
        yield find_policy(path)  # again: `latest` may have moved before the lock was held


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a policy for training; two trainers of one policy would publish over each other.

    Raises:
        Locked: another process trains it.
    """
    with open(root / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{root}: another update trains this policy; wait for it, or stop it") from None
        yield


def publish(
    policy: Policy,
    model: Any,
    write_state: Callable[[Path], None],
    facts: dict[str, Any],
    *,
    step: int | None = None,
    save: Callable[[Path], None] | None = None,
    probe: Probe | None = None,
    base: dict[str, str] | None = None,
) -> Policy:
    """Write the next version of a policy and make it the latest.

    Args:
        policy: the version that was trained; its `root` receives the new one.
        model: the trained model, saved in Hugging Face format.
        write_state: writes the tensors of the trainer's state into a directory.
        facts: numbers of it (steps taken, ...), kept in JSON beside the tensors.
        step: the training step that made the version, after which a continued loop goes on.
        save: writes what the version holds of the model into a directory; else the model's own `save_pretrained`.
        probe: of the model, where it does not hold all of its weights itself.
        base: the checkpoint that an adapter in training stands on (`policy.adapter.base_facts`).

    Returns:
        The new version.

    Raises:
        OutputError: the disk refuses, or the version exists; the policy is as it was.
        MismatchError: `latest` is no longer the version that was trained.
    """
    assert policy.root is not None
    current, trained = find_policy(str(policy.root)).directory.name, policy.directory.name
    if current != trained:
        raise MismatchError(f"{policy.root / LATEST}: is {current} now, but {trained} was trained; run the step again")
    version = policy.version + 1
    directory = policy.root / version_name(version)
    trainer = trainer_directory(policy.root, version)
    temporary = [unfinished(path) for path in (directory, trainer)]
    _clear_leftovers(policy.root, directory, [*temporary, trainer])
    try:
        temporary[1].mkdir()
        write_state(temporary[1])
        (temporary[1] / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        more = {name: value for name, value in (("step", step), ("base", base)) if value is not None}
        _write_checkpoint(temporary[0], policy, model, save, probe, {"version": version, **more})
        for path in temporary:
            _sync_tree(path)
        (policy.root / PUBLISHING).write_text(directory.name, encoding="utf-8")
        temporary[1].rename(trainer)
        temporary[0].rename(directory)
        _point(policy.root / LATEST, directory.name)
        (policy.root / PUBLISHING).unlink()
    except (OSError, SafetensorError) as error:
        for path in temporary:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(directory, error) from None
        # safetensors wraps what the system said, a full disk too, in an exception of its own
        raise OutputError(f"{directory}: cannot be written ({error}); free some space and run the step again") from None
    for old in policy.root.glob("trainer-v*"):
        if old != trainer:
            shutil.rmtree(old, ignore_errors=True)
    return Policy(directory, version, policy.root)


def unfinished(path: Path) -> Path:
    """Where a directory is written before it gets its name."""
    return path.with_name(f".{path.name}.tmp")


def _clear_leftovers(root: Path, directory: Path, others: list[Path]) -> None:
    """Take away what an interrupted update left; never a version that has been `latest`.

    Raises:
        OutputError: the version exists and was published, as after `latest` was moved back by hand.
    """
    marker = root / PUBLISHING
    interrupted = marker.is_file() and marker.read_text(encoding="utf-8") == directory.name
    if directory.exists() and not interrupted:
        raise OutputError(f"{directory}: exists already and would be replaced; move it away, or point `latest` to it")
    for path in (directory, *others):
        shutil.rmtree(path, ignore_errors=True)


def _write_checkpoint(
    path: Path,
    source: Policy,
    model: Any,
    save: Callable[[Path], None] | None,
    probe: Probe | None,
    facts: dict[str, Any],
) -> None:
    path.mkdir()
    # The tokenizer goes along byte for byte, so that its digest stays.
    for file in source.directory.iterdir():
        if file.is_file() and not file.name.endswith(NOT_COPIED) and file.name not in WRITTEN_ANEW:
            shutil.copyfile(file, path / file.name)
    (save or model.save_pretrained)(path)
    if model.get_output_embeddings() is not None:  # a critic has no engine that would prove that it holds it
        write_probe(path, model, probe)
    files = {f.name: file_facts(f) for f in sorted(path.iterdir()) if f.suffix == ".safetensors"}
    manifest = {"parent": source.digest, "digest": weights_digest(path), "files": files, **facts}
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _point(link: Path, target: str) -> None:
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    sync_directory(link.parent)


def _sync_tree(directory: Path) -> None:
    # safetensors makes files that their owner alone can read; an engine may run as somebody else.
    mode = next(directory.glob("*.json")).stat().st_mode
    for path in directory.iterdir():
        path.chmod(mode)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(directory)
