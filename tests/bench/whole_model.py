"""A whole model's pass over a batch, and a whole training step, against TRL's and against one sequence at a time.

    python tests/bench/whole_model.py [--rounds 2] [--trl DIRECTORY] [--only score update]

The model has the shape of SmolLM2-135M with random weights; the texts are 32 (16 for the step), of 16 to 512 tokens, on
one thread, by its CPU time. Each way has a process of its own, since `update` sets how the C library keeps memory, and
is run twice, of which the second time counts; every figure is the median over rounds of its ratio within a round. TRL
is its own GRPOTrainer, installed or unpacked in DIRECTORY (with accelerate and datasets beside it); without it the
others are run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from entropyctl.objectives import ppo
from entropyctl.tokenstats import Sharing, score_sequences, split_model
from entropyctl.training import Batch, Recipe, train_step
from entropyctl.training.optimizer import Optimization, Optimizer
from entropyctl.training.processes import ALONE
from entropyctl.training.sharded import Place, spread

PROMPT = 8
Text = tuple[list[int], list[int]]
Run = Callable[[], list[torch.Tensor]]


def model_of_shape() -> Any:
    """SmolLM2-135M's shape, with weights that make neither flat nor certain probabilities."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def texts(count: int) -> list[Text]:
    """Of lengths that are evenly spread; no two have a prompt in common."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(16, 512, count).round().astype(int)
    return [(rng.integers(3, 49152, PROMPT).tolist(), rng.integers(3, 49152, n - PROMPT).tolist()) for n in lengths]


def trl_trainer(model: Any, place: str) -> Any:
    """TRL's GRPOTrainer around the model."""
    import datasets
    import tokenizers
    from trl import GRPOConfig, GRPOTrainer

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    settings = GRPOConfig(
        output_dir=place,
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=8,
        gradient_checkpointing=False,
        loss_type="bnpo",
        beta=0.0,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 8}),
        processing_class=tokenizer,
    )


def padded(batch: list[Text]) -> dict[str, torch.Tensor]:
    """The texts as TRL has them: completions padded on the right to the longest."""
    width = max(len(response) for _, response in batch)
    ids = torch.tensor([response + [2] * (width - len(response)) for _, response in batch])
    mask = torch.tensor([[1] * len(response) + [0] * (width - len(response)) for _, response in batch])
    prompts = torch.tensor([prompt for prompt, _ in batch])
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": ids,
        "completion_mask": mask,
    }


def score_ours(budget: int, *, packs: bool = True) -> Run:
    """Log p, H and the rest of the texts, as `score` computes them."""
    batch, split = texts(32), split_model(model_of_shape())
    split = split if packs else replace(split, sharing=Sharing(packs=False))
    return lambda: list(score_sequences(split, batch, temperature=1.0, token_budget=budget))


def score_trl() -> Run:
    """Log p and H, as TRL computes them."""
    trainer = trl_trainer(model_of_shape(), tempfile.mkdtemp())
    given = padded(texts(32))
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], dim=1)
    mask = torch.cat([given["prompt_mask"], given["completion_mask"]], dim=1)
    keep, kept = given["completion_ids"].shape[1], given["completion_mask"].bool()

    def run() -> list[torch.Tensor]:
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, keep, batch_size=8, compute_entropy=True
            )
        return [one[kept] for one in found[:2]]

    return run


def advantages(count: int) -> np.ndarray:
    """Of each text."""
    return np.random.default_rng(1).normal(size=count).astype(np.float32)


def step_ours(kept: float) -> Run:
    """A whole training step as `update` makes it; returns its gradients, clipped."""
    batch = texts(16)
    counts = np.array([len(response) for _, response in batch])
    split = spread(lambda device: split_model(model_of_shape()), Place("cpu"), ALONE)
    start = {name: value.clone() for name, value in split.model.state_dict().items()}
    old = score_sequences(split, batch, temperature=1.0, token_budget=4096).logprobs.numpy()
    optimizer = Optimizer(split.model, Optimization("adamw", 1e-6, 0.0))
    weights = (np.random.default_rng(2).random(len(old)) < kept).astype(np.float32)
    inputs = {"old_logprobs": old, "advantages": np.repeat(advantages(len(batch)), counts)}
    part = Batch(batch, counts, np.ones(len(old), bool), weights, 0 * weights, inputs)
    recipe = Recipe(ppo, "token-mean", None, "k3", 1, 1, 1.0, 2048, "float32")

    def run() -> list[torch.Tensor]:
        split.model.load_state_dict(start)
        found: list[torch.Tensor] = []
        hook = optimizer.inner.register_step_pre_hook(lambda *_: found.extend(gradients(split.model)))
        train_step(split, optimizer, [part], recipe)
        hook.remove()
        return found

    return run


