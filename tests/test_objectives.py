"""What surrounds the policy losses: reductions, KL estimators, coefficients of an entropy bonus, and the flags."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.objectives import cispo, default_reduction, kl_penalty, ppo, token_coefficients
from entropyctl.objectives._entropy_bonus import skywork, trl

GOLDEN = json.loads((Path(__file__).parent / "golden" / "peers.json").read_text())
FIXTURE = GOLDEN["fixture"]


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.array([x for row in rows for x in row])


def cases(prefix: str) -> list:
    chosen = [c for c in GOLDEN["cases"] if c["method"].startswith(prefix)]
    return [pytest.param(c, id=f"{c['method']} {c.get('aggregation', '')} {i}") for i, c in enumerate(chosen)]


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
        ("token-sum-norm", 10.0, [1 / 10, 0, 1 / 10, 1 / 10, 1 / 10, 0, 0, 0, 0]),
    ],
)
def test_reductions_divide_as_written(reduction: str, norm: float | None, expected: list[float]) -> None:
    assert token_coefficients(MASK, ROWS, reduction, norm).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "norm", "each"),
    [
        ("seq-mean-token-sum", None, [1 / 4, 1 / 4]),
        ("seq-mean-token-mean", None, [1 / 8, 1 / 8]),
        ("seq-mean-token-sum-norm", 10.0, [1 / 40, 1 / 40]),
        ("token-mean", None, [1 / 4, 1 / 4]),
    ],
)
def test_rows_without_a_token_count_where_all_rows_do(reduction: str, norm: float | None, each: list[float]) -> None:
    """As where verl's trainer and TRL divide by all responses."""
    found = token_coefficients(MASK, ROWS, reduction, norm, all_rows=True)
    assert found.tolist() == pytest.approx([each[0], 0, each[0], each[1], each[1], 0, 0, 0, 0])


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


# Traces of the authors' scripts: the entropy of each step, and what the rule makes of it.
ENTROPIES = [0.5, 0.3, 0.15, 0.1, 0.3, 0.2]


@pytest.mark.parametrize(
    ("rule", "numbers", "coefficients", "active"),
    [
        (skywork, (0.2, 1e-4, 0.0, 5e-3), [0, 0, 1e-4, 2e-4, 1e-4, 0], [0, 0, 1, 1, 0, 0]),
        (trl, (0.2, 0.005, 0.0, 1.0), [0, 0, 0.005, 0.01, 0.005, 0.01], [0, 0, 1, 1, 0, 1]),
    ],
)
def test_an_adaptive_coefficient_follows_the_entropy(rule: Any, numbers: Any, coefficients: Any, active: Any) -> None:
    coef, trace = 0.0, []
    for entropy in ENTROPIES:
        coef, acts = rule(coef, entropy, *numbers)
        trace.append((coef, acts))
    assert [acts for _, acts in trace] == [bool(flag) for flag in active]
    assert [coef for coef, _ in trace] == pytest.approx(coefficients, abs=1e-15)


def test_an_adaptive_coefficient_stays_within_its_bounds() -> None:
    assert skywork(0.005, 0.1, 0.2, 1e-4, 0.0, 0.005) == (0.005, True)
    assert trl(0.001, 9.0, 0.2, 0.005, 0.0005, 1.0) == (0.0005, False)


def test_the_target_itself_is_where_the_two_rules_part() -> None:
    assert skywork(0.5, 0.25, 0.25, 0.125, 0.0, 1.0) == (0.375, False)
    assert trl(0.5, 0.25, 0.25, 0.125, 0.0, 1.0) == (0.625, True)
    assert trl(0.5, math.inf, 0.25, 0.125, 0.0, 1.0) == (0.375, False)


@pytest.mark.parametrize(
    "numbers",
    [
        (math.nan, 0.1, 0.2, 1e-4, 0.0, 1.0),
        (0.0, math.nan, 0.2, 1e-4, 0.0, 1.0),
        (0.0, 0.1, math.inf, 1e-4, 0.0, 1.0),
        (0.0, 0.1, 0.2, -1e-4, 0.0, 1.0),
        (0.0, 0.1, 0.2, 1e-4, 1.0, 0.0),
    ],
)
def test_an_impossible_bonus_is_refused(numbers: Any) -> None:
    for rule in (skywork, trl):
        with pytest.raises(UsageError, match="makes no sense"):
            rule(*numbers)


NAMES = [name for name in registry.names("objectives") if registry.source_file("objectives", name)]


def test_objectives_state_their_reduction() -> None:
    forced = {"bcpg", "gmpo", "gspo", "prime-rm", "sapo"}
    assert {name for name in NAMES if default_reduction(name) == "seq-mean-token-mean"} == forced
    assert {default_reduction(name) for name in set(NAMES) - forced} == {"token-mean"}
    with pytest.raises(UsageError, match="known: bcpg"):
        default_reduction("none-such")


