"""Peak memory of a training step against what it must hold.

    python tests/bench/update_memory.py [--token-budget 1024 2048]

Must: weights, gradients and AdamW's two moments in float32, and what autograd saves of the largest pass (counted by its
own hooks, each storage once). Used: the most that a process of its own had in memory during two steps, less what it had
before the model was there. The model is that of whole_model.py, of 16 texts of 16 to 512 tokens.

glibc keeps what was freed in pieces between what lives on. So each budget is run as `update` is, with these holes
bounded; as glibc has it by itself; and with blocks above a megabyte given back to the system at once, by its own
setting MALLOC_MMAP_THRESHOLD_=1000000. The seconds are of one step, CPU time of one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from entropyctl.objectives import ppo
from entropyctl.tokenstats import forward_batches, response_hidden, split_model, token_logprobs
from entropyctl.training import Batch, Recipe, train_step
from entropyctl.training.optimizer import Optimization, Optimizer
from entropyctl.training.processes import ALONE
from entropyctl.training.sharded import Place, spread

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench.head_statistics import memory
from tests.bench.whole_model import model_of_shape, texts

MIB = 2**20
WAYS: dict[str, dict[str, str]] = {
    "bounded": {},
    "glibc's own": {},
    "MALLOC_MMAP_THRESHOLD_=1000000": {"MALLOC_MMAP_THRESHOLD_": "1000000"},
}


def measure(budget: int, *, bounded: bool) -> None:
    """Print what must be held and what was, in MiB."""
    torch.set_num_threads(1)
    batch = texts(16)
    before = memory("VmRSS")
    if bounded:
        split = spread(lambda device: split_model(model_of_shape()), Place("cpu"), ALONE)
    else:
        split = split_model(model_of_shape())
    count = sum(parameter.numel() for parameter in split.model.parameters())
    lengths = np.array([len(response) for _, response in batch])
    tokens = int(lengths.sum())
    inputs = {"old_logprobs": np.full(tokens, -10, np.float32), "advantages": np.ones(tokens, np.float32)}
    part = Batch(
        batch, lengths, np.ones(tokens, bool), np.ones(tokens, np.float32), np.zeros(tokens, np.float32), inputs
    )
    recipe = Recipe(ppo, "token-mean", None, "k3", 1, 1, 1.0, budget, "float32")
    optimizer = Optimizer(split.model, Optimization("adamw", 1e-6, 0.0))
    seconds = []
    for _ in range(2):
        began = time.thread_time()
        train_step(split, optimizer, [part], recipe)
        seconds.append(time.thread_time() - began)
    used = memory("VmHWM") - before
    largest = max(forward_batches(split, batch, budget), key=lambda rows: sum(len(batch[i][1]) for i in rows))
    own = {parameter.untyped_storage().data_ptr() for parameter in split.model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden, target = response_hidden(split, [batch[i] for i in largest])
        kept = token_logprobs(hidden, split.head, target, 1.0)
    state, activations = 16 * count / MIB, sum(saved.values()) / MIB
    del kept
    print(
        f"weights, gradients, moments {state:.0f} + activations {activations:.0f} = {state + activations:.0f} MiB; "
        f"used {used:.0f}: {used - state - activations:+.0f} MiB; {min(seconds):.1f} s"
    )


def main() -> None:
    """Each way with each budget in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--token-budget", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for _ in range(options.rounds):
        for budget in options.token_budget:
            for way, environment in WAYS.items():
                print(f"{budget} tokens a pass, {way}", end=": ", flush=True)
                code = "from tests.bench.update_memory import measure; "
                code += f"measure({budget}, bounded={way == 'bounded'})"
                root = Path(__file__).parents[2]
                subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | environment, check=True)


if __name__ == "__main__":
    main()
