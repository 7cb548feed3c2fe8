"""Time, peak memory and size of `entropyctl report` for a run of many responses, whose numbers are made up.

python tests/bench/report.py [--steps N] [--responses N] [--directory DIR]

By default 100 steps of 1000 responses of 300 tokens in the mean (log-normal, at most 2000): 30 million tokens, with
nine numbers for each. The page is made from the run's directory, metrics and evals included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.dynamics.discriminator import s_star
from entropyctl.laws.evaluate import evaluate
from entropyctl.table import new_record, write
from entropyctl.table.columns import list_column

VOCABULARY, SAMPLES = 32_000, 8
CONTEXT = {"sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}}


def token_numbers(rng: np.random.Generator, count: int, heat: float) -> dict[str, np.ndarray]:
    """Numbers of tokens that could be: most are certain, the fewer the hotter the policy."""
    certain = rng.random(count) > 0.5 * heat
    p = np.where(certain, 1 - rng.random(count) ** 4 * 0.02, rng.random(count) ** 1.3).clip(1e-5, 1 - 1e-6)
    pair = -p * np.log(p) - (1 - p) * np.log1p(-p)  # the least entropy of a distribution with such a token
    entropies = pair + (1 - p) * np.log(VOCABULARY - 1) * rng.beta(1.2, 8, count)
    logprobs = np.log(p)
    score = s_star(logprobs, entropies)
    return {
        "logprobs": logprobs,
        "rollout_logprobs": logprobs + rng.normal(0, 2e-3, count),
        "entropies": entropies,
        "s_star": score,
        "expected_s": (0.6 * score + 0.1 * entropies * np.exp(-entropies)).clip(0),
    }


def one_step(number: int, steps: int, responses: int) -> pa.Table:
    """A masked table of a step."""
    rng = np.random.default_rng(number)
    part = number / steps
    lengths = np.minimum(rng.lognormal(np.log(260), 0.55, responses).astype(np.int64) + 8, 2000)
    count = int(lengths.sum())
    numbers = token_numbers(rng, count, 1.1 * np.exp(-2.2 * part) + 0.12)
    hardness = np.repeat(rng.beta(0.7 + 1.2 * part, 1.2, -(-responses // SAMPLES)), SAMPLES)[:responses]
    right = rng.random(responses) < hardness
    groups = np.arange(responses) // SAMPLES
    mean = (np.bincount(groups, right) / np.bincount(groups))[groups]
    advantages = np.repeat((right - mean) / np.sqrt(mean * (1 - mean) + 1e-6), lengths)
    centred = numbers["s_star"] - numbers["expected_s"]
    kept = ~((advantages < 0) & (centred < centred.mean() - 2 * centred.std()))
    tokens = (rng.zipf(1.25, count) % VOCABULARY).astype(np.int32)

    def column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return list_column(values, lengths, kind)

    rows: dict[str, Any] = {
        "step": pa.array([number] * responses, pa.int64()),
        "prompt_id": [f"s{number}-p{i}" for i in groups],
        "sample": pa.array(np.arange(responses) % SAMPLES, pa.int32()),
        "prompt": [f"What is {i} times {number}? Think first." for i in groups],
        "tokens": column(tokens, pa.int32()),
        "response": ["some words that end in an answer " * 20] * responses,
        "finish_reason": ["length" if n == 2000 else "stop" for n in lengths],
        "policy_version": pa.array([number - 1] * responses, pa.int64()),
        "reward": pa.array(right.astype(np.float32)),
        "outcome": ["correct" if one else "wrong" for one in right],
        "predicted": [str(i % 7) for i in range(responses)],
        "loss_mask": column(kept, pa.bool_()),
        "base_mask": column(np.ones(count, bool), pa.bool_()),
        "advantages": column(advantages, pa.float32()),
        **{name: column(values, pa.float32()) for name, values in numbers.items()},
    }
    return pa.table(rows)


def metrics_of(rows: pa.Table, number: int, steps: int) -> pa.Table:
    """What an update could have measured of the step."""
    rng = np.random.default_rng([7, number])
    entropy = float(np.mean(rows["entropies"].combine_chunks().flatten().to_numpy()))
    change = -0.02 * np.exp(-2 * number / steps) * entropy
    values = {
        "entropy": entropy,
        "entropy_after": entropy + change,
        "realised_change": change + rng.normal(0, 0.002),
        "predicted_change": change * 1e-6 * (1 + rng.normal(0, 0.2)),
        "reward": float(np.mean(rows["reward"].to_numpy())),
        "learning_rate": 1e-6,
    }
    table = {name: pa.array([value], pa.float64()) for name, value in values.items()}
    whole = {"step": number, "policy_version": number - 1}
    return pa.table({name: pa.array([value], pa.int64()) for name, value in whole.items()} | table)


def make_run(run: Path, steps: int, responses: int) -> None:
    """The directory that a loop on files could have left."""
    tokenizer(run / "policy" / "latest")
    (run / "metrics").mkdir()
    (run / "evals").mkdir()
    for number in range(1, steps + 1):
        rows, record = one_step(number, steps, responses), new_record("mask", {})
        name = f"step-{number:06d}"
        (run / name).mkdir()
        with write(str(run / name / "masked.parquet"), "masked", record, context=CONTEXT) as sink:
            sink.put(number, rows)
        whole, place = {"context": CONTEXT, "chain": [record]}, str(run / "metrics" / f"{name}.parquet")
        with write(place, "metrics", new_record("update", {}), **whole) as sink:
            sink.put(0, metrics_of(rows, number, steps))
        if number % max(steps // 10, 1) == 1 % max(steps // 10, 1):
            with write(
                str(run / "evals" / f"{name}.parquet"), "evals", new_record("eval", {}), context=CONTEXT
            ) as sink:
                sink.put(0, evaluate([rows]))


def tokenizer(directory: Path) -> None:
    """A tokenizer of made-up words."""
    from tokenizers import Tokenizer, decoders, models

    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    words: dict[str, int] = {}
    while len(words) < VOCABULARY:
        words.setdefault("▁" * (rng.random() < 0.8) + "".join(rng.choice(letters, rng.integers(1, 8))), len(words))
    made = Tokenizer(models.WordLevel(words, unk_token="e"))
    made.decoder = decoders.Metaspace()
    made.save(str(directory / "tokenizer.json"))


def measured(run: Path, page: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of the command."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "entropyctl", "report", str(run), "-q", "-o", str(page)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--responses", type=int, default=1000)
    parser.add_argument("--directory", type=Path, help="where the run is made and stays; by default it is deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.directory or Path(scratch) / "run"
        if not run.exists():
            make_run(run, options.steps, options.responses)
        stored = sum(file.stat().st_size for file in run.rglob("*.parquet"))
        page = Path(scratch) / "report.html"
        seconds, megabytes = measured(run, page)
        print(
            f"{options.steps * options.responses} responses in {options.steps} steps, {stored / 1e6:.0f} MB of "
            f"Parquet: {seconds:.1f} s, peak {megabytes:.0f} MB, page {page.stat().st_size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
