"""log p, H, S*, E[S] and sum p^2 from logits and from a model, held against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.dynamics import token_statistics
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.tokenstats import (
    Head,
    block_statistics,
    score_sequences,
    split_model,
    token_batches,
    token_logprobs,
)

VOCABULARY = 4099
STATISTICS = ("logprobs", "entropies", "s_star", "expected_s", "sum_p2")


def rows_of(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(64, VOCABULARY, generator=generator)
    if kind == "one -inf in two":
        noise[:, ::2] = -torch.inf
        return noise
    if kind == "one-hot":
        row = torch.full((64, VOCABULARY), -torch.inf)
        row[:, 5] = 3.0
        return row
    return {
        "standard normal": noise,
        "peaked": noise * 8,
        "uniform": torch.zeros(64, VOCABULARY),
        "magnitude 1e4": noise * 1e4,
        "offset 1e4": noise + 1e4,
        "offset -1e4": noise - 1e4,
    }[kind]


def drawn(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.multinomial((logits.double() / temperature).softmax(dim=1), 1, generator=generator)[:, 0]


KINDS = (
    "standard normal",
    "peaked",
    "uniform",
    "magnitude 1e4",
    "offset 1e4",
    "offset -1e4",
    "one -inf in two",
    "one-hot",
)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_drawn_tokens_are_within_1e_5_of_float64(kind: str, temperature: float) -> None:
    logits = rows_of(kind)
    tokens = drawn(logits, temperature)
    truth = token_statistics(logits.double().numpy(), tokens.numpy(), temperature)
    found = block_statistics(logits, tokens, temperature)
    for name in STATISTICS:
        np.testing.assert_allclose(getattr(found, name).numpy(), getattr(truth, name), atol=1e-5, rtol=0, err_msg=name)
    centred = found.s_star.double().numpy() - found.expected_s.double().numpy()
    true_centred = truth.s_star - truth.expected_s
    # Where the true score is not numerically zero its sign decides what a mask does.
    decided = np.abs(true_centred) > 1e-7
    assert (np.sign(centred) == np.sign(true_centred))[decided].all()


def test_a_token_that_cannot_be_drawn_has_minus_infinity_and_no_nan() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0]])
    stats = block_statistics(logits, torch.tensor([1]), 1.0)
    assert stats.logprobs.item() == -np.inf
    assert stats.s_star.item() == 0.0
    assert not any(torch.isnan(x).any() for x in stats)


def test_uniform_rows_have_known_values() -> None:
    stats = block_statistics(torch.zeros(1, 8), torch.tensor([2]), 1.0)
    assert stats.entropies.item() == pytest.approx(np.log(8), abs=1e-7)
    assert stats.sum_p2.item() == pytest.approx(1 / 8, abs=1e-7)
    assert stats.expected_s.item() == pytest.approx(0.0, abs=1e-9)  # E[S] = 0 exactly where p is uniform


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=12), st.integers(0, 11), st.floats(0.2, 3.0))
def test_any_row_agrees_with_float64(row: list[float], token: int, temperature: float) -> None:
    logits = torch.tensor([row])
    tokens = torch.tensor([token % len(row)])
    truth = token_statistics(logits.double().numpy(), tokens.numpy(), temperature)
    found = block_statistics(logits, tokens, temperature)
    for name in STATISTICS[1:]:
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), atol=1e-5, rtol=0, err_msg=name)
    # log p of a token far down the tail is as exact as float32 can write it
    np.testing.assert_allclose(found.logprobs, truth.logprobs, atol=1e-5, rtol=1e-6)


def test_log_probability_gradient_is_that_of_the_written_formula() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 31, bias=False)
    hidden = torch.randn(700, 6, requires_grad=True)  # more than one tile
    tokens = torch.randint(31, (700,))
    token_logprobs(hidden, Head(linear), tokens, 0.8).sum().backward()
    got = [hidden.grad.clone(), linear.weight.grad.clone()]
    hidden.grad = linear.weight.grad = None
    torch.log_softmax(linear(hidden) / 0.8, dim=1).gather(1, tokens[:, None]).sum().backward()
    torch.testing.assert_close(got, [hidden.grad, linear.weight.grad], atol=2e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_scoring_in_batches_equals_one_sequence_at_a_time(tiny_policy: Path) -> None:
    model = load_model(find_policy(str(tiny_policy)), torch.float32, torch.device("cpu"))
    rng = np.random.default_rng(0)
    sequences = [
        (rng.integers(1, 200, size=int(rng.integers(1, 30))).tolist(), rng.integers(1, 200, size=size).tolist())
        for size in (5, 0, 1, 17, 40, 3)
    ]
    together = score_sequences(split_model(model), sequences, temperature=0.9, token_budget=150)
    for i, (prompt, response) in enumerate(sequences):
        start = sum(len(r) for _, r in sequences[:i])
        if not response:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        truth = token_statistics(logits.double().numpy(), np.array(response), 0.9)
        for name in STATISTICS:
            part = getattr(together, name)[start : start + len(response)]
            np.testing.assert_allclose(part, getattr(truth, name), atol=1e-5, err_msg=f"{name} of sequence {i}")


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "gpt2", "qwen3"])
def test_heads_that_cap_or_scale_their_logits_are_understood(family: str) -> None:
    import transformers

    torch.manual_seed(1)
    common = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    wide = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    extra = {
        "gemma2": {**wide, "final_logit_softcapping": 2.0, "initializer_range": 1.0},
        "cohere": {**wide, "logit_scale": 0.0625},
        "granite": {**wide, "logits_scaling": 3.0},
        "gpt2": {},
        "qwen3": wide,
    }[family]
    config = transformers.AutoConfig.for_model(family, **common, **extra)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    split = split_model(model)  # compares with the whole model, and raises where they differ
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        torch.testing.assert_close(
            split.head(split.body(ids).last_hidden_state), model(ids).logits, atol=1e-5, rtol=1e-5
        )


def test_a_tied_model_that_was_padded_in_memory_scores_as_before() -> None:
    import transformers

    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2)).eval()
    sequences = [([3, 1, 4], [96, 0, 5])]
    before = score_sequences(split_model(model), sequences, temperature=0.9, token_budget=None)
    padded = torch.nn.Embedding(128, 16)
    with torch.no_grad():
        padded.weight[:97] = model.transformer.wte.weight
    model.transformer.wte, model.lm_head.weight = padded, padded.weight
    assert model(torch.tensor([[3]])).logits.shape[-1] == 128
    after = score_sequences(split_model(model), sequences, temperature=0.9, token_budget=None)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_head_that_does_something_else_is_refused() -> None:
    import transformers

    from entropyctl.errors import EngineError

    config = transformers.GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2)

    class Odd(transformers.GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 1.5 + 1
            return out

    with pytest.raises(EngineError, match="output layer is not understood"):
        split_model(Odd(config).eval())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_gpu_gives_the_same_statistics(tiny_policy: Path) -> None:
    policy, rng = find_policy(str(tiny_policy)), np.random.default_rng(2)
    sequences = [(rng.integers(1, 200, 9).tolist(), rng.integers(1, 200, 1 + i).tolist()) for i in range(20)]
    found = [
        score_sequences(
            split_model(load_model(policy, torch.float32, torch.device(name))),
            sequences,
            temperature=1.0,
            token_budget=200,
        )
        for name in ("cpu", "cuda")
    ]
    for name in STATISTICS:
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), atol=1e-4, rtol=1e-4)
