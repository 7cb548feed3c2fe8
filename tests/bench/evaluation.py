"""`entropyctl eval` of graded responses against reading them with pyarrow, in one run.

python tests/bench/evaluation.py [--responses 1000000] [--n 64] [--rounds 5]

Each way is a process of its own; figures are medians of CPU seconds over interleaved rounds. Reading is
`pyarrow.parquet.read_table` of the columns that `eval` reads, into memory, one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from entropyctl.table import new_record, write

READ = """
import sys, pyarrow as pa, pyarrow.parquet as pq
pa.set_cpu_count(1)
names = ["prompt_id", "policy_version", "outcome", "predicted", "finish_reason", "data_source"]
print(pq.ParquetFile(sys.argv[1]).read(columns=names, use_threads=False).num_rows)
"""


def make_file(path: Path, responses: int, n: int) -> None:
    """Graded responses: rates of a U-shaped distribution, wrong answers of a heavy-tailed one."""
    rng = np.random.default_rng(0)
    problems = responses // n
    problem = np.repeat(np.arange(problems), n)
    right = rng.random(problems * n) < np.repeat(rng.beta(0.5, 0.8, problems), n)
    answer = np.where(right, 0, 1 + rng.zipf(1.7, problems * n) % 30)
    count = len(problem)
    rows = pa.table(
        {
            "step": pa.array(np.zeros(count, np.int64)),
            "prompt_id": [f"problem-{i:06d}" for i in problem],
            "sample": pa.array(np.tile(np.arange(n, dtype=np.int32), problems)),
            "policy_version": pa.array(np.zeros(count, np.int64)),
            "outcome": np.where(right, "correct", "wrong").tolist(),
            "predicted": [f"{i * 7 + a}" for i, a in zip(problem, answer, strict=True)],
            "finish_reason": ["stop"] * count,
            "data_source": [f"set-{i % 5}" for i in problem],
        }
    )
    with write(str(path), "scored", new_record("score", {})) as sink:
        sink.put(0, rows)


def cpu_of(command: list[str]) -> float:
    """CPU seconds of a process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graded.parquet"
        make_file(path, options.responses, options.n)
        ours = [sys.executable, "-m", "entropyctl", "eval", str(path)]
        commands = {
            "reading them with pyarrow": [sys.executable, "-c", READ, str(path)],
            "entropyctl eval, every k": ours,
            "entropyctl eval -k 1,8": [*ours, "-k", "1,8"],
            "importing pyarrow.parquet alone": [sys.executable, "-c", "import pyarrow.parquet"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                seconds[name].append(cpu_of(command))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.responses} responses, {options.n} to a problem; CPU seconds, median of {options.rounds}")
    for name, value in median.items():
        print(f"{name:<34} {value:6.2f} s   {value / median['reading them with pyarrow']:5.2f} x reading (goal 10)")


if __name__ == "__main__":
    main()
