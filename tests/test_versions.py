"""Old versions of a policy: who may delete them, who holds them, and which step made which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from entropyctl.errors import InputError, UsageError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.holding import delete_old_versions, held
from entropyctl.policy.versions import find_version, finished_step
from entropyctl.policy.waiting import resident_steps, version_for_step


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Versions 0 to 4, of which 0 is a link to a checkpoint elsewhere; `latest` is 3, and 4 is unfinished business."""
    root = tmp_path / "policy"
    for directory in (tmp_path / "base", *(root / f"v00000{k}" for k in (1, 2, 3, 4))):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(b"")
    (root / "v000000").symlink_to(tmp_path / "base")
    (root / "latest").symlink_to("v000003")
    return root


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != "latest")


def test_the_newest_are_kept(root: Path, tmp_path: Path) -> None:
    deleted = delete_old_versions(root, keep=2)
    assert [path.name for path in deleted] == ["v000000", "v000001"]
    assert names(root) == ["v000002", "v000003", "v000004"]
    assert (tmp_path / "base" / "config.json").exists()  # the link went, and nothing behind it
    assert delete_old_versions(root, keep=9) == []


def test_what_somebody_reads_stays(root: Path) -> None:
    with held(find_version(root, 1)), held(find_version(root, 1)):  # two readers
        assert [path.name for path in delete_old_versions(root, keep=1)] == ["v000000", "v000002"]
        assert names(root) == ["v000001", "v000003", "v000004"]
    assert [path.name for path in delete_old_versions(root, keep=1)] == ["v000001"]


def test_latest_stays_wherever_it_points(root: Path) -> None:
    (root / "latest").unlink()
    (root / "latest").symlink_to("v000001")
    delete_old_versions(root, keep=1)
    assert names(root) == ["v000001", "v000002", "v000003", "v000004"]


def test_a_version_that_is_gone_is_named(root: Path) -> None:
    gone = find_version(root, 1)
    delete_old_versions(root, keep=1)
    with pytest.raises(InputError, match="v000001: has been deleted; keep more versions"), held(gone):
        pass
    with pytest.raises(InputError, match="v000001: is not there; keep more versions"):
        find_version(root, 1)
    assert find_version(root, 3) == find_policy(str(root))


def test_the_step_of_a_version(root: Path, tmp_path: Path) -> None:
    def manifest(directory: Path, **facts: int) -> None:
        (directory / "entropyctl.json").write_text(json.dumps(facts))

    assert finished_step(find_policy(str(root))) == 0  # no manifest: no update made it
    manifest(root / "v000003", version=3, step=7)
    assert finished_step(find_policy(str(root))) == 7
    manifest(root / "v000003", version=3)  # published by an update that did not say
    assert finished_step(find_policy(str(root))) == 3
    manifest(tmp_path / "base", version=20, step=20)  # what another run published, as version 0 of this one
    assert finished_step(find_version(root, 0)) == 0


def test_which_steps_a_loop_samples(root: Path) -> None:
    policy = find_policy(str(root))
    (root / "v000003" / "entropyctl.json").write_text('{"version": 3, "step": 7}')
    assert list(resident_steps(policy, None, 9, 0)) == [8, 9]  # goes on, up to step 9
    assert list(resident_steps(policy, None, 7, 0)) == []
    assert list(resident_steps(policy, 3, 2, 0)) == [3, 4]
    assert list(resident_steps(policy, None, 2, None)) == [1, 2]


def test_which_version_samples_a_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = find_policy(str(root))
    waits = []

    def publish(seconds: float) -> None:
        waits.append(seconds)
        shutil.move(root / "latest", root / "old")
        (root / "latest").symlink_to("v000004")

    monkeypatch.setattr("time.sleep", publish)
    lag_1 = version_for_step(start, range(8, 12), 1)
    assert (lag_1(8).version, lag_1(9).version, waits) == (3, 3, [])  # one step ahead of the training, without a wait
    assert lag_1(10).version == 4 and len(waits) == 1
    assert lag_1(8).version == 4  # always the newest there is
    assert version_for_step(start, range(8, 12), None)(11) == start
    with pytest.raises(UsageError, match="is one checkpoint; give a directory of versions"):
        version_for_step(Policy(root / "v000003", 0), range(1, 2), 0)
