"""Sequences packed into a row come out as one by one, whatever the model; what would mix them up is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.engines import Sampling, rollout_step
from entropyctl.engines.transformers import transformers as sampling_with
from entropyctl.errors import EngineError
from entropyctl.policy import find_policy
from entropyctl.prompts import Problem
from entropyctl.table.columns import flat_values
from entropyctl.tokenstats import (
    Sharing,
    SplitModel,
    attention,
    forward_batches,
    response_hidden,
    split_model,
    token_logprobs,
)
from entropyctl.tokenstats.layout import packed
from entropyctl.tokenstats.table import add_statistics
from entropyctl.training.batch import Batch

SIZE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 25,
}

# Windows are shorter than the sequences below, and caps so small that leaving one out shows.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZE,
    "llama with biases, as InternLM": {**SIZE, "attention_bias": True, "mlp_bias": True},
    "qwen2": SIZE,
    "qwen2 with windows": {**SIZE, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": SIZE,
    "qwen3_moe": {**SIZE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mistral": {**SIZE, "sliding_window": 9},
    "gemma2": {**SIZE, "sliding_window": 9, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0},
    "gemma3_text": {**SIZE, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {**SIZE, "sliding_window": 11},
    "phi3 with longrope": {**SIZE, "original_max_position_embeddings": 25, "rope_parameters": LONGROPE},
    "gpt2": GPT,
    "opt": {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "enable_bias": False,  # the gradient of a key's is nothing but rounding
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": 2,
    },
}
PADDED = {
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_oss": {
        **SIZE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 9,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "mamba": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "gpt_neo": {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 9,
        "max_position_embeddings": 256,
    },
}


def made(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family.split()[0], **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)  # else attention hardly tells one token from another
    return model


def texts() -> list[tuple[list[int], list[int]]]:
    """Prompts of which some are shared, responses of one token and of several blocks of queries."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 97, size).tolist() for size in (12, 5, 1, 8)]
    shape = [(0, 9), (1, 3), (0, 1), (2, 30), (0, 17), (3, 1), (1, 150)]
    return [(prompts[i], rng.integers(3, 97, size).tolist()) for i, size in shape]


def logprobs_by_itself(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """By the whole model, with the attention that its authors wrote."""
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    model.set_attn_implementation(attention.NAME)
    return torch.log_softmax(logits.float(), 1).gather(1, torch.tensor(response)[:, None])[:, 0]


def logprobs_packed(split: SplitModel, sequences: list[Any], budget: int | None) -> torch.Tensor:
    found: list[Any] = [None] * len(sequences)
    for batch in forward_batches(split, sequences, budget):
        hidden, tokens = response_hidden(split, [sequences[i] for i in batch])
        logprobs = token_logprobs(hidden, split.head, tokens, 1.0)
        for i, part in zip(batch, torch.split(logprobs, [len(sequences[i][1]) for i in batch]), strict=True):
            found[i] = part
    return torch.cat(found)


@pytest.mark.parametrize("budget", [None, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_by_one(family: str, budget: int | None) -> None:
    model = made(family, FAMILIES[family])
    split = split_model(model)
    assert split.sharing.packs
    if split.sharing.alone_beyond is not None:  # else longer sequences turn the others
        budget = budget or 10_000
    sequences, weights = texts(), torch.linspace(-1, 1, sum(len(r) for _, r in texts()))
    wanted = torch.cat([logprobs_by_itself(model, *one) for one in sequences])
    gradients = torch.autograd.grad((wanted * weights).sum(), list(model.parameters()), allow_unused=True)
    found = logprobs_packed(split, sequences, budget)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((found * weights).sum(), list(model.parameters()), allow_unused=True)
    for mine, other in zip(ours, gradients, strict=True):
        if other is not None:
            torch.testing.assert_close(mine, other, atol=1e-5 * float(other.abs().max()) + 1e-7, rtol=1e-4)


@pytest.mark.parametrize("family", PADDED)
def test_a_model_whose_attention_is_another_gets_padded_rows(family: str) -> None:
    """And the attention that its authors wrote: that of gpt-oss has sinks, which ours would leave out."""
    model, split = made(family, PADDED[family]), split_model(made(family, PADDED[family]))
    assert not split.sharing.packs
    sequences = texts()
    with torch.no_grad():
        each = [model(torch.tensor([p + r])).logits[0, len(p) - 1 : -1].log_softmax(1) for p, r in sequences]
        wanted = torch.cat(
            [one.gather(1, torch.tensor(r)[:, None])[:, 0] for one, (_, r) in zip(each, sequences, strict=True)]
        )
        torch.testing.assert_close(logprobs_packed(split, sequences, 200), wanted, atol=1e-4, rtol=1e-4)


def dense(module: Any, query: Any, key: Any, value: Any, mask: Any, *, packing: Any = None, **more: Any) -> Any:
    """Attention that keeps nothing apart."""
    if packing is not None:
        mask, _ = None, packing.windows.append(more.get("sliding_window"))
    more.pop("softcap", None)
    return attention.sdpa_attention_forward(module, query, key, value, mask, **more)


def no_window(*given: Any, sliding_window: Any = None, packing: Any = None, **more: Any) -> Any:
    """A layer that forgets to tell its window."""
    return attention.attention(*given, packing=packing, **more)


def silent(*given: Any, packing: Any = None, **more: Any) -> Any:
    """Layers of which nobody knows what they ask for."""
    return attention.attention(*given, packing=packing and attention.Packing(packing.segments), **more)


MIXING = [("llama", dense), ("qwen3", dense), ("mistral", no_window), ("llama", silent)]


@pytest.mark.parametrize(("family", "other"), MIXING)
def test_an_attention_that_mixes_sequences_up_is_refused(family: str, other: Any) -> None:
    """As that of transformers does when a packed row comes with a mask of ones: nobody is told."""
    transformers.AttentionInterface.register(attention.NAME, other)
    try:
        assert not split_model(made(family, FAMILIES[family])).sharing.packs
    finally:
        transformers.AttentionInterface.register(attention.NAME, attention.attention)


def test_the_cap_of_attention_scores_holds_outside_of_packed_rows_too() -> None:
    """transformers' own choice of attention for Gemma 2 leaves it out."""
    model = made("gemma2", FAMILIES["gemma2"])
    ids = torch.arange(30)[None] * 7 % 97
    with torch.no_grad():
        model.set_attn_implementation("eager")
        wanted = model(ids).logits
        attention.install(model)
        torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=1e-5)
        cached = model(ids[:, :20], use_cache=True).past_key_values
        torch.testing.assert_close(
            model(ids[:, 20:], past_key_values=cached).logits, wanted[:, 20:], atol=1e-5, rtol=1e-5
        )


def test_a_row_holds_a_shared_prompt_once_and_no_last_token() -> None:
    inputs, at = packed([([5, 6], [7, 8, 9]), ([4], [3]), ([5, 6], [2]), ([5, 6], [1, 1])], torch.device("cpu"))
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 1, 4]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2, 0]]
    assert at.tolist() == [1, 2, 3, 5, 1, 1, 4]