def step_trl() -> Run:
    """The same as TRL makes it."""
    batch = texts(16)
    counts = np.array([len(response) for _, response in batch])
    trainer = trl_trainer(model_of_shape(), tempfile.mkdtemp())
    trainer.current_gradient_accumulation_steps = 1  # the passes of a step are weighed below
    model = trainer.model.train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    adam = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    # As TRL pads: all rows before it cuts.
    whole = padded(batch) | {"advantages": torch.from_numpy(advantages(len(batch)))}

    def run() -> list[torch.Tensor]:
        model.load_state_dict(start)
        adam.zero_grad(set_to_none=True)
        for rows in np.array_split(np.arange(len(batch)), 4):
            given = {name: one[rows] for name, one in whole.items()}
            given["num_items_in_batch"] = given["completion_mask"].sum()
            loss = trainer._compute_loss(model, given) * float(counts[rows].sum() / counts.sum())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        found = gradients(model)
        adam.step()
        return found

    return run


# What makes each way ready; the first of a kind is what the others are compared with.
WAYS: dict[str, dict[str, Callable[[], Run]]] = {
    "score": {
        "one by one": partial(score_ours, 1),
        "padded rows, 4096 tokens a pass": partial(score_ours, 4096, packs=False),
        "packed, 4096 tokens a pass": partial(score_ours, 4096),
        "TRL, log p and entropy, 8 rows a pass": score_trl,
    },
    "update": {
        "packed, 2048 tokens a pass": partial(step_ours, 1.0),
        "the same, of 20 % of the tokens": partial(step_ours, 0.2),
        "TRL, 4 rows a pass": step_trl,
    },
}


def gradients(model: Any) -> list[torch.Tensor]:
    """Copies of them."""
    return [parameter.grad.clone() for parameter in model.parameters()]


def measure(kind: str, name: str, place: Path) -> None:
    """Run a way twice, and leave the second run's seconds and results in a file."""
    torch.set_num_threads(1)
    run = WAYS[kind][name]()
    run()
    began = time.thread_time()
    found = run()
    seconds = torch.tensor(time.thread_time() - began, dtype=torch.float64)
    save_file({f"{i:04d}": one for i, one in enumerate(found)} | {"seconds": seconds}, place)


def compare(kind: str, names: list[str], rounds: int) -> dict[str, float]:
    """Median over rounds of each way's time over the first one's; how far results are from that one's is printed."""
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        seconds, away, wanted = {}, {}, None
        for name in names:
            with tempfile.TemporaryDirectory() as directory:
                place = Path(directory) / "found.safetensors"
                command = [sys.executable, __file__, "--measure", kind, name, str(place)]
                subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
                results = load_file(place)
            seconds[name] = float(results.pop("seconds"))
            found = [results[key] for key in sorted(results)]
            wanted = wanted or found
            away[name] = largest_difference(found, wanted)
            ratios[name].append(seconds[name] / seconds[names[0]])
        print("  seconds:", {name: round(one, 1) for name, one in seconds.items()})
        print("  relative difference of the results:", {name: f"{one:.1e}" for name, one in away.items()}, flush=True)
    return {name: statistics.median(values) for name, values in ratios.items()}


def largest_difference(found: Any, wanted: Any) -> float:
    """Of tensors: ||a - b|| / ||b||, of the first two where there are statistics that others have not."""
    pairs = list(zip(found, wanted, strict=False))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl", type=Path)
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, name, place = options.measure
        measure(kind, name, Path(place))
        return
    if options.trl:
        sys.path.append(str(options.trl))
    known = importlib.util.find_spec("trl") is not None
    for kind in options.only:
        names = [name for name in WAYS[kind] if known or "TRL" not in name]
        print(f"{kind}, of {names[0]}:")
        for name, ratio in compare(kind, names, options.rounds).items():
            print(f"  {name:40} {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
