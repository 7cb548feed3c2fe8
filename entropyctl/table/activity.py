"""What a process of a loop is doing now: a small file that it keeps for whoever looks (`entropyctl top`).

A rollout into a pipe, from a policy of versions, keeps one in POLICY/.activity, and names POLICY in its record of
provenance, which the stream's header carries to every stage behind it; each of them that finds the policy there keeps a
file beside it. A stage says in memory what it begins, which costs a microsecond; a thread writes. So a slow, full or
read-only disk costs a stage nothing, and the worst is that nobody sees what it does.

The last one of a pipe to end takes the files away, unless one of them has failed or died: then they tell of it, until
the loop begins again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from entropyctl.errors import StreamEndedEarly, one_line

DIRECTORY = ".activity"
PLACE = "policy_root"  # what rollout's record calls the policy
# A person sees no difference between this and at once.
EVERY_SECONDS = 0.25
# Says that the process lives, to a machine that cannot see it.
BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
# Speeds are of the last steps: a run changes.
RECENT_STEPS = 8
AT_WORK = ("starts", "loads", "computes", "publishes", "ends")
OVER = ("ended", "failed")
LARGEST_FILE = 1 << 16
Facts = dict[str, Any]


class _Mark(NamedTuple):
    """The end of a step, with all that had been done by then."""

    at: float
    busy: float
    tokens: int


class _State(NamedTuple):
    """All that changes, replaced at once, so that the thread never sees half of a change."""

    what: str
    began: float
    busy: float = 0.0  # seconds at work before this
    step: int | None = None
    about: int | None = None  # version that is waited for, loaded or published
    steps: int = 0
    tokens: int = 0
    marks: tuple[_Mark, ...] = ()

    def busy_at(self, now: float) -> float:
        return self.busy + (now - self.began if self.what in AT_WORK else 0)


class Activity:
    """Keeps the file of this process between `with` and its end; without a place for it, does nothing."""

    def __init__(
        self,
        root: str | None = None,
        stage: str = "",
        pipe: str = "",
        place: int = 0,
        until: int | None = None,
        begins: bool = False,
    ) -> None:
        """Say who is at work; nothing is written before `with`.

        Args:
            root: the policy's directory of versions; None for a stage of no loop.
            stage: what people call it: `mask clip-v`.
            pipe: what tells this pipe from another one of the same policy.
            place: how many stages stand in front.
            until: the last step of the loop, where it is known.
            begins: the first stage of a loop, which takes away what an earlier one has left.
        """
        self.on = root is not None
        self.stage = stage
        self.version: int | None = None  # that the stage computes with
        self._directory = os.path.join(root or "", DIRECTORY)
        self._path = os.path.join(self._directory, f"{_file_name(stage)}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json")
        self._begins = begins
        self._pipe, self._place, self._until = pipe, place, until
        self._state = _State("starts", time.monotonic())
        self._message = ""
        self._wake = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def doing(self, what: str, step: int | None = None, version: int | None = None) -> None:
        """Begin something: `computes` a step, `reads`, `writes`, `waits` for a version, `loads` or `publishes` one."""
        if not self.on:
            return
        now, old = time.monotonic(), self._state
        busy = old.busy_at(now)
        marks = old.marks or (() if what in ("starts", "loads") else (_Mark(now, busy, 0),))
        step = old.step if step is None else step
        self._state = old._replace(what=what, began=now, busy=busy, step=step, about=version, marks=marks)

    def finished(self, tokens: int) -> None:
        """Count a step, and the tokens in it."""
        if self.on:
            now, old = time.monotonic(), self._state
            total = old.tokens + tokens
            marks = (*old.marks[-RECENT_STEPS:], _Mark(now, old.busy_at(now), total))
            self._state = old._replace(steps=old.steps + 1, tokens=total, marks=marks)

    def _facts(self) -> Facts:
        now, epoch, state = time.monotonic(), time.time(), self._state
        facts: Facts = {"stage": self.stage, "pipe": self._pipe, "place": self._place, "until": self._until}
        facts |= {**_myself(), "version": self.version, "written": epoch}
        facts |= {"doing": state.what, "since": epoch - (now - state.began), "about": state.about}
        facts |= {"step": state.step, "steps": state.steps, "tokens": state.tokens}
        if state.marks:
            first, last = state.marks[0], state.marks[-1]
            facts["recent"] = {
                "since": epoch - (now - first.at),
                "busy": state.busy - first.busy,  # until `since` of what is being done now
                "steps": len(state.marks) - 1,
                "seconds": last.at - first.at,
                "tokens": last.tokens - first.tokens,
                "tokens_seconds": last.busy - first.busy,
            }
        return facts | ({"message": self._message} if self._message else {})

    def _keep(self) -> None:
        """The thread: write what has changed, and now and then that nothing has; at the end, leave."""
        said, written = None, 0.0
        with suppress(OSError):
            os.mkdir(self._directory)
        if self._begins:
            _clear_dead(self._directory)
        while not self._over:
            saying = (self._state, self.version)
            if saying != said or time.monotonic() - written > BEAT_SECONDS:
                said, written = saying, time.monotonic()
                self._write()
            self._wake.wait(EVERY_SECONDS)
        self._write()
        with suppress(OSError):
            _clear_after(self._directory, self._pipe)

    def _write(self) -> None:
        temporary = f"{self._path}.tmp"
        try:
            # Of a name that nobody can have laid a link under: the place came out of a stream.
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            try:
                os.write(file, json.dumps(self._facts()).encode())
            finally:
                os.close(file)
            os.replace(temporary, self._path)
        except OSError:
            # What cannot be kept true must not stay.
            for path in (temporary, self._path):
                with suppress(OSError):
                    os.unlink(path)
            with suppress(OSError):  # another pipe, which ended, may have taken the directory along
                os.mkdir(self._directory)

    def __enter__(self) -> Activity:
        if self.on:
            self._thread = threading.Thread(target=self._keep, name="activity", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._thread is None:
            return
        # An interruption, a reader that has enough and the death of a neighbour are no fault of this stage.
        failed = isinstance(error, Exception) and not isinstance(error, StreamEndedEarly | BrokenPipeError)
        self._message = one_line(str(error))[:500] if failed else ""
        self.doing("failed" if failed else "ended")
        self._over = True
        self._wake.set()
        self._thread.join(timeout=2)  # no disk that hangs keeps a stage from ending


def at_the_front(root: Path | None, record: Facts, until: int | None, *, begins: bool) -> Activity:
    """The activity of a rollout, whose record then tells the stages behind it where they tell theirs.

    Args:
        root: the policy's directory of versions.
        record: of provenance; gets the place.
        until: the last step.
        begins: a loop, so that what an earlier one has left is taken away.
    """
    if root is None or not _is_pipe(sys.stdout):
        return Activity()
    record[PLACE] = os.path.realpath(root)
    return Activity(record[PLACE], record["stage"], record["id"], until=until, begins=begins)


def behind(chain: list[Facts]) -> Activity:
    """The activity of a stage whose standard input has this chain of provenance at its beginning.

    A stream may come from anybody, so the place that it names must be a policy's.
    """
    first = next((i for i, one in reversed(list(enumerate(chain))) if isinstance(one.get(PLACE), str)), None)
    if first is None or not _is_pipe(sys.stdin) or not os.path.lexists(os.path.join(chain[first][PLACE], "latest")):
        return Activity()
    name = os.path.basename(sys.argv[0]).partition("entropyctl-")[2] or (sys.argv[1:2] or ["?"])[0]
    return Activity(chain[first][PLACE], name, chain[first]["id"], len(chain))


def read_activities(root: Path) -> list[Facts]:
    """What the processes of a policy say of themselves, each with its `standing`; those in front first."""
    found = _read(os.path.join(root, DIRECTORY))
    return sorted(found.values(), key=lambda facts: (facts["pipe"], facts["place"], facts["pid"]))


def _read(directory: str) -> dict[str, Facts]:
    """The files in a directory that say something; what is damaged says nothing."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.endswith(".json"):
                with suppress(OSError, ValueError, RecursionError), open(path, "rb") as file:
                    facts = json.loads(file.read(LARGEST_FILE))
                    if _whole(facts):
                        found[path] = facts | {"standing": standing(facts)}
    return found


