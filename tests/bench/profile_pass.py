"""Where the time of one `score` and of one `update` step goes, on one thread, and what a perfect program would need.

    python tests/bench/profile_pass.py [--texts 8]

The floor is the matrix products alone, by the rate of a large one measured in the same run; the rows below are torch's
own profile by kind of operation. `head` is all that happens between hidden states and statistics, or gradients.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from entropyctl.objectives import ppo
from entropyctl.tokenstats import score_sequences, split_model, statistics
from entropyctl.training import Batch, Recipe, train_step
from entropyctl.training.optimizer import Optimization, Optimizer
from tests.bench.whole_model import model_of_shape, texts

KINDS = {
    "products of the layers": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("scaled_dot_product",),
    "optimiser": ("_fused_adam", "clip_grad", "_foreach"),
    "copies": ("aten::cat", "aten::copy_", "aten::clone", "aten::index", "aten::embedding", "aten::zero_", "fill"),
}


def product_rate() -> float:
    """FLOP/s of a large float32 product."""
    a, b = torch.randn(2048, 1536), torch.randn(1536, 576)
    out = torch.empty(2048, 576)
    seconds = []
    for _ in range(20):
        began = time.thread_time()
        torch.mm(a, b, out=out)
        seconds.append(time.thread_time() - began)
    return 2 * 2048 * 1536 * 576 / float(np.median(seconds))


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one row of the profile."""

    def run(*given: Any, **more: Any) -> Any:
        with record_function(name):
            return function(*given, **more)

    return run


def shares(work: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """CPU seconds of the work, and the share of its wall time, as the profiler has it, of each kind."""
    before = {name: getattr(statistics, name) for name in ("vocabulary_sums", "vocabulary_gradients")}
    for name, function in before.items():
        setattr(statistics, name, named("head", function))
    try:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            began, wall = time.thread_time(), time.perf_counter()
            work()
            total, wall = time.thread_time() - began, time.perf_counter() - wall
    finally:
        for name, function in before.items():
            setattr(statistics, name, function)
    found: dict[str, float] = defaultdict(float)
    for event in seen.events():
        inside = event.cpu_parent
        while inside is not None and inside.name != "head":
            inside = inside.cpu_parent
        if event.name == "head":
            found["head"] += event.cpu_time_total / 1e6
        elif inside is None:
            kind = next((kind for kind, names in KINDS.items() if any(n in event.name for n in names)), "elementwise")
            found[kind] += event.self_cpu_time_total / 1e6
    found["the rest"] = wall - sum(found.values())
    return total, {kind: seconds / wall for kind, seconds in found.items()}


def main() -> None:
    """Print both profiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=8)
    torch.set_num_threads(1)
    batch = texts(parser.parse_args().texts)
    split = split_model(model_of_shape())
    optimizer = Optimizer(split.model, Optimization("adamw", 1e-6, 0.0))
    lengths = np.array([len(response) for _, response in batch])
    count = int(lengths.sum())
    inputs = {"old_logprobs": np.full(count, -10, np.float32), "advantages": np.ones(count, np.float32)}
    part = Batch(batch, lengths, np.ones(count, bool), np.ones(count, np.float32), np.zeros(count, np.float32), inputs)
    recipe = Recipe(ppo, "token-mean", None, "k3", 1, 1, 1.0, 2048, "float32")
    layers = sum(p.numel() for p in split.model.model.layers.parameters())
    head = split.model.lm_head.weight.numel()
    rows = sum(len(prompt) + len(response) - 1 for prompt, response in batch)
    works: dict[str, tuple[Callable[[], Any], float]] = {
        "score": (
            lambda: score_sequences(split, batch, temperature=1.0, token_budget=2048),
            2.0 * (rows * layers + count * head),
        ),
        "update": (
            lambda: train_step(split, optimizer, [part], recipe),
            # Backward takes two products of each of the layers', and two of the head's after its logits again.
            2.0 * (3 * rows * layers + 4 * count * head),
        ),
    }
    for name, (work, flops) in works.items():
        work()
        total, found = shares(work)
        floor = flops / product_rate()
        print(f"{name}: {total:.1f} s for {rows} tokens; the products alone {floor:.1f} s, {floor / total:.0%}")
        for kind, share in sorted(found.items(), key=lambda one: -one[1]):
            print(f"  {kind:24} {share:6.1%}")


if __name__ == "__main__":
    main()
