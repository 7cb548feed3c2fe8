"""Gradients of every objective against autograd of the formula as it is written, row by row in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from entropyctl import registry
from entropyctl.objectives import default_reduction, token_coefficients
from entropyctl.objectives._rows import row_mean

NAMES = [name for name in registry.names("objectives") if registry.source_file("objectives", name)]
Data = dict[str, Tensor]


def mini_batch(lengths: list[int], seed: int, spread: float) -> tuple[np.ndarray, Data]:
    """Rows of random tokens, one in five not counted; A is the same within a row, and in some rows 0."""
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(lengths)), lengths)
    old = -rng.exponential(1.0, len(row))
    floats = {
        "logprobs": old + rng.normal(0, spread, len(row)),
        "old_logprobs": old,
        "ref_logprobs": old + rng.normal(0, 0.3, len(row)),
        "advantages": (rng.normal(size=len(lengths)) * (rng.random(len(lengths)) > 0.2))[row],
    }
    data = {name: torch.from_numpy(values) for name, values in floats.items()}
    data["row_of_token"] = torch.from_numpy(row)
    data["loss_mask"] = torch.from_numpy(rng.random(len(row)) > 0.2)
    data["correct"] = torch.from_numpy(rng.random(len(lengths)) > 0.5)
    return np.array(lengths, int), data


def objective(name: str, data: Data, **params: Any) -> tuple[Tensor, Tensor]:
    """Losses and clipped tokens."""
    function = registry.load_function("objectives", name)
    found = function(*(data[read] for read in registry.inputs_of(function)), **params)
    return found.loss, found.clipped


def reduced(name: str, lengths: np.ndarray, data: Data, weights: Tensor | float = 1.0, **params: Any) -> Tensor:
    k = token_coefficients(data["loss_mask"].numpy(), lengths, default_reduction(name))
    loss, _ = objective(name, data, **params)
    return torch.where(data["loss_mask"], torch.from_numpy(k) * weights * loss, 0.0).sum()


def gradient(value: Callable[[Data], Tensor], data: Data) -> tuple[float, Tensor]:
    new = data["logprobs"].clone().requires_grad_()
    loss = value(data | {"logprobs": new})
    (grad,) = torch.autograd.grad(loss, new)
    return loss.item(), grad


# The formulas. `p`, `q`, `f` are log p of the policy, the old one and the reference in one row's counted tokens,
# `A` the row's advantage; a formula gives the row's token losses, or one number for the row.


def ppo(p: Tensor, q: Tensor, A: float, low: float, high: float, c: float) -> Tensor:
    r = (p - q).exp()
    clipped = torch.where(r < 1 - low, 1 - low, torch.where(r > 1 + high, 1 + high, r))
    if A >= 0:
        return -torch.minimum(r * A, clipped * A)
    return -torch.maximum(torch.minimum(r * A, clipped * A), torch.full_like(r, c * A))


def cispo(p: Tensor, q: Tensor, A: float, low: float, high: float) -> Tensor:
    weight = [min(max(math.exp(d), 1 - low), 1 + high) for d in (p - q).tolist()]
    return -torch.tensor(weight, dtype=p.dtype) * A * p


def gspo(p: Tensor, q: Tensor, A: float, low: float, high: float) -> Tensor:
    s = ((p - q).sum() / len(p)).exp()
    return -torch.minimum(s * A, s.clamp(1 - low, 1 + high) * A)


def gmpo(p: Tensor, q: Tensor, A: float, low: float, high: float) -> Tensor:
    kept = [d.clamp(max=high) if A > 0 else d.clamp(min=-low) if A < 0 else 0 * d for d in p - q]
    return -A * torch.stack(kept).exp().prod() ** (1 / len(p))


def sapo(p: Tensor, q: Tensor, A: float, pos: float, neg: float) -> Tensor:
    tau = pos if A > 0 else neg
    return -A * 4 / tau / (1 + (-tau * ((p - q).exp() - 1)).exp())


def dppo_tv(p: Tensor, q: Tensor, A: float, low: float, high: float, cap: float) -> Tensor:
    moved = (p.exp() - q.exp()).tolist()
    keep = [m <= high if A > 0 else m >= -low for m in moved]
    return torch.stack([-A * min((a - b).exp().item(), cap) * a * k for a, b, k in zip(p, q, keep, strict=True)])


def dppo_kl(p: Tensor, q: Tensor, A: float, low: float, high: float, cap: float) -> Tensor:
    losses = []
    for a, b in zip(p, q, strict=True):
        x, y = math.exp(a.item()), math.exp(b.item())
        divergence = y * math.log(y / x) + (1 - y) * math.log((1 - y + 1e-8) / (max(1 - x, 0) + 1e-8))
        keep = (divergence <= high or x <= y) if A > 0 else (divergence <= low or x >= y)
        losses.append(-A * min(x / y, cap) * a * keep)
    return torch.stack(losses)


def ce_gppo(p: Tensor, q: Tensor, A: float, low: float, high: float, b1: float, b2: float, c: float) -> Tensor:
    losses = []
    for r in (p - q).exp():
        own = r / r.detach()
        if A < 0 and r < 1 - low:
            loss = -b1 * (1 - low) * A * own
        elif A > 0 and r > 1 + high:
            loss = -b2 * (1 + high) * A * own
        else:
            loss = -A * r
        losses.append(loss.clamp(max=-A * c) if A < 0 else loss)
    return torch.stack(losses)


def bcpg(p: Tensor, f: Tensor, A: float, tau: float) -> Tensor:
    return ((-A * p).sum() + tau / 2 * (p - f).sum() ** 2) / len(p)


def prime_rm(p: Tensor, f: Tensor, correct: bool, beta: float) -> Tensor:
    chance = torch.sigmoid(beta * (p - f).sum())
    return -(chance if correct else 1 - chance).log()


FORMULAS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "ppo": (ppo, {"clip_low": 0.1, "clip_high": 0.15, "dual_clip": 1.5}),
    "reinforce": (lambda p, q, A, ratio: -A * ((p - q).exp() if ratio else p), {"ratio": True}),
    "cispo": (cispo, {"clip_low": 0.1, "clip_high": 0.15}),
    "gspo": (gspo, {"clip_low": 0.05, "clip_high": 0.07}),
    "gmpo": (gmpo, {"clip_low": 0.1, "clip_high": 0.15}),
    "sapo": (sapo, {"tau_pos": 0.8, "tau_neg": 1.7}),
    "dppo-tv": (dppo_tv, {"delta_low": 0.02, "delta_high": 0.03, "max_ratio": 1.2}),
    "dppo-kl": (dppo_kl, {"delta_low": 0.002, "delta_high": 0.003, "max_ratio": 1.2}),
    "ce-gppo": (ce_gppo, {"clip_low": 0.1, "clip_high": 0.15, "beta1": 0.3, "beta2": 0.6, "dual_clip": 1.5}),
    "bcpg": (bcpg, {"tau": 0.3}),
    "prime-rm": (prime_rm, {"beta": 0.4}),
}


def rows(data: Data) -> Iterator[tuple[int, Tensor]]:
    """The rows that have a counted token, and where those are."""
    for row in data["row_of_token"].unique().tolist():
        at = torch.nonzero((data["row_of_token"] == row) & data["loss_mask"]).flatten()
        if len(at):
            yield row, at


def written(name: str, data: Data, params: dict[str, float]) -> Tensor:
    """The formula over the mini-batch: the mean over tokens of a token's, the mean over rows of a row's."""
    formula, _ = FORMULAS[name]
    found = []
    for row, at in rows(data):
        anchor = data["ref_logprobs" if name in ("bcpg", "prime-rm") else "old_logprobs"][at]
        label = data["correct"][row].item() if name == "prime-rm" else data["advantages"][at[0]].item()
        found.append(formula(data["logprobs"][at], anchor, label, *params.values()))
    if not found:
        return 0.0 * torch.where(data["loss_mask"], data["logprobs"], 0.0).sum()
    if default_reduction(name) == "token-mean":
        return torch.cat(found).mean()
    return torch.stack([loss.mean() for loss in found]).mean()


MINI_BATCHES = (
    st.lists(st.integers(0, 6), max_size=6),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.2, 1.0]),
)


@pytest.mark.parametrize("name", NAMES)
@given(*MINI_BATCHES)
def test_loss_and_gradient_are_those_of_the_formula(name: str, lengths: list[int], seed: int, spread: float) -> None:
    counts, data = mini_batch(lengths, seed, spread)
    _, params = FORMULAS[name]
    expected, slope = gradient(lambda d: written(name, d, params), data)
    loss, grad = gradient(lambda d: reduced(name, counts, d, **params), data)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(*MINI_BATCHES)
def test_a_weight_scales_the_gradient_of_its_own_token(name: str, lengths: list[int], seed: int, spread: float) -> None:
    counts, data = mini_batch(lengths, seed, spread)
    weights = torch.from_numpy(np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 2.0], len(data["logprobs"])))
    _, params = FORMULAS[name]
    _, plain = gradient(lambda d: reduced(name, counts, d, **params), data)
    _, weighed = gradient(lambda d: reduced(name, counts, d, weights, **params), data)
    torch.testing.assert_close(weighed, weights * plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_counted_has_no_influence(name: str) -> None:
    counts, data = mini_batch([5, 1, 7, 4], 3, 0.3)
    outside = ~data["loss_mask"]
    assert outside.any()
    changed = dict(data)
    for column in ("logprobs", "old_logprobs", "ref_logprobs", "advantages"):
        changed[column] = torch.where(outside, -7.0, data[column])
    loss, grad = gradient(lambda d: reduced(name, counts, d), data)
    other, other_grad = gradient(lambda d: reduced(name, counts, d), changed)
    assert loss == pytest.approx(other, rel=1e-12)
    torch.testing.assert_close(grad, other_grad, rtol=1e-12, atol=1e-15)
    assert (grad[outside] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_neither_changes_its_inputs_nor_its_mind(name: str) -> None:
    _, data = mini_batch([5, 1, 7, 4], 3, 0.3)
    before = {key: values.clone() for key, values in data.items()}
    first, second = objective(name, data), objective(name, data)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(before[key], data[key]) for key in data)


@pytest.mark.parametrize("name", NAMES)
def test_rows_may_come_in_any_order_and_in_several_passes(name: str) -> None:
    _, data = mini_batch([5, 0, 1, 7, 4], 3, 0.3)
    whole, _ = objective(name, data)
    for chosen in ([0, 3], [4, 2, 1]):
        at = torch.cat([torch.nonzero(data["row_of_token"] == row).flatten() for row in chosen])
        part = {key: values[at] for key, values in data.items() if key != "correct"}
        part["row_of_token"] = torch.tensor([chosen.index(row) for row in data["row_of_token"][at].tolist()])
        part["correct"] = data["correct"][chosen]
        found, _ = objective(name, part)
        counted = part["loss_mask"]
        torch.testing.assert_close(found[counted], whole[at][counted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 3], [1], [4, 0, 2]])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_empty_rows_and_empty_masks_are_finite(name: str, lengths: list[int], counted: bool) -> None:
    counts, data = mini_batch(lengths, 1, 0.3)
    data["loss_mask"] = torch.full_like(data["loss_mask"], counted)
    loss, grad = gradient(lambda d: reduced(name, counts, d), data)
    assert math.isfinite(loss) and torch.isfinite(grad).all()
    if not counted:
        assert loss == 0 and (grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_absurd_ratio_stays_finite(name: str) -> None:
    far = torch.tensor([500.0, -500.0, 500.0, -500.0])
    data = {
        "logprobs": far,
        "old_logprobs": -far,
        "ref_logprobs": -far,
        "advantages": torch.tensor([1.0, 1.0, -1.0, -1.0]),
        "row_of_token": torch.arange(4),
        "loss_mask": torch.ones(4, dtype=torch.bool),
        "correct": torch.tensor([True, True, False, False]),
    }
    loss, grad = gradient(lambda d: objective(name, d)[0].sum(), data)
    assert math.isfinite(loss) and torch.isfinite(grad).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"bcpg", "prime-rm", "reinforce", "cispo", "dppo-tv", "dppo-kl"}))
def test_on_the_old_policy_every_ratio_objective_is_the_plain_gradient(name: str) -> None:
    """-A / Z at each token: where nothing has moved, nothing is clipped."""
    counts, data = mini_batch([3, 1, 4], 5, 0.0)
    data["loss_mask"] = torch.ones(8, dtype=torch.bool)
    _, grad = gradient(lambda d: reduced(name, counts, d), data)
    k = token_coefficients(np.ones(8, bool), counts, default_reduction(name))
    torch.testing.assert_close(grad, -data["advantages"] * torch.from_numpy(k), rtol=1e-9, atol=1e-12)
    assert not objective(name, data)[1].any()


def test_without_betas_ce_gppo_has_the_gradient_of_ppo() -> None:
    counts, data = mini_batch([9, 9, 9], 2, 0.5)
    _, expected = gradient(lambda d: reduced("ppo", counts, d, dual_clip=10.0), data)
    _, found = gradient(lambda d: reduced("ce-gppo", counts, d, beta1=0.0, beta2=0.0), data)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_a_row_mean_reads_no_token_that_is_not_counted() -> None:
    values = torch.tensor([1.0, math.nan, 3.0, math.inf, 8.0], requires_grad=True)
    mask = torch.tensor([True, False, True, False, True])
    mean, count = row_mean(values, torch.tensor([0, 0, 0, 1, 3]), mask)
    assert mean.tolist() == [2.0, 2.0, 2.0, 0.0, 8.0]
    assert count.tolist() == [2.0, 2.0, 2.0, 1.0, 1.0]
    mean.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_dppo_kl_survives_a_probability_that_rounds_above_one() -> None:
    data = {"logprobs": torch.tensor([1e-6]), "old_logprobs": torch.tensor([-1e-6]), "advantages": torch.ones(1)}
    loss, clipped = objective("dppo-kl", data)
    assert torch.isfinite(loss).all() and not clipped.any()
