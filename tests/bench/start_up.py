"""What `score` costs beyond importing torch and transformers and loading the weights, in CPU seconds of one thread.

    python tests/bench/start_up.py [--rounds 5] [--policy DIR]

Paired: in each round a bare program that imports both and loads the checkpoint, each weight read once; `entropyctl
score` with it of a file that has no rows; and of one response of four tokens, whose pass over the weights is in that.
The figures are median differences. Without --policy the checkpoint is a random one of two layers.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from entropyctl.table import new_record, write
from tests.conftest import tiny_llama

ROOT = Path(__file__).parents[2]


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policy", type=Path)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    policy = options.policy or tiny_llama(place / "policy", hidden_size=32)
    tokens, number = pa.list_(pa.int32()), pa.int64()
    row = {
        "step": pa.array([0], number),
        "prompt_id": ["a"],
        "sample": pa.array([0], pa.int32()),
        "prompt_tokens": pa.array([[5, 6]], tokens),
        "tokens": pa.array([[7, 8, 9, 10]], tokens),
    }
    for name, count in (("none", 0), ("one", 1)):
        with write(str(place / f"{name}.parquet"), "rollouts", new_record("rollout", {})) as sink:
            sink.put(0, pa.table(row)[:count])
    code = "import sys, torch; from transformers import AutoModelForCausalLM as A"
    load = f"{code}; m = A.from_pretrained(sys.argv[1], dtype=torch.float32); [p.sum() for p in m.parameters()]"
    python = [sys.executable, "-m", "entropyctl", "score", "--policy", str(policy), "-o", str(place / "scored.parquet")]
    ways = {
        "bare": [sys.executable, "-c", load, str(policy)],
        "no response": [*python, str(place / "none.parquet")],
        "one response": [*python, str(place / "one.parquet")],
    }
    rounds = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(options.rounds + 1)]
    del rounds[0]  # it only warms up
    print(f"bare {statistics.median(one['bare'] for one in rounds):.2f} s")
    for name in ("no response", "one response"):
        print(f"{name} {statistics.median(one[name] - one['bare'] for one in rounds):+.2f} s")


if __name__ == "__main__":
    main()
