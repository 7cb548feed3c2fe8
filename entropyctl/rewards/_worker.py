"""The process in which a grader runs: a JSON line in for each response, a JSON line out for each verdict.

`python -m entropyctl.rewards._worker SPEC SECONDS START_SECONDS`, where the seconds are the parent's deadlines for one
response and for the imports. The parent kills a worker that is late; should the parent itself be gone, the kernel's
timer does, some time later.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from entropyctl.children import take_channel
from entropyctl.errors import EntropyctlError
from entropyctl.rewards._grade import LARGEST, OUTCOMES, Grade, shortened
from entropyctl.rewards._spec import load

# Address space that grading may take on top of what the imports took.
MEMORY = 4 << 30


def main(spec: str, seconds: float, start_seconds: float) -> None:
    """Serve until standard input ends."""
    requests, replies = take_channel(show_prints=spec.startswith("python:"))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _die_after(start_seconds)

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        grader = load(spec)
        if grader.prepare:
            grader.prepare()
    except EntropyctlError as error:
        return say({"failed": [type(error).__name__, str(error)]})
    except BaseException as error:
        return say({"failed": ["EngineError", f"--reward {spec}: cannot start ({_reason(error)}); mend it"]})
    _limit_memory()
    _die_after(0)
    say({"ready": True})
    for line in requests:
        _die_after(seconds)
        reply = judge(grader.grade, line)
        _die_after(0)
        say(reply)


def judge(grade: Callable[[Mapping[str, Any]], Grade | None], request: bytes) -> dict[str, Any]:
    """The reply to one request: a grade, or what stops the batch. Whatever the grader does, it is one of these."""
    try:
        return {"grade": _checked(grade(json.loads(request)))}
    except EntropyctlError as error:
        return {"stop": [type(error).__name__, str(error)]}
    except BaseException as error:  # also SystemExit: a grader that calls exit() must not end the others' worker
        return {"grade": Grade(0.0, "error", None), "why": _reason(error)}


def _checked(grade: Any) -> Grade:
    reward, outcome, predicted = grade
    if outcome not in OUTCOMES or not abs(reward) <= LARGEST:
        raise ValueError(f"a grader gave the reward {reward!r} and the outcome {outcome!r}")
    if predicted is not None:
        predicted = predicted.encode(errors="replace").decode()
    return shortened(Grade(float(reward), outcome, predicted))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _die_after(seconds: float) -> None:
    """Set the kernel's timer well behind the parent's deadline; 0 stops it."""
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1 if seconds else 0)


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        pass  # no Linux, or a stricter limit holds already; the deadline holds everywhere


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the parent is gone
        main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
