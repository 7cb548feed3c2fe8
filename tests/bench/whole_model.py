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

from entropyctl.tokenstats import Sharing, score_sequences, split_model

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


def compare(ways: dict[str, Callable[[], Any]], rounds: int, against: str) -> dict[str, float]:
    """Median over rounds of each way's time over one's; results are checked to be equal."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        seconds, results = {}, {}
        for name, way in ways.items():
            began = time.thread_time()
            results[name] = way()
            seconds[name] = time.thread_time() - began
        for name, found in results.items():
            for mine, other in zip(found[:2], results[against][:2], strict=True):
                torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
            ratios[name].append(seconds[name] / seconds[against])
        print("  round:", {name: round(one, 2) for name, one in seconds.items()}, flush=True)
    return {name: statistics.median(values) for name, values in ratios.items()}


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
        print("score: of one by one")
        for name, ratio in compare(score_ways(trl is not None), options.rounds, "one by one").items():
            print(f"  {name:40} {ratio:.2f}")


if __name__ == "__main__":
    main()
