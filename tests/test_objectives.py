"""Policy losses and their reduction, held against the authors' numbers and the written formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.errors import UsageError
from entropyctl.objectives import kl_penalty, ppo, token_coefficients

GOLDEN = json.loads((Path(__file__).parent / "golden" / "peers.json").read_text())
FIXTURE = GOLDEN["fixture"]
LENGTHS = np.array([len(row) for row in FIXTURE["tokens"]])


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.array([x for row in rows for x in row])


def cases(prefix: str) -> list:
    chosen = [c for c in GOLDEN["cases"] if c["method"].startswith(prefix)]
    return [pytest.param(c, id=f"{c['method']} {c.get('aggregation', '')} {i}") for i, c in enumerate(chosen)]


ADVANTAGES = flat(next(c for c in GOLDEN["cases"] if c["method"] == "advantage/grpo")["advantages"])


@pytest.mark.parametrize("case", cases("loss/ppo"))
def test_ppo_loss_and_gradient_equal_verl(case: dict) -> None:
    new = torch.tensor(flat(FIXTURE["new_logprobs"]), dtype=torch.float64, requires_grad=True)
    old = torch.tensor(flat(FIXTURE["logprobs"]))
    result = ppo(new, old, torch.tensor(ADVANTAGES), **case["params"])
    coefficients = token_coefficients(np.ones(len(old), bool), LENGTHS, case["aggregation"])
    loss = (torch.from_numpy(coefficients) * result.loss).sum()
    loss.backward()
    # The authors' float32 sum of 431 tokens is itself off by a few 1e-7 of the largest terms.
    scale = abs(coefficients * result.loss.detach().numpy()).sum()
    assert abs(loss.item() - case["loss"]) <= 1e-6 * max(1.0, scale)
    np.testing.assert_allclose(new.grad.numpy(), flat(case["grad"]), rtol=2e-6, atol=1e-6)
    clipped = result.clipped.double().mean().item()
    expected = case["metrics"]["actor/pg_clipfrac"] + case["metrics"]["actor/pg_clipfrac_lower"]
    assert clipped == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", cases("kl/"))
def test_kl_estimators_equal_verl(case: dict) -> None:
    new, old = torch.tensor(flat(FIXTURE["new_logprobs"])), torch.tensor(flat(FIXTURE["logprobs"]))
    got = kl_penalty(new, old, case["method"].removeprefix("kl/"))
    np.testing.assert_allclose(got.numpy(), flat(case["values"]), rtol=1e-5, atol=1e-6)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage() -> None:
    new, old = torch.tensor([2.0, 2.0], requires_grad=True), torch.tensor([0.0, 0.0])
    result = ppo(new, old, torch.tensor([-1.0, 1.0]), clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    result.loss.sum().backward()
    assert result.loss.tolist() == pytest.approx([3.0, -1.2])  # -A dual_clip, and -A (1 + clip_high)
    assert result.clipped.tolist() == [True, True]
    assert new.grad.tolist() == [0.0, 0.0]


def test_an_absurd_ratio_stays_finite() -> None:
    result = ppo(torch.tensor([500.0]), torch.tensor([-500.0]), torch.tensor([1.0]))
    assert torch.isfinite(result.loss).all()


# Rows of 3, 0, 2 and 4 tokens; the last row has lost all of its tokens to a mask.
MASK = np.array([1, 0, 1, 1, 1, 0, 0, 0, 0], bool)
ROWS = np.array([3, 0, 2, 4])


@pytest.mark.parametrize(
    ("reduction", "norm", "expected"),
    [
        ("token-mean", None, [1 / 4, 0, 1 / 4, 1 / 4, 1 / 4, 0, 0, 0, 0]),
        ("token-sum", None, [1, 0, 1, 1, 1, 0, 0, 0, 0]),
        ("seq-mean-token-sum", None, [1 / 2, 0, 1 / 2, 1 / 2, 1 / 2, 0, 0, 0, 0]),
        ("seq-mean-token-mean", None, [1 / 4, 0, 1 / 4, 1 / 4, 1 / 4, 0, 0, 0, 0]),
        ("seq-mean-token-sum-norm", None, [1 / 8, 0, 1 / 8, 1 / 8, 1 / 8, 0, 0, 0, 0]),
        ("seq-mean-token-sum-norm", 10.0, [1 / 20, 0, 1 / 20, 1 / 20, 1 / 20, 0, 0, 0, 0]),
    ],
)
def test_reductions_divide_as_written(reduction: str, norm: float | None, expected: list[float]) -> None:
    assert token_coefficients(MASK, ROWS, reduction, norm).tolist() == pytest.approx(expected)


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=6))
def test_means_weigh_one_in_total_and_an_empty_batch_nothing(rows: list[list[bool]]) -> None:
    mask, lengths = np.array([m for row in rows for m in row], bool), np.array([len(row) for row in rows])
    for reduction in ("token-mean", "seq-mean-token-mean"):
        total = token_coefficients(mask, lengths, reduction).sum()
        assert total == pytest.approx(1.0 if mask.any() else 0.0)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match="token-mean, token-sum"):
        token_coefficients(MASK, ROWS, "mean")
    with pytest.raises(UsageError, match="k1, k2, k3, abs"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k9")