def keywords(name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(registry.load_function("objectives", name), eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Eighty tokens of eight rows, a few of them far from the old policy; some are not counted."""
    rng = np.random.default_rng(7)
    row = np.repeat(np.arange(8), 10)
    old = -rng.exponential(1.0, 80)
    floats = {
        "logprobs": np.minimum(
            old + rng.normal(0, 0.2, 80) + rng.choice([0, 2, -2, 5], 80, p=[0.8, 0.08, 0.08, 0.04]), 0
        ),
        "old_logprobs": old,
        "ref_logprobs": old + rng.normal(0, 0.3, 80),
        "advantages": rng.choice([-1.0, 0.5, 1.0, 0.0], 8)[row],
    }
    whole = {"row_of_token": row, "loss_mask": rng.random(80) > 0.1, "correct": rng.random(8) > 0.5}
    return {key: torch.tensor(x, dtype=dtype) for key, x in floats.items()} | {
        key: torch.from_numpy(x) for key, x in whole.items()
    }


def run(name: str, data: dict[str, torch.Tensor], **params: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, gradient and clipped tokens; the loss is summed over the counted tokens."""
    function = registry.load_function("objectives", name)
    new = data["logprobs"].clone().requires_grad_()
    found = function(*((data | {"logprobs": new})[read] for read in registry.inputs_of(function)), **params)
    found.loss[data["loss_mask"]].sum().backward()
    return found.loss.detach(), new.grad, found.clipped


FLAGS = [(name, keyword) for name in NAMES for keyword in keywords(name)]


@pytest.mark.parametrize(("name", "keyword"), FLAGS)
def test_every_flag_changes_a_loss_or_a_gradient(name: str, keyword: str) -> None:
    values = {"bounds": ["trl"], "ratio": [True]}.get(keyword, [0.01, 0.5, 1.5])
    plain = run(name, inputs())
    found = []
    for value in values:
        try:
            found.append(run(name, inputs(), **{keyword: value}))
        except UsageError:
            continue
    assert any(not torch.equal(a[0], plain[0]) or not torch.equal(a[1], plain[1]) for a in found)


@pytest.mark.parametrize("value", [math.nan, -0.5])
@pytest.mark.parametrize(("name", "keyword"), [flag for flag in FLAGS if flag[1] not in ("bounds", "ratio")])
def test_an_impossible_number_is_named_by_its_flag(name: str, keyword: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^--{keyword.replace('_', '-')} {value:g}: must "):
        run(name, inputs(), **{keyword: value})


@pytest.mark.parametrize("keyword", ["clip_high", "dual_clip"])
@pytest.mark.parametrize("name", ["ppo", "ce-gppo"])
def test_infinity_is_no_bound(name: str, keyword: str) -> None:
    """The largest ratio is exp(20), so a bound beyond it is none; zero advantages must not become NaN."""
    none, huge = run(name, inputs(), **{keyword: math.inf}), run(name, inputs(), **{keyword: 1e9})
    assert all(torch.equal(a, b) for a, b in zip(none, huge, strict=True))
    assert torch.isfinite(none[0]).all() and torch.isfinite(none[1]).all()


@pytest.mark.parametrize(
    ("bounds", "lowest", "highest"),
    [("verl", 0.8, 1.2), ("trinity", 0.01, 1.28), ("trl", 0.01, 5.0), ("open-instruct", 0.01, 1.272)],
)
def test_cispo_has_the_bounds_of_the_frameworks(bounds: Any, lowest: float, highest: float) -> None:
    """Ratios of 0.01 and 100: the gradient is the clipped ratio."""
    new = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    old = torch.tensor([100.0, 0.01], dtype=torch.float64).log()
    cispo(new, old, torch.tensor([-1.0, -1.0]), bounds=bounds).loss.sum().backward()
    assert new.grad.tolist() == pytest.approx([lowest, highest])
    new.grad = None
    cispo(new, old, torch.tensor([-1.0, -1.0]), bounds=bounds, clip_low=10.0, clip_high=2.0).loss.sum().backward()
    assert new.grad.tolist() == pytest.approx([0.01, 3.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_an_objective_computes_in_the_type_that_it_is_given(name: str, dtype: torch.dtype) -> None:
    loss, gradient, clipped = run(name, inputs(dtype))
    assert (loss.dtype, gradient.dtype, clipped.dtype) == (dtype, dtype, torch.bool)
    assert loss.shape == clipped.shape == (80,)
    exact = run(name, inputs())
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-4, atol=1e-5)


def test_help_of_an_objective_waits_for_no_torch() -> None:
    code = "import sys, entropyctl.objectives as o; assert 'ppo' in o.__all__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