def test_a_sequence_that_turns_the_others_has_a_pass_of_its_own() -> None:
    sharing = type("Model", (), {"sharing": Sharing(packs=True, alone_beyond=6)})
    sequences = [([1] * 3, [1] * 4), ([1] * 3, [1] * 5), ([1] * 3, [1] * 2)]
    assert forward_batches(sharing, sequences, 100) == [[1], [0, 2]]


def test_what_no_token_is_learnt_of_is_cut_off_unless_it_turns_the_others() -> None:
    """What stands behind the last token that counts; with longrope how long a text is decides on its rotations."""
    arrays = {name: np.ones(8, np.float32) for name in ("weights", "kl_coefs")}
    batch = Batch([([1] * 3, [1] * 5), ([1] * 3, [1] * 3)], np.array([5, 3]), np.ones(8, bool), **arrays, inputs={})
    keep = np.array([1, 0, 1, 0, 0, 1, 0, 0], bool)
    found = {beyond: batch.only(keep, beyond) for beyond in (None, 5)}
    assert [[len(response) for _, response in one.sequences] for one in found.values()] == [[3, 1], [5, 1]]
    assert all([place.tolist() for place in one.places or ()] == [[0, 2], [0]] for one in found.values())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=30), st.integers(1, 100), st.booleans())
def test_passes_hold_every_sequence_once_within_the_budget(shape: list[Any], budget: int, packs: bool) -> None:
    prompts = [[i] * (1 + 5 * i) for i in range(4)]
    sequences = [(prompts[i], [0] * size) for i, size in shape]
    model = type("Model", (), {"sharing": Sharing(packs=packs)})
    batches = forward_batches(model, sequences, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    for batch in batches:
        chosen = [sequences[i] for i in batch]
        shared = sum(len(prompts[i]) for i in {shape[i][0] for i in batch}) + sum(len(r) - 1 for _, r in chosen)
        rows = len(batch) * max(len(p) + len(r) - 1 for p, r in chosen)
        assert len(batch) == 1 or (shared if packs else rows) <= budget


def test_a_model_with_a_cap_scores_what_it_samples(tiny_policy: Path, tmp_path: Path) -> None:
    shape = {**FAMILIES["gemma2"], "vocab_size": 257, "attn_logit_softcapping": 0.1}
    made("gemma2", shape).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_policy / name, tmp_path)
    engine = sampling_with(find_policy(str(tmp_path)), dtype="float32", device="cpu", batch_rows=4, arguments={})
    sampling = Sampling(max_tokens=20)
    problems = [Problem("p", "a question of some length", "1")]
    rows = rollout_step(problems, engine.sample, engine.tokenizer, sampling, step=0, n=6, seed=0, policy_version=0)
    scored = add_statistics(rows, split_model(engine.model), temperature=1.0, token_budget=64)
    np.testing.assert_allclose(
        flat_values(scored["logprobs"]), flat_values(scored["rollout_logprobs"]), atol=1e-4, rtol=1e-4
    )


def test_a_model_whose_body_is_the_whole_is_one_line() -> None:
    model = made("llama", SIZE)
    model.base_model_prefix = "nothing"
    with pytest.raises(EngineError, match="LlamaForCausalLM: its body does not stand apart"):
        split_model(model)
