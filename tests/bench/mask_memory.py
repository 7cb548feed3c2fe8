"""Peak memory of `entropyctl mask clip-v` on a file of some steps and on one of four times as many.

python tests/bench/mask_memory.py [--steps N] [--tokens N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column


def one_step(number: int, tokens: int, longest: int = 4000) -> pa.Table:
    """A step of about `tokens` tokens in rows of ragged lengths."""
    rng = np.random.default_rng(number)
    rows = 2 * tokens // longest
    lengths = rng.integers(1, longest, rows)
    count = int(lengths.sum())

    def floats() -> pa.Array:
        return list_column(rng.normal(size=count), lengths, pa.float32())

    return pa.table(
        {
            "step": pa.array([number] * rows, pa.int64()),
            "prompt_id": [f"p{i // 8}" for i in range(rows)],
            "sample": pa.array([i % 8 for i in range(rows)], pa.int32()),
            "tokens": list_column(rng.integers(50_000, size=count), lengths, pa.int32()),
            "loss_mask": list_column(np.ones(count, bool), lengths, pa.bool_()),
            **{name: floats() for name in ("logprobs", "entropies", "s_star", "expected_s", "advantages")},
        }
    )


def peak_megabytes(path: Path) -> float:
    """Peak resident memory of the command on a file."""
    command = [
        sys.executable,
        "-m",
        "entropyctl",
        "mask",
        "clip-v",
        str(path),
        "-q",
        "-o",
        str(path.with_suffix(".out")),
    ]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return usage.ru_maxrss / 1024


def main() -> None:
    """Print one line for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for times in (1, 4):
            path = Path(directory) / f"{times}.parquet"
            with write(str(path), "advantaged", new_record("bench", {})) as sink:
                for number in range(options.steps * times):
                    sink.put(number, one_step(number, options.tokens))
            size, steps = path.stat().st_size / 1e6, options.steps * times
            print(f"{steps} steps of {options.tokens} tokens, {size:.0f} MB: peak {peak_megabytes(path):.1f} MB")


if __name__ == "__main__":
    main()
