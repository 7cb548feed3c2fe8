"""What a step of the optimiser costs, and what keeping fewer activations saves: CPU time of one thread, and memory.

    python tests/bench/optimizers.py [--rounds 5]

Optimisers: weights in the shapes of SmolLM2-135M, ten layers of it; time of a step, bytes of state for each weight, and
how far the weights are from those of torch's unfused AdamW after these steps. Activations: twelve layers of width 256,
4096 tokens in one pass; each way in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from entropyctl.objectives import ppo
from entropyctl.policy import find_policy
from entropyctl.training import Batch, Optimization, Recipe, open_trainer, train_step
from entropyctl.training.adamw8bit import AdamW8bit
from entropyctl.training.phases import _resident
from entropyctl.training.sharded import Place

LAYER = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
SHAPES = [(49152, 576), *(LAYER * 10)]
WAYS = {
    "AdamW, unfused": lambda weights: torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0),
    "adamw (fused)": lambda weights: torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0, fused=True),
    "adamw-8bit": lambda weights: AdamW8bit(weights, lr=1e-5, weight_decay=0.0),
}


def optimisers(rounds: int) -> None:
    expected: list[torch.Tensor] = []
    for name, make in WAYS.items():
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in SHAPES]
        optimizer, times = make(weights), []
        for _ in range(rounds):
            for weight in weights:
                weight.grad = torch.randn_like(weight) * 1e-3
            began = time.process_time()
            optimizer.step()
            times.append(time.process_time() - began)
        expected = expected or [weight.detach().clone() for weight in weights]
        far = max(float((a - b).detach().abs().max()) for a, b in zip(weights, expected, strict=True))
        count = sum(weight.numel() for weight in weights)
        state = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values())
        print(f"{name:<16} {statistics.median(times):7.3f} s  {state / count:5.2f} bytes a weight  furthest {far:.1e}")


def activations(directory: str, *, again: bool) -> None:
    place = Place("cpu", checkpoint_activations=again)
    trainer = open_trainer(find_policy(directory), Optimization("sgd", 0.1), place)
    rng, lengths_B = np.random.default_rng(0), np.full(8, 512)
    sequences = [(rng.integers(1, 200, 8).tolist(), rng.integers(1, 200, n).tolist()) for n in lengths_B]
    count = int(lengths_B.sum())
    ones_N, advantages_N = np.ones(count, np.float32), rng.normal(size=count).astype(np.float32)
    inputs = {"old_logprobs": -5.5 * ones_N, "advantages": advantages_N}
    batch = Batch(sequences, lengths_B, ones_N > 0, ones_N, 0 * ones_N, inputs)
    recipe = Recipe(ppo, "token-mean", None, "k3", 1, 1, 1.0, 5000, "float32")
    before, began = _resident(), time.process_time()
    found = train_step(trainer.split, trainer.optimizer, [batch], recipe)
    print(
        f"{'computed again' if again else 'kept':<16} {time.process_time() - began:7.2f} s  "
        f"{(_resident() - before) / 2**20:6.0f} MiB more than before  gradient {found['grad_norm']:.7f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--activations", nargs=2, metavar=("DIRECTORY", "AGAIN"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.activations:
        activations(given.activations[0], again=given.activations[1] == "1")
        return
    optimisers(given.rounds)
    with tempfile.TemporaryDirectory() as directory:
        shape = {"vocab_size": 257, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12}
        config = transformers.LlamaConfig(**shape, num_attention_heads=8, num_key_value_heads=4)
        transformers.LlamaForCausalLM(config).save_pretrained(directory)
        for again in ("0", "1"):
            subprocess.run([sys.executable, str(Path(__file__)), "--activations", directory, again], check=True)


if __name__ == "__main__":
    main()