_TYPES: dict[str, Any] = {"stage": str, "pipe": str, "host": str, "doing": str, "place": int, "pid": int}
_TYPES |= {"steps": int, "tokens": int, "since": float, "written": float, "machine": str}
_TYPES |= dict.fromkeys(("step", "about", "version", "until", "born"), int | None) | {"recent": dict | None}


def _whole(facts: Any) -> bool:
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kind) for name, kind in _TYPES.items()):
        return False
    numbers = (facts.get("recent") or {}).values()
    return all(isinstance(value, int | float) for value in numbers)


def standing(facts: Facts) -> str:
    """`runs`, `stopped`, `died`, `silent` (on a machine that cannot be asked), `ended` or `failed`."""
    if facts["doing"] in OVER:
        return str(facts["doing"])
    if facts["machine"] != _myself()["machine"]:
        return "silent" if time.time() - facts["written"] > SILENT_SECONDS else "runs"
    state, born = _process(facts["pid"])
    if state in ("", "Z", "X") or born != facts["born"]:
        return "died"
    return "stopped" if state in ("T", "t") else "runs"


def _process(pid: int) -> tuple[str, int | None]:
    """State of a process and the time that it was born at, which tells it from a later one of its number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        if os.path.isdir("/proc/self"):
            return "", None
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", None
    except OSError:
        pass
    return "?", None


@cache
def _myself() -> Facts:
    """Who this process is; `machine` is the same for processes that can see each other's numbers."""
    host = socket.gethostname()
    parts = [host]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    pid = os.getpid()
    return {"host": host, "machine": " ".join(parts), "pid": pid, "born": _process(pid)[1]}


def _clear_after(directory: str, pipe: str) -> None:
    """Take away the files of a pipe that has ended as it should; whoever ends last finds it so."""
    found = {path: facts for path, facts in _read(directory).items() if facts["pipe"] == pipe}
    if all(facts["doing"] == "ended" for facts in found.values()):
        _unlink(found)
        os.rmdir(directory)  # unless another pipe is at work


def _clear_dead(directory: str) -> None:
    """Take away what processes that are no more have left, half of a first word too."""
    _unlink([path for path, facts in _read(directory).items() if facts["standing"] not in ("runs", "stopped")])
    halves = list(Path(directory).glob("*.tmp"))
    with suppress(OSError):
        _unlink([str(path) for path in halves if time.time() - path.stat().st_mtime > SILENT_SECONDS])


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(OSError):
            os.unlink(path)


def _file_name(stage: str) -> str:
    return re.sub(r"[^a-z0-9-]", "", stage.partition(" ")[0])[:40]


def _is_pipe(stream: Any) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or a test's stand-in
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
