"""The optimisation step: the loss as written, whatever the batching; weights, masks and penalties at work."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from entropyctl.errors import EngineError, UsageError
from entropyctl.objectives import kl_penalty, ppo, token_coefficients
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.trainer_state import TrainerState, write_shard
from entropyctl.registry import load_function
from entropyctl.tokenstats import Head, Sharing, SplitModel, score_sequences, split_model, statistics
from entropyctl.training import Batch, Recipe, mini_batches, train_step
from entropyctl.training.entropy import entropy_change, measure
from entropyctl.training.optimizer import Optimization, Optimizer, load_state, save_state

CPU = torch.device("cpu")
TEMPERATURE = 0.8


def make_recipe(**changes) -> Recipe:
    values = {
        "objective": ppo,
        "reduction": "token-mean",
        "norm": None,
        "kl": "k3",
        "mini_batches": 1,
        "epochs": 1,
        "grad_clip": 1e9,
        "token_budget": 10_000,
        "temperature": TEMPERATURE,
        "dtype": "float32",
    }
    return Recipe(**(values | changes))


def make_batch(seed: int = 0, rows: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, rows)
    count = int(lengths.sum())
    sequences = [
        (rng.integers(1, 200, int(rng.integers(1, 7))).tolist(), rng.integers(1, 200, n).tolist()) for n in lengths
    ]
    loss_mask = rng.random(count) < 0.8
    old_logprobs = (-rng.random(count) * 8).astype(np.float32)
    advantages = rng.normal(size=count).astype(np.float32)
    weights = rng.choice([0.0, 1.0, 0.5], count).astype(np.float32)
    kl_coefs = rng.choice([0.0, 0.3], count).astype(np.float32)
    inputs = {"old_logprobs": old_logprobs, "advantages": advantages}
    return Batch(sequences, lengths, loss_mask, weights, kl_coefs, inputs)


def with_inputs(batch: Batch, **changes: np.ndarray) -> Batch:
    return replace(batch, inputs={**batch.inputs, **changes})


@pytest.fixture
def model(tiny_policy: Path):
    return load_model(find_policy(str(tiny_policy)), torch.float32, CPU)


def gradients(model, batch: Batch, recipe: Recipe) -> list[torch.Tensor]:
    """The gradient that a step takes, read off an SGD step of size 1."""
    before = [p.detach().clone() for p in model.parameters()]
    train_step(split_model(model), Optimizer(model, Optimization("sgd", 1.0, 0.0)), [batch], recipe)
    found = [a - b.detach() for a, b in zip(before, model.parameters(), strict=True)]
    with torch.no_grad():
        for p, a in zip(model.parameters(), before, strict=True):
            p.copy_(a)
    return found


def written_gradients(model, batch: Batch, reduction: str) -> tuple[float, list[torch.Tensor]]:
    """Autograd of the formula of DESIGN 3.2, one sequence at a time, and of the code under test only ppo and KL."""
    k = torch.from_numpy(token_coefficients(batch.loss_mask, batch.lengths, reduction))
    total, start = torch.zeros((), dtype=torch.float64), 0
    for prompt, response in batch.sequences:
        at = slice(start, start + len(response))
        start += len(response)
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs = (logits / TEMPERATURE).log_softmax(dim=1)[range(len(response)), response]
        old = torch.from_numpy(batch.old_logprobs[at])
        loss = torch.from_numpy(batch.weights[at]) * ppo(logprobs, old, torch.from_numpy(batch.advantages[at])).loss
        loss = loss + torch.from_numpy(batch.kl_coefs[at]) * kl_penalty(logprobs, old, "k3")
        total = total + (k[at] * loss).sum()
    model.zero_grad()
    total.backward()
    return total.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("reduction", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_the_gradient_is_that_of_the_written_loss(model, reduction: str) -> None:
    batch = make_batch()
    _, expected = written_gradients(model, batch, reduction)
    found = gradients(model, batch, make_recipe(reduction=reduction))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("budget", [1, 20, 45])
def test_cutting_into_forward_passes_changes_nothing(model, budget: int) -> None:
    whole = gradients(model, make_batch(), make_recipe())
    cut = gradients(model, make_batch(), make_recipe(token_budget=budget))
    torch.testing.assert_close(cut, whole, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["ppo", "gspo", "gmpo", "cispo", "sapo"])
def test_tokens_that_are_left_out_of_the_pass_had_no_gradient(model, name: str, monkeypatch) -> None:
    """Objectives of whole responses need the tokens that have no advantage too."""
    batch = make_batch()
    some = with_inputs(batch, advantages=batch.advantages * (np.arange(len(batch.weights)) % 3 == 0))
    recipe = make_recipe(objective=load_function("objectives", name))
    found = gradients(model, some, recipe)
    monkeypatch.setattr(Recipe, "needed", lambda self, part: part.loss_mask)
    torch.testing.assert_close(found, gradients(model, some, recipe), atol=2e-5, rtol=1e-3)


def test_a_response_is_computed_up_to_its_last_token_with_a_gradient(model) -> None:
    batch = make_batch()
    only = np.zeros_like(batch.weights)
    only[batch.starts[2]] = 1.0  # the first token of the third response
    few = batch.masked(np.ones_like(batch.loss_mask), only, 0 * only)
    bodies, heads = [], []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: bodies.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    split = split_model(model)
    bodies.clear()
    original = statistics.vocabulary_sums
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "vocabulary_sums", lambda h, *more: heads.append(len(h)) or original(h, *more))
        train_step(split, Optimizer(model, Optimization("sgd", 1.0, 0.0)), [few], make_recipe())
    assert (bodies, heads) == ([len(batch.sequences[2][0])], [1])  # what the prompt predicts is enough


def test_a_removed_token_has_no_gradient_and_stays_in_the_denominator(model) -> None:
    batch = make_batch()
    ones, zeros = np.ones_like(batch.weights), np.zeros_like(batch.weights)
    only_first = zeros.copy()
    only_first[0] = 1.0
    everything = np.ones_like(batch.loss_mask)

    def step(weights, mask):
        return gradients(model, batch.masked(mask, weights, zeros), make_recipe())

    by_weight = step(only_first, everything)
    first = everything & (only_first > 0)
    by_mask = step(ones, first)
    # the same token alone pulls, but counted among N tokens or among one
    torch.testing.assert_close([g * len(zeros) for g in by_weight], by_mask, atol=2e-5, rtol=1e-3)


def test_nothing_to_learn_makes_no_optimiser_step(model) -> None:
    batch = make_batch()
    nothing = with_inputs(batch, advantages=np.zeros_like(batch.advantages)).masked(
        batch.loss_mask, batch.weights, None
    )
    before = [p.detach().clone() for p in model.parameters()]
    found = train_step(split_model(model), Optimizer(model, Optimization("adamw", 1e-2, 0.1)), [nothing], make_recipe())
    assert found == {
        **{"loss": 0.0, "grad_norm": 0.0, "kl": 0.0, "clip_fraction": 0.0, "flops": 0.0},
        **{"learning_rate": 1e-2, "optimizer_steps": 0, "skipped_steps": 0},
    }
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_epochs_and_mini_batches_each_make_their_steps(model) -> None:
    parts = [make_batch(1), make_batch(2), make_batch(3)]
    found = train_step(
        split_model(model), Optimizer(model, Optimization("adamw", 1e-4, 0.0)), parts, make_recipe(epochs=2)
    )
    assert found["optimizer_steps"] == 6


def test_mini_batches_keep_groups_whole() -> None:
    rows = ["a", "a", "b", "b", "b", "c", "d", "d"]
    parts = mini_batches(rows, 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4], [5], [6, 7]]
    assert [part.tolist() for part in mini_batches(["a", "a"], 5)] == [[0, 1]]


def test_gradient_clipping_bounds_the_step(model) -> None:
    clipped = gradients(model, make_batch(), make_recipe(grad_clip=0.01))
    assert torch.cat([g.flatten() for g in clipped]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_optimiser_continues_exactly_where_its_saved_state_ends(model, tiny_policy: Path) -> None:
    recipe, split = make_recipe(), split_model(model)
    optimizer = Optimizer(model, Optimization("adamw", 1e-3, 0.01))
    train_step(split, optimizer, [make_batch(1)], recipe)
    saved = {name: value.clone() for name, value in save_state(optimizer).tensors.items()}
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    train_step(split, optimizer, [make_batch(2)], recipe)

    other = load_model(find_policy(str(tiny_policy)), torch.float32, CPU)
    other.load_state_dict(weights)
    resumed = Optimizer(other, Optimization("adamw", 1e-3, 0.01))
    load_state(resumed, saved)
    train_step(split_model(other), resumed, [make_batch(2)], recipe)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reduction": "mean"}, "--reduction: there is no 'mean'"),
        ({"norm": 100.0}, "--norm 100: --reduction token-mean divides by no constant"),
        ({"kl": "k9"}, "--kl: there is no 'k9'"),
        ({"epochs": 0}, "must be at least 1"),
        ({"norm": -5.0}, "--norm -5: must be above 0"),
        ({"norm": 0.0}, "--norm 0: must be above 0"),
        ({"grad_clip": -1.0}, "--grad-clip -1: must be above 0"),
        ({"dtype": "int8"}, "--dtype: there is no 'int8'"),
    ],
)
def test_an_impossible_recipe_is_a_usage_error(change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_recipe(**change)


def test_clip_bounds_reach_the_loss(model) -> None:
    batch = make_batch()
    now = score_sequences(
        split_model(model), batch.sequences, temperature=TEMPERATURE, token_budget=10_000
    ).logprobs.numpy()
    near = with_inputs(batch, old_logprobs=now - 0.05)  # ratios of 1.05: inside the default band, outside a narrow one
    wide = gradients(model, near, make_recipe())
    narrow = gradients(model, near, make_recipe(objective=partial(ppo, clip_low=0.01, clip_high=0.01)))
    assert max((a - b).abs().max().item() for a, b in zip(wide, narrow, strict=True)) > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dual_clip": 1.0}, "--dual-clip 1"),
        ({"clip_low": 2.0}, "--clip-low 2"),
        ({"clip_high": -0.1}, "--clip-high -0.1"),
        ({"dual_clip": float("nan")}, "--dual-clip nan"),
    ],
)
def test_impossible_clip_bounds_are_a_usage_error(change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ppo(torch.zeros(1), torch.zeros(1), torch.zeros(1), **change)


@pytest.mark.parametrize(("lr", "decay"), [(-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (1e-6, -1.0)])
def test_impossible_rates_are_a_usage_error(lr: float, decay: float) -> None:
    with pytest.raises(UsageError, match=r"^--(lr|weight-decay) .*: must be a finite number, 0 or above"):
        Optimization("adamw", lr, decay)


def test_kl_and_clip_fraction_count_every_token_of_the_loss(model) -> None:
    """KL(old || new) from tokens of the old policy, k3 = r - 1 - log r; rows without a gradient count too."""
    batch = make_batch()
    now = score_sequences(split_model(model), batch.sequences, temperature=TEMPERATURE, token_budget=10_000)
    old = now.logprobs.numpy() - 0.5  # r = e^0.5 everywhere: beyond the clip where A > 0
    first = np.repeat(np.arange(len(batch.lengths)), batch.lengths) == 0
    pulled = with_inputs(batch, old_logprobs=old, advantages=np.where(first, 1.0, 0.0).astype(np.float32))
    only_first = pulled.masked(np.ones_like(batch.loss_mask), None, None)
    found = train_step(split_model(model), Optimizer(model, Optimization("sgd", 0.0, 0.0)), [only_first], make_recipe())
    share = first.sum() / len(first)
    assert found["clip_fraction"] == pytest.approx(share)
    assert found["kl"] == pytest.approx(share * (np.exp(0.5) - 1 - 0.5), rel=1e-3)


def test_the_entropy_before_is_of_the_weights_that_are_trained(model) -> None:
    """Rows that another version scored, or in another number type, do not lend their entropies to this one."""
    recipe, split = make_recipe(), split_model(model)
    batch = make_batch()
    before = measure(split, batch, recipe)
    change = entropy_change(batch, before, measure(split, batch, recipe), eta=0.5)
    assert change["realised_change"] == 0.0
    ratio = np.exp((before.logprobs - batch.old_logprobs).clip(-20, 20))
    expected = -0.5 * batch.weights * batch.loss_mask * ratio * batch.advantages * (before.s_star - before.expected_s)
    assert change["predicted_change"] == pytest.approx(expected.mean(), rel=1e-5)


def test_weights_that_compute_no_numbers_are_reported(model) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(EngineError, match="not numbers"):
        measure(split_model_unproved(model), make_batch(), make_recipe())


def split_model_unproved(model) -> SplitModel:
    return SplitModel(model, model.base_model, Head(model.get_output_embeddings()), Sharing(packs=False))


def test_the_state_of_a_weight_without_dimensions_comes_back(tmp_path: Path) -> None:
    """Scales of norms and temperatures are such weights in some models."""

    def made() -> Optimizer:
        module = torch.nn.Module()
        module.scale = torch.nn.Parameter(torch.tensor(2.0))
        return Optimizer(module, Optimization("adamw", 1e-2, 0.0))

    one, other = made(), made()
    one.model.scale.grad = torch.tensor(0.5)
    one.step(0.0, 1.0)
    write_shard(tmp_path, save_state(one))
    load_state(other, TrainerState(tmp_path))
    found, wanted = other.inner.state[other.model.scale], one.inner.state[one.model.scale]
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in wanted.items()}
