"""`entropyctl top`: what the processes of a loop say of themselves, and how a terminal shows it."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from entropyctl.errors import EngineError, StreamEndedEarly
from entropyctl.show.curve import curve
from entropyctl.show.top import amount, duration
from entropyctl.show.watch import find_run, look, stages_of
from entropyctl.table import new_record, write
from entropyctl.table.activity import DIRECTORY, Activity, read_activities

from .conftest import ROOT, Cli
from .test_loop_resident import ENDS_WITHIN, STAGES, Pipe, make_place, version

NAMES = ["rollout", "score", "advantage grpo", "mask clip-v", "update"]
Look = dict[str, Any]


@pytest.fixture
def place(tmp_path: Path, tiny_policy: Path) -> Path:
    """A directory with prompts, a grader and a policy of version 0."""
    return make_place(tmp_path, tiny_policy)


def steps(number: int) -> str:
    return STAGES["rollout"].replace("--steps 3", f"--steps {number}")


def until(pipe: Pipe, place: Path, holds: Callable[[Look], bool]) -> Look:
    """Look until something holds, while all processes live."""
    run = find_run(str(place / "run"), None)
    while not holds(found := look(run)):
        assert all(process.poll() is None for process in pipe.processes.values()), (found, pipe)
        time.sleep(0.05)
    return found


def test_a_loop_that_runs_is_seen_and_so_are_a_pause_a_death_and_a_good_end(place: Path, cli: Cli) -> None:
    def waits(found: Look) -> dict[str, str | None]:
        return {stage["stage"]: stage["waits_for"] for stage in found["stages"]}

    pipe = Pipe(place, rollout=steps(500))
    pipe.until_version(place / "run" / "policy", 2)
    until(pipe, place, lambda found: [s["stage"] for s in found["stages"] if s["steps"] >= 2] == NAMES)
    ran = cli("top", "run", "--json")
    assert ran.code == 0, ran
    found = json.loads(ran.out)
    assert [(s["stage"], s["standing"], s["place"]) for s in found["stages"]] == [
        (name, "runs", i) for i, name in enumerate(NAMES)
    ]
    assert [s["pid"] for s in found["stages"]] == [pipe.processes[name].pid for name in STAGES]
    assert found["policy"]["version"] >= 2 and found["until"] == 500 and found["busiest"] in NAMES
    assert all(s["tokens"] > 0 and s["tokens_per_second"] > 0 and 0 < s["share"] <= 1 for s in found["stages"]), found
    assert len(found["curves"]["entropy"]) >= 2 and found["last"]["step"] >= 2

    pipe.processes["score"].send_signal(signal.SIGSTOP)
    behind = {"advantage grpo": "score", "mask clip-v": "advantage grpo", "update": "mask clip-v"}
    # Rollout ends the step that it is in, and then waits for the version that it makes, or for room in the pipe.
    until(
        pipe,
        place,
        lambda found: (
            _stopped(found)
            and behind.items() <= waits(found).items()
            and re.fullmatch(r"version \d+|score", str(waits(found)["rollout"])) is not None
        ),
    )
    assert "score is stopped" in cli("top", "run", "--once").text
    pipe.processes["score"].send_signal(signal.SIGKILL)
    pipe.wait(ENDS_WITHIN)

    found = json.loads(cli("top", "run", "--json").out)
    assert [s["standing"] for s in found["stages"]] == ["ended", "died", "ended", "ended", "ended"], found
    screen = cli("top", "run", "--once").text
    assert re.search(r"^score died in step \d+ \(pid \d+\); the same command goes on with the run$", screen, re.M), (
        screen
    )

    again = Pipe(place, rollout=steps(version(place) + 1))
    assert set(again.wait().values()) == {0}, again
    assert not (place / "run" / "policy" / DIRECTORY).exists()
    found = json.loads(cli("top", "run", "--json").out)
    assert found["stages"] == [] and found["busiest"] is None and len(found["curves"]["step"]) == version(place)


def _stopped(found: Look) -> bool:
    return [s["standing"] for s in found["stages"]] == ["runs", "stopped", "runs", "runs", "runs"]


def said(root: Path) -> list[dict[str, Any]]:
    return read_activities(root)


def test_what_cannot_be_kept_true_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / DIRECTORY).mkdir()
    activity = Activity(str(tmp_path), "mask none", "p", 3)
    activity.doing("computes", step=7)
    activity._write()
    assert [(one["stage"], one["step"], one["standing"]) for one in said(tmp_path)] == [("mask none", 7, "runs")]

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        activity._write()
    assert list((tmp_path / DIRECTORY).iterdir()) == []
    shutil.rmtree(tmp_path / DIRECTORY)  # as another pipe does that ends
    activity._write()
    activity._write()
    assert [one["step"] for one in said(tmp_path)] == [7]
    with activity:
        activity.doing("reads")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_told_the_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).write_text("a file where the directory should be")
    with Activity(str(tmp_path), "mask none") as activity:
        activity.doing("computes", step=1)
    assert (tmp_path / DIRECTORY).read_text() == "a file where the directory should be"


def test_a_stage_that_fails_tells_why(tmp_path: Path, tiny_policy: Path, cli: Cli) -> None:
    run = old_run(tmp_path, tiny_policy)
    with (
        Activity(str(run / "policy"), "rollout", "p", 0),
        pytest.raises(EngineError),
        Activity(str(run / "policy"), "score", "p", 1) as activity,
    ):
        activity.doing("computes", step=4)
        raise EngineError("--reward x: failed: \x1b[31mred\nink")
    ran = cli("top", run)
    assert ran.text.splitlines()[1] == "score failed in step 4; the same command goes on with the run", ran
    assert re.search(r"^score: --reward x: failed:.*red ink$", ran.text, re.M) and "\x1b" not in ran.text, ran


def test_a_loop_that_begins_takes_away_what_a_dead_one_has_left(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    half = tmp_path / DIRECTORY / "score-1-x.json.tmp"
    half.write_text("{")
    os.utime(half, (0, 0))
    mine = Activity(str(tmp_path), "score", "p", 1)._facts()
    (tmp_path / DIRECTORY / "dead.json").write_text(json.dumps(mine | {"born": 0, "machine": mine["machine"]}))
    (tmp_path / DIRECTORY / "alive.json").write_text(json.dumps(mine | {"stage": "alive"}))
    with Activity(str(tmp_path), "rollout", "q", 0, begins=True):
        pass
    assert [path.name for path in (tmp_path / DIRECTORY).iterdir()] == ["alive.json"]


@pytest.mark.parametrize("ended", [KeyboardInterrupt, BrokenPipeError, StreamEndedEarly])
def test_an_interruption_and_the_death_of_a_neighbour_are_no_failures(
    ended: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(ended), Activity(str(tmp_path), "score", "p", 1):
        raise ended
    assert list(tmp_path.iterdir()) == []


def test_a_stage_of_no_loop_keeps_no_file(scored: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("mask", "none", scored, "-o", "masked.parquet").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masked.parquet", "scored.parquet"]


def facts(stage: str, place: int, doing: str, **more: Any) -> dict[str, Any]:
    found = {"stage": stage, "pipe": "p", "place": place, "until": None, "host": "h", "machine": "other", "pid": 1}
    found |= {"born": 5, "version": None, "written": time.time(), "doing": doing, "since": time.time() - 2.0}
    return found | {"about": None, "step": 4, "steps": 3, "tokens": 30, "recent": None, "standing": "runs"} | more


@pytest.mark.parametrize(
    ("doing", "expected"),
    [
        # sampling: all the others wait for their neighbour in front
        (["computes", "reads", "reads", "reads"], [None, "a", "b", "c"]),
        # bytes on their way are no wait
        (["writes", "reads", "reads", "reads"], [None, None, "b", "c"]),
        # a slow last stage: the pipe is full up to the first
        (["writes", "writes", "writes", "computes"], ["b", "c", "d", None]),
        (["waits", "reads", "computes", "reads"], ["version 7", "a", None, "c"]),
        (["ended", "reads", "loads", "starts"], [None, "a", None, None]),
    ],
)
def test_who_waits_for_whom(doing: list[str], expected: list[str | None]) -> None:
    pipe = [
        facts("abcd"[i], i, what, about=7, standing="ended" if what == "ended" else "runs")
        for i, what in enumerate(doing)
    ]
    assert [stage["waits_for"] for stage in stages_of(pipe, 6, time.time())] == expected


def test_two_pipes_of_a_policy_do_not_wait_for_each_other() -> None:
    pipes = [facts("a", 0, "computes"), facts("b", 1, "reads"), facts("c", 1, "reads", pipe="q")]
    assert [stage["waits_for"] for stage in stages_of(pipes, None, 0.0)] == [None, "a", "input"]


def test_speed_is_of_the_time_at_work_and_the_share_of_all_time() -> None:
    now = 1000.0
    recent = {"since": 980.0, "busy": 4.0, "steps": 4, "seconds": 18.0, "tokens": 1200, "tokens_seconds": 3.0}
    (stage,) = stages_of([facts("a", 0, "computes", since=999.0, recent=recent, version=2)], 3, now)
    assert stage["tokens_per_second"] == 400.0
    assert stage["share"] == (4.0 + 1.0) / 20.0
    assert (stage["lag"], stage["seconds"]) == (1, 1.0)


def test_a_process_of_another_machine_is_silent_after_a_while_and_one_of_this_is_known_to_be_dead(
    tmp_path: Path,
) -> None:
    directory = tmp_path / DIRECTORY
    directory.mkdir()
    mine = Activity(str(tmp_path), "mine")._facts()
    late = {"written": time.time() - 60}
    for name, one in {
        "a": facts("late elsewhere", 0, "computes", **late),
        "b": facts("elsewhere", 1, "computes"),
        "c": mine | {"place": 2, **late},
        "d": mine | {"place": 3, "born": (mine["born"] or 0) + 1},  # its number was given to another process
        "e": mine | {"place": 4, "doing": "ended"},
    }.items():
        (directory / f"{name}.json").write_text(json.dumps(one | {"pipe": "p"}))
    assert [one["standing"] for one in said(tmp_path)] == ["silent", "runs", "runs", "died", "ended"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"stage": 3}', json.dumps(facts("x", 0, "reads", recent={"since": "then"}))]
)
def test_damaged_files_say_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "x.json").write_text(text)
    assert said(tmp_path) == []


def old_run(place: Path, tiny_policy: Path, steps: int = 3) -> Path:
    """A run on files, as `update --metrics` leaves it; with fewer columns."""
    run = place / "run"
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "v000000").symlink_to(tiny_policy)
    (run / "policy" / "latest").symlink_to("v000000")
    (run / "metrics").mkdir()
    for step in range(1, steps + 1):
        row = {"step": [step], "entropy": [2.0 - step / 4], "reward": [step / 8], "lag": [0]}
        row |= {"predicted_change": [-0.25], "realised_change": [-0.5]}
        with write(str(run / "metrics" / f"step-{step:06d}.parquet"), "metrics", new_record("update", {})) as sink:
            sink.put(step, pa.table(row))
    return run


def test_a_run_on_files_has_its_curves(cli: Cli, tmp_path: Path, tiny_policy: Path) -> None:
    run = old_run(tmp_path, tiny_policy)
    (run / "metrics" / "step-000009.parquet").write_bytes(b"PAR1 and then nothing")
    for name in (run, run / "policy"):
        found = json.loads(cli("top", name, "--json").out)
        assert found["policy"]["version"] == 0 and found["stages"] == []
        assert found["curves"] == {
            "step": [1, 2, 3],
            "entropy": [1.75, 1.5, 1.25],
            "reward": [0.125, 0.25, 0.375],
            "predicted_change": [-0.25] * 3,
            "realised_change": [-0.5] * 3,
        }
    ran = cli("top", run, env={"COLUMNS": "80"})
    assert ran.code == 0 and ran.err == "", ran
    assert "no process of this run is at work in a pipe; metrics up to step 3" in ran.text
    assert "entropy, nats  1.25, at first 1.75" in ran.text and "sign right 3/3" in ran.text
    assert max(len(line) for line in ran.text.splitlines()) <= 80
    assert all(char.isprintable() or char == "\n" for char in ran.text)
    plain = cli("top", run, env={"PYTHONIOENCODING": "ascii"})
    assert plain.text.isascii() and "*" in plain.text and "\\u" not in plain.text


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_run(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ran = cli("top", name)
    assert ran.code == 3 and ran.line.startswith(f"entropyctl top: {name}: ") and "; name " in ran.line, ran


def test_names_of_stages_cannot_reach_the_terminal_as_commands(cli: Cli, tmp_path: Path, tiny_policy: Path) -> None:
    run = old_run(tmp_path, tiny_policy)
    (run / "policy" / DIRECTORY).mkdir()
    evil = "\x1b]0;evil\x07\u202e"
    for i in range(2):
        bad = facts(evil, i, "failed" if i else evil, host=evil, message=evil)
        (run / "policy" / DIRECTORY / f"{i}.json").write_text(json.dumps(bad))
    ran = cli("top", run, "--once")
    assert ran.code == 0 and "evil" in ran.text, ran
    assert all(char.isprintable() or char == "\n" for char in ran.text)


class Terminal:
    """`entropyctl top` on a terminal of 24 lines of 80 characters."""

    def __init__(self, run: Path, **environment: str) -> None:
        self.near, far = pty.openpty()
        termios.tcsetwinsize(far, (24, 80))
        self.before = termios.tcgetattr(self.near)
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        env |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment}
        command = [sys.executable, "-m", "entropyctl", "top", str(run)]
        self.process = subprocess.Popen(
            command, env=env, stdin=far, stdout=far, stderr=far, preexec_fn=os.setsid, close_fds=True
        )
        os.close(far)
        self.seen = ""

    def read(self, text: str, times: int = 1) -> None:
        """Read until the screen has shown a text."""
        while self.seen.count(text) < times:
            assert select.select([self.near], [], [], 120)[0], self.seen
            self.seen += os.read(self.near, 1 << 16).decode(errors="replace")

    def end(self) -> int:
        """The exit status; what is still to be read is read."""
        while True:
            try:
                if not (data := os.read(self.near, 1 << 16)):
                    break
            except OSError:  # how Linux says that nobody has the other end
                break
            self.seen += data.decode(errors="replace")
        os.close(self.near)
        return self.process.wait(60)


def test_on_a_terminal_it_is_drawn_again_until_q(tmp_path: Path, tiny_policy: Path) -> None:
    terminal = Terminal(old_run(tmp_path, tiny_policy))
    terminal.read("entropy, nats", times=2)
    os.write(terminal.near, b"xq")
    terminal.read("\x1b[?1049l")  # the screen as it was before
    assert termios.tcgetattr(terminal.near)[3] == terminal.before[3]
    assert terminal.end() == 0
    assert terminal.seen.index("\x1b[?1049h") < terminal.seen.index("entropy, nats")
    assert "\x1b[36m" in terminal.seen and terminal.seen.endswith("\x1b[?25h\x1b[?1049l"), terminal.seen[-200:]


def test_an_interrupt_ends_it_with_130_and_no_colour_is_used_where_none_is_wanted(
    tmp_path: Path, tiny_policy: Path
) -> None:
    terminal = Terminal(old_run(tmp_path, tiny_policy), NO_COLOR="1")
    terminal.read("entropy, nats")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "\x1b[?1049l" in terminal.seen and "Traceback" not in terminal.seen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.seen)


def test_a_curve_goes_from_its_lowest_to_its_highest_value() -> None:
    assert curve([0.0, 1.0, 2.0, 3.0], 4, 4, braille=False) == ["   *", "  * ", " *  ", "*   "]
    assert curve([1.0, 1.0], 3, 3, braille=False) == ["   ", "***", "   "]
    assert curve([0.0, None, 0.0, 1.0], 4, 2, braille=False) == ["   *", "* * "]
    assert curve([], 2, 1, braille=False) == ["  "]
    assert curve([float("nan"), 1.0], 2, 1, braille=False) == [" *"]
    assert curve(list(range(8)), 2, 2, braille=False) == [" *", "* "]  # means of four
    assert curve([0.0, 1.0], 1, 1) == ["\u2878"]  # both ends, and all that lies between


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (12.7, "12 s"), (61, "1:01"), (3723, "1:02:03"), (100 * 3600, "4 d 04 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (7.2, "7"), (950, "950"), (1234, "1.2 k"), (120_000, "120 k"), (2_500_000, "2.5 M")],
)
def test_amounts(value: float | None, text: str) -> None:
    assert amount(value) == text
