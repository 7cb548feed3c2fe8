"""The resident loop against five commands on files, the same work, and `--max-lag 1` against 0, in one run.

    python tests/bench/loop.py POLICY [--steps 5] [--prompts 4] [--n 4] [--max-tokens 64]

POLICY is a checkpoint. Prints seconds of a step (the first, with all that starts, apart), what of a resident step was
not the work of a model, and the lag that was seen. Work of a model: what `rollout` and `score` say they were busy, less
loading new weights, which is timed alone, and what `update` says that a step's training took.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.table import read
from entropyctl.table.activity import read_activities

EXAMPLES = Path(__file__).parents[2] / "examples"
TASK = "gym:products?min_terms=2&max_terms=2&min_digits=1&max_digits=1&shots=4&size=200&seed=42"
POLL_SECONDS = 0.05
WAYS = (("files", "loop_files.sh", 0), ("pipe, lag 0", "loop_pipe.sh", 0), ("pipe, lag 1", "loop_pipe.sh", 1))


def run_loop(script: str, run: Path, checkpoint: Path, lag: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run an example's loop; when each version appeared, and what the stages said last."""
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "v000000").symlink_to(checkpoint)
    (run / "policy" / "latest").symlink_to("v000000")
    sizes = {"PROMPTS_PER_STEP": given.prompts, "N": given.n, "MAX_TOKENS": given.max_tokens, "LAG": lag}
    environment = os.environ | {"PROMPTS": TASK, "REWARD": "gym"} | {k: str(v) for k, v in sizes.items()}
    at, said = [time.monotonic()], {}
    with open(run / "err", "wb") as error:
        process = subprocess.Popen(
            [str(EXAMPLES / script), str(run), str(given.steps)], env=environment, stdout=error, stderr=error
        )
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            while len(at) <= given.steps and (run / "policy" / f"v{len(at):06d}").is_dir():
                at.append(time.monotonic())
            said |= {
                facts["stage"].split()[0]: facts for facts in read_activities(run / "policy") if facts.get("recent")
            }
    if process.returncode:
        raise SystemExit((run / "err").read_text())
    with read([str(run / "metrics")]) as source:
        rows = [row for step in source for row in step.rows.to_pylist()]
    return {"steps": [b - a for a, b in itertools.pairwise(at)], "said": said, "metrics": rows}


def load_seconds(checkpoint: Path) -> float:
    """What loading the weights of a version takes, the second time, as they are in the page cache."""
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        load_model(find_policy(str(checkpoint)), torch.float32, torch.device("cpu"))
        seconds.append(time.monotonic() - began)
    return seconds[-1]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=[name for name, *_ in WAYS], default=[name for name, *_ in WAYS])
    given = parser.parse_args()
    checkpoint, load = given.policy.resolve(), load_seconds(given.policy.resolve())
    medians = {}
    with tempfile.TemporaryDirectory() as place:
        for name, script, lag in (way for way in WAYS if way[0] in given.only):
            found = run_loop(script, Path(place) / name.replace(" ", ""), checkpoint, lag, given)
            first, *rest = found["steps"]
            medians[name] = statistics.median(rest)
            lags = [row["lag"] for row in found["metrics"]]
            print(f"{name:<12} first step {first:6.1f} s, then {medians[name]:6.1f} s a step; lag {lags}", flush=True)
            if name == "pipe, lag 0":
                print_shares(found, load)
    for slow, fast in itertools.pairwise(medians):
        print(f"{slow} / {fast} {medians[slow] / medians[fast]:.2f}x")


def print_shares(found: dict[str, Any], load: float) -> None:
    """What a resident step is made of, on average over its last steps."""
    recent = {name: facts["recent"] for name, facts in found["said"].items()}
    step = statistics.mean(found["steps"][1:])
    parts = {name: recent[name]["tokens_seconds"] / recent[name]["steps"] - load for name in ("rollout", "score")}
    parts["update"] = statistics.mean(row["seconds"] for row in found["metrics"][1:])
    model = sum(parts.values())
    listed = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    print(f"   of {step:.2f} s a step: {listed}, loading twice {2 * load:.2f} s; no model: {1 - model / step:.1%}")


if __name__ == "__main__":
    main()
