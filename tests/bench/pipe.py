"""A stage in a pipe: an uncompressed stream of 1 M tokens through `entropyctl mask none`, against `cat`.

python tests/bench/pipe.py [--tokens 1000000] [--steps 1] [--rounds 5]

The producer only writes, the consumer only reads. A stage of a loop starts once, so the clock runs from the first byte
that goes in, after a small step has gone through, to the last that comes out; CPU is the stage's in the same time.
Medians, and the best round; the time until the small step came out stands beside them. At least 150 MB/s are wanted.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from mask_memory import one_step

from entropyctl.table import new_record, write

STAGE = [sys.executable, "-m", "entropyctl", "mask", "none", "--quiet"]
TICKS = os.sysconf("SC_CLK_TCK")


class Round(NamedTuple):
    """What one way took."""

    start: float
    seconds: float
    cpu: float


def stream(tokens: int, steps: int) -> tuple[bytes, bytes]:
    """The bytes of a small step with the header, and those of all that follows."""
    raw = io.BytesIO()
    with write(None, "advantaged", new_record("bench", {}), stdout=raw) as sink:
        sink.put(0, one_step(0, 20_000, longest=1000))
        small = len(raw.getvalue())
        for number in range(1, steps + 1):
            sink.put(number, one_step(number, tokens // steps))
    data = raw.getvalue()
    return data[:small], data[small:]


def pump(command: list[str], first: bytes, rest: bytes, came_through: Callable[[bytes], bool]) -> Round:
    """Time a program on the rest of the bytes, after the first have come through."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    into, warm = process.stdin, threading.Event()

    def produce() -> None:
        into.write(first)
        into.flush()
        warm.wait()
        into.write(rest)
        into.close()

    producer = threading.Thread(target=produce)
    producer.start()
    seen = b""
    while not came_through(seen):
        seen += os.read(process.stdout.fileno(), 1 << 20)
    before = used = cpu_seconds(process.pid)
    began = last = time.perf_counter()
    warm.set()
    while os.read(process.stdout.fileno(), 1 << 20):
        last = time.perf_counter()
        used = cpu_seconds(process.pid) or used
    producer.join()
    assert process.wait() == 0
    return Round(began - started, last - began, used - before)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, to 10 ms; 0 once it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS if fields[0] != "Z" else 0.0


def main() -> None:
    """Print MB/s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    first, rest = stream(given.tokens, given.steps)
    size = len(rest) / 1e6
    print(f"{size:.1f} MB, {given.tokens / 1e6:g} M tokens in {given.steps} steps, {given.rounds} rounds")
    ways = {
        "mask none": (STAGE, lambda seen: b"entropyctl.end_of_step" in seen),
        "cat": (["cat"], lambda seen: len(seen) == len(first)),
    }
    rounds = {name: list[Round]() for name in ways}
    for _ in range(given.rounds):
        for name, (command, came_through) in ways.items():
            rounds[name].append(pump(command, first, rest, came_through))
    for name, found in rounds.items():
        seconds = [one.seconds for one in found]
        cpu = statistics.median(one.cpu for one in found)
        print(
            f"{name:<10} {size / statistics.median(seconds):7.0f} MB/s   best {size / min(seconds):7.0f}   "
            f"{size / max(cpu, 0.01):7.0f} MB per CPU second   "
            f"start {statistics.median(one.start for one in found):.2f} s"
        )


if __name__ == "__main__":
    main()
