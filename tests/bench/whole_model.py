"""A whole model's pass over a batch, and a whole training step, against TRL's and against one sequence at a time.

    python tests/bench/whole_model.py [--rounds 2] [--trl DIRECTORY] [--only score update]

The model has the shape of SmolLM2-135M with random weights; the texts are 32 (16 for the step), of 16 to 512 tokens, on
one thread, by its CPU time: every figure is the median over rounds of its ratio within a round. TRL is its own
GRPOTrainer, installed or unpacked in DIRECTORY (with accelerate and datasets beside it); without it the others are run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from entropyctl.objectives import ppo
from entropyctl.tokenstats import Sharing, score_sequences, split_model
from entropyctl.training import Batch, Recipe, train_step
from entropyctl.training.optimizer import Optimization, Optimizer

PROMPT = 8
Text = tuple[list[int], list[int]]


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


def score_ways(trl: bool) -> dict[str, Callable[[], Any]]:
    """Ways to log-probabilities and entropies of the texts."""
    batch, split = texts(32), split_model(model_of_shape())

    def ours(budget: int, *, packs: bool = True) -> Callable[[], Any]:
        from dataclasses import replace

        model = split if packs else replace(split, sharing=Sharing(packs=False))
        return lambda: score_sequences(model, batch, temperature=1.0, token_budget=budget)

    ways = {
        "one by one": ours(1),
        "padded rows, 4096 tokens a pass": ours(4096, packs=False),
        "packed, 4096 tokens a pass": ours(4096),
    }
    if trl:
        trainer = trl_trainer(model_of_shape(), tempfile.mkdtemp())
        given = padded(batch)
        ids = torch.cat([given["prompt_ids"], given["completion_ids"]], dim=1)
        mask = torch.cat([given["prompt_mask"], given["completion_mask"]], dim=1)
        keep = given["completion_ids"].shape[1]

        def theirs() -> Any:
            with torch.no_grad():
                found = trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, keep, batch_size=8, compute_entropy=True
                )
            kept = given["completion_mask"].bool()
            return [one[kept] for one in found[:2]]

        ways["TRL, log p and entropy, 8 rows a pass"] = theirs
    return ways


def update_ways(trl: bool) -> dict[str, Callable[[], Any]]:
    """Ways to a whole training step on the texts; each returns its gradients, clipped, once."""
    batch = texts(16)
    counts = np.array([len(response) for _, response in batch])
    advantage_B = np.random.default_rng(1).normal(size=len(batch)).astype(np.float32)
    start = {name: value.clone() for name, value in model_of_shape().state_dict().items()}

    def ours(kept: float) -> Callable[[], Any]:
        split = split_model(model_of_shape())
        old = score_sequences(split, batch, temperature=1.0, token_budget=4096).logprobs.numpy()
        optimizer = Optimizer(split.model, Optimization("adamw", 1e-6, 0.0))
        weights = (np.random.default_rng(2).random(len(old)) < kept).astype(np.float32)
        inputs = {"old_logprobs": old, "advantages": np.repeat(advantage_B, counts)}
        part = Batch(batch, counts, np.ones(len(old), bool), weights, 0 * weights, inputs)
        recipe = Recipe(ppo, "token-mean", None, "k3", 1, 1, 1.0, 2048, "float32")

        def run() -> Any:
            split.model.load_state_dict(start)
            found: list[torch.Tensor] = []
            hook = optimizer.inner.register_step_pre_hook(lambda *_: found.extend(gradients(split.model)))
            train_step(split, optimizer, [part], recipe)
            hook.remove()
            return found

        return run

    ways = {"packed, 2048 tokens a pass": ours(1.0), "the same, of 20 % of the tokens": ours(0.2)}
    if trl:
        trainer = trl_trainer(model_of_shape(), tempfile.mkdtemp())
        trainer.current_gradient_accumulation_steps = 1  # the passes of a step are weighed below
        model = trainer.model.train()
        adam = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
        whole = padded(batch) | {"advantages": torch.from_numpy(advantage_B)}  # as TRL pads: all rows before it cuts

        def theirs() -> Any:
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

        ways["TRL, 4 rows a pass"] = theirs
    return ways


def gradients(model: Any) -> list[torch.Tensor]:
    """Copies of them."""
    return [parameter.grad.clone() for parameter in model.parameters()]


def compare(ways: dict[str, Callable[[], Any]], rounds: int, against: str) -> dict[str, float]:
    """Median over rounds of each way's time over one's; how far results are from that one's is printed."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        seconds, results = {}, {}
        for name, way in ways.items():
            began = time.thread_time()
            results[name] = way()
            seconds[name] = time.thread_time() - began
        for name in ways:
            ratios[name].append(seconds[name] / seconds[against])
        away = {name: largest_difference(found, results[against]) for name, found in results.items()}
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
    parser.add_argument("--only", nargs="+", default=["score", "update"], choices=["score", "update"])
    options = parser.parse_args()
    if options.trl:
        sys.path.append(str(options.trl))
    try:
        import trl
    except ImportError:
        trl = None
    torch.set_num_threads(1)
    if "score" in options.only:
        print("score, of one by one:")
        show(compare(score_ways(trl is not None), options.rounds, "one by one"))
    if "update" in options.only:
        print("update, of packed:")
        show(compare(update_ways(trl is not None), options.rounds, "packed, 2048 tokens a pass"))


def show(ratios: dict[str, float]) -> None:
    """Print them."""
    for name, ratio in ratios.items():
        print(f"  {name:40} {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
