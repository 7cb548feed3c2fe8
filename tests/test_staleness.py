"""Which version scores a step, which versions' steps may be trained on, and what a loop is refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from entropyctl.errors import InputError, MismatchError, UsageError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.following import Following, Turning
from entropyctl.policy.versions import find_version
from entropyctl.table import Source, new_record, read, write
from entropyctl.training import scored
from entropyctl.training.scored import check_loop, check_policy, check_step, lag, scorers

from .conftest import CONTEXT, ROOT, Cli, scored_rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Versions 0, 1 and 2 of a policy that no library could load."""
    root = tmp_path / "policy"
    for k in range(3):
        (root / f"v00000{k}").mkdir(parents=True)
        (root / f"v00000{k}" / "config.json").write_text("{}")
        (root / f"v00000{k}" / "model.safetensors").write_bytes(bytes([k]))
    (root / "latest").symlink_to("v000002")
    return root


def digests(root: Path) -> dict[str, str]:
    return {str(k): find_version(root, k).digest for k in range(3)}


def rows_of(step: int, *versions: int | None) -> pa.Table:
    rows = scored_rows(step, groups=1, samples=len(versions))
    return rows.set_column(rows.column_names.index("policy_version"), "policy_version", pa.array(versions, pa.int64()))


def table(context: dict, *steps: pa.Table, allow: tuple[str, ...] = ()) -> Source:
    out = io.BytesIO()
    with write(None, "scored", new_record("x", {}), context=CONTEXT | context, stdout=out) as sink:
        for rows in steps:
            sink.put(rows["step"][0].as_py(), rows)
    return read(["-"], stdin=io.BytesIO(out.getvalue()), allow_mismatch=allow)


class Marker:
    """A scorer that writes which version scored into `predicted`."""

    role = "policy"
    columns = ("predicted",)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def score(self, rows: pa.Table) -> pa.Table:
        names = pa.array([self.policy.directory.name] * rows.num_rows, pa.string())
        return rows.set_column(rows.column_names.index("predicted"), "predicted", names)

    def as_dict(self) -> dict[str, Any]:
        return {}


def follow(source: Source, root: Path, at: str) -> Following:
    policy = find_policy(str(root))
    return Following(Marker(policy), Turning(policy, lambda p: None, stays=False), source, at, "float32")  # type: ignore[arg-type,return-value]


def test_each_step_is_scored_by_the_version_that_its_rows_name(root: Path) -> None:
    known = digests(root)
    source = table({"policies": known}, rows_of(1, 0, 0), rows_of(2, 2, 1, 2))
    following = follow(source, root, "sampled")
    found = []
    for step in source:
        rows = following.score(step.rows)
        found.append((rows["predicted"].to_pylist(), following.facts(step.number)["scoring"]["policies"]))
        assert rows["sample"].to_pylist() == step.rows["sample"].to_pylist()  # in their order
    assert found == [
        (["v000000"] * 2, {"0": known["0"]}),
        (["v000002", "v000001", "v000002"], {"1": known["1"], "2": known["2"]}),
    ]


def test_the_newest_scores_where_that_is_asked_for(root: Path) -> None:
    known = digests(root)
    source = table({"policies": known}, rows_of(1, 2), rows_of(2, 1), rows_of(3, 1))
    following = follow(source, root, "latest")
    said = []
    for step in source:
        assert following.score(step.rows)["predicted"].to_pylist() == ["v000002"]
        said.append(following.facts(step.number)["scoring"])
        if step.number == 2:
            (root / "v000003").mkdir()
            for name in ("config.json", "model.safetensors"):
                (root / "v000003" / name).write_bytes((root / "v000002" / name).read_bytes())
            (root / "v000003" / "model.safetensors").write_bytes(b"new")
            break
    (root / "latest").unlink()
    (root / "latest").symlink_to("v000003")
    following.score(rows_of(3, 1))
    said.append(following.facts(3)["scoring"])
    newest = find_policy(str(root)).digest
    # version 1's rows were scored by two versions: what holds for one step alone is said of that step
    assert said == [
        {"policies": {"2": known["2"]}},
        {"policies": {"1": known["2"]}},
        {"steps": {"policies": {"3": newest}}},
    ]


