"""Loggers: what each of the four keeps, read back out of its files; that none loses a step; that text stays here."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.loggers import run_of
from entropyctl.loggers._evaluation import scalars_of
from entropyctl.loggers.mlflow import allowed
from entropyctl.table import new_record, write

from .conftest import ROOT, Cli, scored_rows
from .test_training_runs import SAMPLING, learnt

PACKAGES = ("wandb", "tensorboard", "trackio", "mlflow")
for package in PACKAGES:
    pytest.importorskip(package)
ALL = tuple(word for name in PACKAGES for word in ("--log", name))
Points = dict[str, list[tuple[int, float]]]


def offline(place: Path) -> dict[str, str]:
    """Each logger's own variables, so that all that it writes lies in one directory."""
    return {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(place),
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_CONFIG_DIR": str(place / "config"),
        "TRACKIO_DIR": str(place / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
    }


# What each of them has kept: by name, the places on the axis and the values.


def of_wandb(place: Path, axis: str = "update/step") -> Points:
    found: Points = {}
    for record in wandb_records(place):
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        for name, value in items.items():
            if name.startswith(axis.partition("/")[0]) and name != axis:
                found.setdefault(name, []).append((items[axis], value))
    return found


def wandb_records(place: Path) -> Iterator[Any]:
    """The records of wandb's transaction logs, oldest first: blocks of 32 KiB of checksum, length, kind and bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(place.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part of one
                yield Record.FromString(whole)
                whole = b""


def of_tensorboard(directory: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_trackio(place: Path, run: str, project: str = "entropyctl") -> Points:
    found: Points = {}
    with sqlite3.connect(place / "trackio" / f"{project}.db") as database:
        kept = database.execute("select run_id, step, metrics from metrics where run_name = ? order by id", [run])
        rows = kept.fetchall()
        assert len({run_id for run_id, _, _ in rows}) == 1
        for _, step, text in rows:
            for name, value in json.loads(text).items():
                found.setdefault(name, []).append((step, value))
    return found


def of_mlflow(place: Path, run: str) -> Points:
    found: Points = {}
    with sqlite3.connect(place / "mlflow.db") as database:
        asked = "select key, step, value from metrics join runs using (run_uuid) where name = ? order by step"
        for name, step, value in database.execute(asked, [run]):
            found.setdefault(name.replace("_at_", "@"), []).append((step, value))
    return found


class Trained(NamedTuple):
    """A run of three steps by two commands, with all four loggers."""

    place: Path
    rows: list[dict[str, Any]]
    out: list[str]
    err: list[str]


@pytest.fixture(scope="module")
def trained(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("loggers")
    root = place / "secret-run" / "policy"
    root.mkdir(parents=True)
    (root / "v000000").symlink_to(tiny_policy)
    (root / "latest").symlink_to("v000000")
    for name, steps in (("first", (1, 2)), ("second", (3,))):
        with write(str(place / f"{name}.parquet"), "advantaged", new_record("advantage", {}), context=SAMPLING) as sink:
            for step in steps:
                sink.put(step, learnt(step))
    words = ("--policy", "secret-run/policy", "--publish", "--metrics", "secret-run/metrics", "--json", *ALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **offline(place)}
    out, err = [], []
    for name in ("first", "second"):
        command = [sys.executable, "-m", "entropyctl", "update", f"{name}.parquet", *words]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        out.append(done.stdout)
        err.append(done.stderr)
    rows = [pq.read_table(p).to_pylist()[0] for p in sorted((place / "secret-run" / "metrics").iterdir())]
    return Trained(place, rows, out, err)


READ: dict[str, Callable[[Trained], Points]] = {
    "wandb": lambda t: of_wandb(t.place),
    "tensorboard": lambda t: of_tensorboard(t.place / "secret-run" / "tensorboard" / "secret-run"),
    "trackio": lambda t: of_trackio(t.place, f"secret-run-{run_of('update', str(t.place / 'secret-run')).id[:8]}"),
    "mlflow": lambda t: of_mlflow(t.place, "secret-run"),
}


@pytest.mark.parametrize("logger", PACKAGES)
def test_each_keeps_the_numbers_of_each_step_at_that_step(trained: Trained, logger: str) -> None:
    """The second command goes on with the run of the first: all three steps stand in one."""
    found = READ[logger](trained)
    wanted: Points = {}
    for row in trained.rows:
        for name, value in row.items():
            if value is not None and name != "step":
                wanted.setdefault(f"update/{name}", []).append((row["step"], value))
    assert [row["step"] for row in trained.rows] == [1, 2, 3]
    assert set(found) == set(wanted)
    assert {"update/entropy", "update/realised_change", "update/reward", "update/grad_norm"} <= set(found)
    for name, points in wanted.items():
        assert [x for x, _ in found[name]] == [x for x, _ in points], name
        assert [y for _, y in found[name]] == pytest.approx([y for _, y in points], rel=1e-6), name


def test_what_the_loggers_print_is_not_on_standard_output(trained: Trained) -> None:
    lines = [json.loads(line) for text in trained.out for line in text.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "offline" in trained.err[0] and "Resumed existing run" in trained.err[1]


def test_no_text_leaves_but_names(trained: Trained) -> None:
    """Neither the command line, nor the paths that the command was told, nor what wandb knows of the machine."""
    from wandb.proto.wandb_internal_pb2 import Record

    kept = b"".join(
        path.read_bytes()
        for pattern in ("secret-run/tensorboard/**/*", "trackio/*.db", "mlflow.db")
        for path in trained.place.glob(pattern)
        if path.is_file()
    )
    records: list[Record] = list(wandb_records(trained.place))
    # Where wandb keeps the run on this machine it knows itself; it is no part of what it sends.
    sent = [r for r in records if r.WhichOneof("record_type") not in ("request", "header", "footer")]
    kept += b"".join(r.SerializeToString() for r in sent)
    words = ["secret-run/policy", "secret-run/metrics", "first.parquet", "--publish", "answer 1"]
    assert [word for word in words if word.encode() in kept] == []
    kinds = {record.WhichOneof("record_type") for record in records}
    assert not kinds & {"files", "output", "output_raw", "stats", "environment", "artifact"}, kinds
    assert list(trained.place.glob("wandb/offline-run-*/files/*")) == []  # metadata, requirements, diffs


def test_the_configuration_is_numbers_alone(trained: Trained) -> None:
    with sqlite3.connect(trained.place / "mlflow.db") as database:
        params = dict(database.execute("select key, value from params"))
        status = database.execute("select name, status from runs").fetchall()
    assert (params["lr"], params["mini_batches"], params["publish"]) == ("1e-06", "1", "True")
    assert not {"policy", "inputs", "metrics", "objective", "log"} & set(params)
    assert status == [("secret-run", "FINISHED")]


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    """Responses of two versions of a policy."""
    from entropyctl.table.columns import column_from, with_column

    with write(str(tmp_path / "graded.parquet"), "scored", new_record("score", {}), context=SAMPLING) as sink:
        for version, step in ((3, 1), (5, 2)):
            rows = scored_rows(step)
            versions = column_from([version] * rows.num_rows, rows.schema.field("policy_version").type)
            sink.put(step, with_column(rows, "policy_version", versions))
    return tmp_path / "graded.parquet"


def test_an_evaluation_stands_at_its_version_in_all_four(cli: Cli, graded: Path, tmp_path: Path) -> None:
    ran = cli("eval", graded, "--json", "-q", *ALL, env=offline(tmp_path))
    assert (ran.code, ran.err) == (0, ""), ran
    groups = json.loads(ran.out)["by_policy"]
    assert [group["policy_version"] for group in groups] == [3, 5]
    run = run_of("eval", str(graded))
    for found in (
        of_wandb(tmp_path, "eval/policy_version"),
        of_tensorboard(tmp_path / "tensorboard" / run.name),
        of_trackio(tmp_path, f"{run.name}-{run.id[:8]}"),
        of_mlflow(tmp_path, run.name),
    ):
        for name in ("pass@1", "pass@4"):
            wanted = [(group["policy_version"], group["pass@k"][name[5:]]["mean"]) for group in groups]
            assert [x for x, _ in found[f"eval/{name}"]] == [3, 5]
            assert found[f"eval/{name}"] == [(x, pytest.approx(y, rel=1e-6)) for x, y in wanted]
        assert {"eval/avg@n", "eval/cons@4", "eval/entropy", "eval/truncated", "eval/problems"} <= set(found)


def test_the_loggers_own_variables_are_honoured(cli: Cli, graded: Path, tmp_path: Path) -> None:
    chosen = {
        "WANDB_PROJECT": "theirs",
        "WANDB_RUN_ID": "run-of-theirs",
        "MLFLOW_EXPERIMENT_NAME": "their-experiment",
        "TRACKIO_PROJECT": "their-project",
        "TENSORBOARD_LOGGING_DIR": "their-events",
    }
    ran = cli("eval", graded, "-q", *ALL, env=offline(tmp_path) | chosen)
    assert ran.code == 0 and ran.err == "", ran
    runs = [record.run for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert {(run.project, run.run_id) for run in runs} == {("theirs", "run-of-theirs")}
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert ("their-experiment",) in database.execute("select name from experiments").fetchall()
    run = run_of("eval", str(graded))
    assert of_trackio(tmp_path, f"{run.name}-{run.id[:8]}", "their-project")
    assert of_tensorboard(tmp_path / "their-events" / run.name)


def test_a_destination_goes_before_the_variable(cli: Cli, graded: Path, tmp_path: Path) -> None:
    ran = cli("eval", graded, "-q", "--log", "tensorboard:here", env={"TENSORBOARD_LOGGING_DIR": "there"})
    assert ran.code == 0 and os.listdir(tmp_path / "here") == [run_of("eval", str(graded)).name]
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("aim",), "--log aim: there is no 'aim'; known: mlflow, tensorboard, trackio, wandb"),
        (("tensorboard", "tensorboard:x"), "--log tensorboard:x: tensorboard is named twice; leave one out"),
        (("wandb:team",), "--log wandb:team: wandb takes no destination; its own variables say where it logs"),
    ],
)
def test_a_logger_that_cannot_be_is_said_before_the_work(cli: Cli, words: tuple[str, ...], says: str) -> None:
    flags = [part for word in words for part in ("--log", word)]
    for stage in ("eval", "update"):
        ran = cli(stage, "missing.parquet", *(("--policy", "p") if stage == "update" else ()), *flags)
        assert (ran.code, ran.line) == (2, f"entropyctl {stage}: {says}"), ran


@pytest.mark.parametrize("logger", PACKAGES)
def test_a_package_that_is_missing(cli: Cli, graded: Path, tmp_path: Path, logger: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules['{logger}'] = None\n")
    env = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}
    ran = cli("eval", graded, "--log", logger, env=env)
    wanted = f"needs {logger}, which is not installed; run pip install 'entropyctl[{logger}]'"
    assert (ran.code, ran.line) == (2, f"entropyctl eval: {wanted}")


# A logger of another package, which fails in every way.


@pytest.fixture
def other(tmp_path: Path) -> dict[str, str]:
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[entropyctl.loggers]\nnotes = other:notes\n")
    (tmp_path / "site" / "other.py").write_text(
        "import os, json\n"
        "from entropyctl.loggers import Opened\n"
        "def fail(where):\n"
        "    print('notes says', where)\n"
        "    if os.environ['FAILS_AT'] == where: raise RuntimeError(f'no {where}\\nwith a second line')\n"
        "def notes(run, destination=None):\n"
        '    """Notes: a line of JSON for each place."""\n'
        "    fail('open')\n"
        "    def log(x, scalars):\n"
        "        fail(f'log {x}')\n"
        "        with open(destination, 'a') as file: print(json.dumps([x, scalars]), file=file)\n"
        "    return Opened(log, lambda: fail('close'))\n"
    )
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"}


@pytest.mark.parametrize(
    ("where", "kept", "then"),
    [
        ("open", [], "goes on without it"),
        ("log 2", [1], "goes on without it"),
        ("close", [1, 2, 3], "what it had not sent may be lost"),
    ],
)
def test_a_logger_that_fails_loses_no_step(
    cli: Cli, policy_root: Path, other: dict[str, str], tmp_path: Path, where: str, kept: list[int], then: str
) -> None:
    with write(str(tmp_path / "m.parquet"), "advantaged", new_record("advantage", {}), context=SAMPLING) as sink:
        for step in (1, 2, 3):
            sink.put(step, learnt(step))
    words = ("--publish", "--metrics", "metrics", "--json", "--log", "notes:notes.jsonl", "--log", "tensorboard:events")
    ran = cli("update", "--policy", policy_root, "m.parquet", *words, env=other | {"FAILS_AT": where})
    assert ran.code == 0, ran
    assert [json.loads(line)["step"] for line in ran.text.splitlines()] == [1, 2, 3]  # and nothing of the logger's
    assert sorted(os.listdir(tmp_path / "metrics")) == [f"step-00000{n}.parquet" for n in (1, 2, 3)]
    assert (policy_root / "latest").readlink() == Path("v000003")
    said = [line for line in ran.err.splitlines() if line.startswith("entropyctl")]
    assert said == [f"entropyctl: update: --log notes:notes.jsonl: RuntimeError: no {where}; {then}"], ran
    written = tmp_path / "notes.jsonl"
    lines = written.read_text().splitlines() if written.exists() else []
    assert [json.loads(line)[0] for line in lines] == kept
    assert [x for x, _ in of_tensorboard(tmp_path / "events" / tmp_path.name)["update/entropy"]] == [1, 2, 3]


def test_nothing_to_log_makes_no_run(cli: Cli, tmp_path: Path) -> None:
    ran = cli("eval", "missing.parquet", "--log", "tensorboard:events", "--log", "mlflow", env=offline(tmp_path))
    assert ran.code == 3 and os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_stops_nothing(cli: Cli, graded: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = cli("eval", graded, "--json", "--log", "tensorboard:file")
    assert ran.code == 0 and json.loads(ran.out)["pooled"]["problems"] == 3
    assert ran.line.startswith("entropyctl: eval: --log tensorboard:file: ") and ran.line.endswith("goes on without it")


# Names.


def test_a_run_is_named_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "grpo.7b" / "policy" / "v000002").mkdir(parents=True)
    base = run_of("update", "runs/grpo.7b")
    assert (base.name, base.directory, base.axis) == ("grpo.7b", str(tmp_path / "runs" / "grpo.7b"), "update/step")
    for path in ("policy", "policy/", "metrics", "policy/v000002", "policy/latest"):
        assert run_of("update", f"runs/grpo.7b/{path}") == base
    assert run_of("update", str(tmp_path / "runs" / "grpo.7b" / "policy")) == base
    evaluated = run_of("eval", "runs/grpo.7b/scored.parquet")
    assert (evaluated.name, evaluated.directory) == ("grpo.7b-eval", base.directory)
    assert evaluated.axis == "eval/policy_version"
    assert run_of("eval", "-").directory == run_of("eval", None).directory == str(tmp_path)
    others = [base, evaluated, run_of("update", "runs/other"), run_of("update", "elsewhere/grpo.7b")]
    assert len({run.id for run in others}) == 4


def test_the_configuration_of_a_run_is_its_numbers() -> None:
    options = {"lr": 1e-6, "publish": True, "policy": "a/b", "keep": None, "norm": float("inf"), "words": ["x"]}
    assert run_of("update", "x", options).config == {"lr": 1e-6, "publish": True}


def test_the_scalars_of_an_evaluation() -> None:
    group = {
        "policy_version": 3,
        "problems": 2,
        "pass@k": {"1": {"mean": 0.5, "low": 0.1, "high": 0.9}, "4": {"mean": 1.0, "low": None, "high": None}},
        "cons@k": {"4": 0.25},
        "avg@n": {"mean": 0.5, "low": 0.1, "high": 0.9},
        "maj@n": None,
        "entropy": 1.5,
        "by": {"gsm8k": {"mean": 0.75}},
        "policy": "run/policy",
    }
    assert scalars_of(group) == {
        **{"policy_version": 3, "problems": 2, "pass@1": 0.5, "pass@4": 1.0, "cons@4": 0.25, "avg@n": 0.5},
        **{"entropy": 1.5, "by/gsm8k": 0.75},
    }


@given(st.text(min_size=1, max_size=30))
def test_mlflow_takes_every_name(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(f"eval/a{allowed(name).replace('/', '')}")
    assert allowed("eval/pass@8") == "eval/pass_at_8"
