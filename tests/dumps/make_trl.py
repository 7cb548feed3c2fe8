"""Trains a random model of a few thousand weights for two steps with TRL's GRPOTrainer, which logs its completions.

python make_trl.py DIRECTORY chat|text
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

WORDS = ["<pad>", "<eos>", "<u>", "<a>", "What", "is", "2", "3", "4", "5", "+", "?", "the", "answer"]
QUESTIONS = [("What is 2 + 2 ?", "4"), ("What is 2 + 3 ?", "5"), ("What is 3 + 2 ?", "5"), ("What is 2 + 1 ?", "3")]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<u> {{ m.content }} {% else %}<a> {{ m.content }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def text(completion: Any) -> str:
    return str(completion[0]["content"]) if isinstance(completion, list) else str(completion)


def accuracy_reward(completions: list[Any], solution: list[str], log_extra: Any = None, **_: Any) -> list[float]:
    if log_extra:
        log_extra("solution", list(solution))
    return [float(right in text(c)) for c, right in zip(completions, solution, strict=True)]


def length_reward(completions: list[Any], **_: Any) -> list[float | None]:
    return [None if "?" in text(c) else -len(text(c)) / 100 for c in completions]


def main(out: str, conversational: bool) -> None:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="the"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(
        vocab_size=len(WORDS),
        num_key_value_heads=1,
        max_position_embeddings=64,
        eos_token_id=1,
        pad_token_id=0,
        **shape,
    )
    prompts = [[{"role": "user", "content": q}] if conversational else q for q, _ in QUESTIONS]
    data = [{"prompt": prompt, "solution": s} for prompt, (_, s) in zip(prompts, QUESTIONS, strict=True)]
    how = GRPOConfig(
        output_dir=out,
        log_completions=True,
        logging_steps=1,
        max_steps=2,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=6,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        seed=1,
        learning_rate=1e-3,
        num_completions_to_print=0,
    )
    rewards = [accuracy_reward, length_reward] if conversational else [accuracy_reward]
    model = Qwen2ForCausalLM(config)
    GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=how,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    ).train()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "chat")