def test_a_version_of_another_policy_and_one_that_is_gone_are_refused(root: Path) -> None:
    source = table({"policies": digests(root) | {"1": "another"}}, rows_of(1, 1))
    with pytest.raises(MismatchError, match=r"was sampled by version 1 \(another\)"):
        follow(source, root, "sampled").score(rows_of(1, 1))
    with pytest.raises(MismatchError, match=r"was sampled by version 1 \(another\)"):
        follow(source, root, "latest").score(rows_of(1, 1))
    with pytest.raises(InputError, match="v000007: is not there; keep more versions"):
        follow(source, root, "sampled").score(rows_of(1, 7))
    allowed = table({"policies": digests(root) | {"1": "another"}}, rows_of(1, 1), allow=("policies",))
    assert follow(allowed, root, "sampled").score(rows_of(1, 1))["predicted"].to_pylist() == ["v000002"]


SCORED = {
    "policies": {"0": "d0", "1": "d1"},
    "scoring": {"policies": {"0": "s0", "1": "s1"}, "steps": {"policies": {"9": "s9"}}},
}


def test_who_scored_a_step() -> None:
    source = table(SCORED, rows_of(1, 0))
    assert scorers(source, 1, rows_of(1, 0)) == {"s0"}
    assert scorers(source, 1, rows_of(1, 0, 1)) == {"s0", "s1"}
    assert scorers(source, 9, rows_of(9, 0)) == {"s9"}
    assert scorers(source, 1, rows_of(1, None)) == {"s0", "s1"}
    assert scorers(source, 1, rows_of(1, 0), "critic") == set()
    assert scorers(table({"scoring": {}}, rows_of(1, 0)), 1, rows_of(1, 0)) == {"d0"}  # the policy that sampled
    with pytest.raises(MismatchError, match="rows of version 5, of which its context says nothing"):
        scorers(source, 1, rows_of(1, 5))


def test_a_step_may_be_older_than_the_weights_but_not_than_the_run(root: Path) -> None:
    known = digests(root)
    source = table({"policies": known, "scoring": {"policies": known}}, rows_of(1, 1))
    newest = find_policy(str(root))
    run = {known["1"], known["2"]}  # what a run that began with version 1 has stood for
    check_policy(source, newest, ())
    check_step(source, 2, rows_of(2, 1, 2), run, newest, ())
    assert (
        lag(rows_of(2, 2, 1), newest) == 1 and lag(rows_of(2, 2), newest) == 0 and lag(rows_of(2, None), newest) is None
    )
    with pytest.raises(MismatchError, match="was scored by policy"):
        check_step(source, 1, rows_of(1, 0), run, newest, ())  # trained before the run began
    check_step(source, 1, rows_of(1, 0), run, newest, ("scoring.policies",))
    old = table({"policies": {"0": known["0"]}}, rows_of(1, 0))
    with pytest.raises(MismatchError, match="was scored by policy"):
        check_policy(old, newest, ())


def test_what_would_leave_rollout_waiting_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = find_policy(str(root))
    params = {"max_lag": 2, "policy": str(root)}
    monkeypatch.setattr(scored, "_waiting", lambda source: params)
    check_loop(None, policy, publish=True, keep=3)  # type: ignore[arg-type]
    for publish, keep, words in ((False, None, "give --publish"), (True, 2, "needs --keep 3 or more")):
        with pytest.raises(UsageError, match=words):
            check_loop(None, policy, publish=publish, keep=keep)  # type: ignore[arg-type]
    params["policy"] = str(tmp_path)
    with pytest.raises(UsageError, match="waits for versions in"):
        check_loop(None, policy, publish=True, keep=None)  # type: ignore[arg-type]


def test_a_loop_into_a_file_is_refused(cli: Cli, root: Path, tmp_path: Path) -> None:
    options = ("--policy", root, "--prompts", "p.jsonl", "--max-lag", 0)
    for more in (("-o", "r.parquet"),):
        ran = cli("rollout", *options, *more)
        assert ran.code == 2 and "the output must be a pipe" in ran.line, ran
    with open(tmp_path / "file", "wb") as file:
        command = [sys.executable, "-m", "entropyctl", "rollout", *map(str, options)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, cwd=tmp_path, env=env, stdout=file, stderr=subprocess.PIPE)
    assert ran.returncode == 2 and b"the output must be a pipe" in ran.stderr
