"""Policies on disk: found, told apart, published whole, locked."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from entropyctl.errors import InputError, Locked, MismatchError, OutputError, UsageError
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.publish import locked, policy_to_train, publish
from entropyctl.policy.trainer_state import Shard, load_trainer_state, write_shard
from entropyctl.policy.versions import weights_digest

from .conftest import ROOT

CPU = torch.device("cpu")
STATE = {"w:exp_avg": torch.arange(3.0)}


def state(directory: Path) -> None:
    write_shard(directory, Shard(STATE, {}))


def test_a_plain_checkpoint_is_version_0(tiny_policy: Path) -> None:
    policy = find_policy(str(tiny_policy))
    assert (policy.version, policy.root, policy.directory) == (0, None, tiny_policy)
    assert len(policy.digest) == 32


def test_a_directory_of_versions_means_its_latest(policy_root: Path, tiny_policy: Path) -> None:
    policy = find_policy(str(policy_root))
    assert (policy.version, policy.root) == (0, policy_root)
    assert policy.digest == find_policy(str(tiny_policy)).digest


def test_publishing_makes_a_version_that_loads_and_is_latest(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, CPU)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    fresh = publish(policy, model, state, {"optimizer_steps": 4})
    found = find_policy(str(policy_root))
    assert found == fresh and found.version == 1
    again = load_model(found, torch.float32, CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert found.digest == weights_digest(found.directory) != policy.digest
    assert found.tokenizer_digest == policy.tokenizer_digest
    assert len({path.stat().st_mode for path in found.directory.iterdir()}) == 1  # nobody is locked out of the weights
    tensors, facts = load_trainer_state(found)
    assert facts == {"optimizer_steps": 4} and torch.equal(tensors["w:exp_avg"], STATE["w:exp_avg"])
    # the next version replaces the trainer's state and keeps the weights of this one
    publish(fresh, model, state, {"optimizer_steps": 5})
    assert sorted(p.name for p in policy_root.iterdir() if not p.name.startswith(".")) == [
        "latest",
        "trainer-v000002",
        "v000000",
        "v000001",
        "v000002",
    ]


def test_a_manifest_is_not_believed_when_the_files_changed(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    fresh = publish(policy, load_model(policy, torch.float32, CPU), state, {})
    published = fresh.digest
    weights = fresh.directory / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)  # of the same size
    assert find_policy(str(policy_root)).digest != published


PUBLISH = """
import sys, torch
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.publish import publish
from entropyctl.policy.trainer_state import Shard, write_shard
policy = find_policy(sys.argv[1])
model = load_model(policy, torch.float32, torch.device("cpu"))
print("ready", flush=True)
while True:
    policy = publish(policy, model, lambda path: write_shard(path, Shard({"w": torch.zeros(2)}, {})), {})
    print(policy.version, flush=True)
"""


def test_a_killed_publisher_leaves_a_whole_latest(policy_root: Path) -> None:
    for kill_after in (1, 2, 3):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, "-c", PUBLISH, policy_root], stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        for _ in range(1 + kill_after):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = find_policy(str(policy_root))
        assert json.loads((found.directory / "entropyctl.json").read_text())["digest"] == weights_digest(
            found.directory
        )
        load_model(found, torch.float32, CPU)
        assert (policy_root / f"trainer-{found.directory.name}" / "optimizer.safetensors").is_file()


def test_two_trainers_of_one_policy_exclude_each_other(policy_root: Path) -> None:
    with locked(policy_root), pytest.raises(Locked, match="another update trains this policy"), locked(policy_root):
        pass
    with locked(policy_root):
        pass


@pytest.mark.parametrize("limit", [2_000, 40_000])
def test_a_refused_write_leaves_the_policy_as_it_was(policy_root: Path, limit: int) -> None:
    """Files may not grow beyond a limit: first the tokenizer's copy fails, then the weights, inside safetensors."""
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, CPU)
    before = sorted(path.name for path in policy_root.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError):
            publish(policy, model, state, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert find_policy(str(policy_root)) == policy
    assert sorted(path.name for path in policy_root.iterdir()) == before


def test_a_published_version_is_never_replaced(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, CPU)
    published = publish(policy, model, state, {})
    weights = (published.directory / "model.safetensors").stat()
    with pytest.raises(MismatchError, match="is v000001 now, but v000000 was trained"):
        publish(policy, model, state, {})  # another trainer was faster
    (policy_root / "latest").unlink()
    (policy_root / "latest").symlink_to("v000000")  # somebody goes back
    with pytest.raises(OutputError, match="exists already and would be replaced; move it away"):
        publish(policy, model, state, {})
    assert (published.directory / "model.safetensors").stat() == weights
    assert (policy_root / "trainer-v000001").is_dir()


def test_what_an_interrupted_publisher_left_is_replaced(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, CPU)
    publish(policy, model, state, {})
    # as if it had been killed between the renames and the change of `latest`
    (policy_root / "latest").unlink()
    (policy_root / "latest").symlink_to("v000000")
    (policy_root / ".publishing").write_text("v000001")
    assert publish(policy, model, state, {}).version == 1
    assert not (policy_root / ".publishing").exists()


def test_the_policy_is_resolved_again_once_it_is_locked(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    with policy_to_train(str(policy_root), publish=True) as found:
        assert found == policy
        with pytest.raises(Locked), policy_to_train(str(policy_root), publish=True):
            pass
        publish(policy, load_model(policy, torch.float32, CPU), state, {})
    with policy_to_train(str(policy_root), publish=True) as found:
        assert found.version == 1


def test_damaged_trainer_state_names_the_remedy(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    fresh = publish(policy, load_model(policy, torch.float32, CPU), state, {})
    (policy_root / "trainer-v000001" / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="remove it to start with a fresh optimiser"):
        load_trainer_state(fresh)


def test_a_latest_that_points_elsewhere_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_policy, tmp_path / "odd" / "mine")
    (tmp_path / "odd" / "latest").symlink_to("mine")
    with pytest.raises(InputError, match="must point to a version such as v000000"):
        find_policy(str(tmp_path / "odd"))


def test_publishing_to_one_version_of_a_directory_names_the_directory(policy_root: Path) -> None:
    version = policy_root / "v000000"
    words = rf"v000000: is one version of {policy_root}; to publish the next one give --policy {policy_root}$"
    with pytest.raises(UsageError, match=words), policy_to_train(str(version), publish=True):
        pass
