"""Policies on disk: found, told apart, published whole, locked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from entropyctl.errors import InputError, Locked, OutputError
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.publish import load_trainer_state, locked, publish
from entropyctl.policy.versions import weights_digest

from .conftest import ROOT

CPU = torch.device("cpu")
STATE = {"w:exp_avg": torch.arange(3.0)}


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
    fresh = publish(policy, model, STATE, {"optimizer_steps": 4})
    found = find_policy(str(policy_root))
    assert found == fresh and found.version == 1
    again = load_model(found, torch.float32, CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert found.digest == weights_digest(found.directory) != policy.digest
    assert found.tokenizer_digest == policy.tokenizer_digest
    assert len({path.stat().st_mode for path in found.directory.iterdir()}) == 1  # nobody is locked out of the weights
    state, facts = load_trainer_state(found)
    assert facts == {"optimizer_steps": 4} and torch.equal(state["w:exp_avg"], STATE["w:exp_avg"])
    # the next version replaces the trainer's state and keeps the weights of this one
    publish(fresh, model, STATE, {"optimizer_steps": 5})
    assert sorted(p.name for p in policy_root.iterdir() if not p.name.startswith(".")) == [
        "latest",
        "trainer-v000002",
        "v000000",
        "v000001",
        "v000002",
    ]


def test_a_manifest_is_not_believed_when_the_files_changed(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    fresh = publish(policy, load_model(policy, torch.float32, CPU), STATE, {})
    published = fresh.digest
    weights = fresh.directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert find_policy(str(policy_root)).digest != published


PUBLISH = """
import sys, torch
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.publish import publish
policy = find_policy(sys.argv[1])
model = load_model(policy, torch.float32, torch.device("cpu"))
print("ready", flush=True)
while True:
    policy = publish(policy, model, {"w": torch.zeros(2)}, {})
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


def test_a_refused_write_leaves_the_policy_as_it_was(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    model = load_model(policy, torch.float32, CPU)
    (policy_root / ".v000001.tmp").write_text("a file where the directory should be made")
    with pytest.raises(OutputError):
        publish(policy, model, STATE, {})
    assert find_policy(str(policy_root)) == policy


def test_damaged_trainer_state_names_the_remedy(policy_root: Path) -> None:
    policy = find_policy(str(policy_root))
    fresh = publish(policy, load_model(policy, torch.float32, CPU), STATE, {})
    (policy_root / "trainer-v000001" / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="remove it to start with a fresh optimiser"):
        load_trainer_state(fresh)


def test_a_latest_that_points_elsewhere_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_policy, tmp_path / "odd" / "mine")
    (tmp_path / "odd" / "latest").symlink_to("mine")
    with pytest.raises(InputError, match="must point to a version such as v000000"):
        find_policy(str(tmp_path / "odd"))
