"""Every objective against the authors' own numbers: losses, and gradients where they were recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from entropyctl import registry
from entropyctl.objectives import default_reduction, kl_penalty, token_coefficients

FOLDER = Path(__file__).parent / "golden"


class Fixture(NamedTuple):
    """Rows of tokens behind one another, and what an objective may read of them; float64."""

    lengths: np.ndarray
    inputs: dict[str, np.ndarray]


def fixture(lengths: list[int], logprobs: Any, old: Any, advantages: Any) -> Fixture:
    rows = np.repeat(np.arange(len(lengths)), lengths)
    inputs = {"logprobs": logprobs, "old_logprobs": old, "ref_logprobs": old, "advantages": advantages}
    found = {name: np.asarray(values, np.float64) for name, values in inputs.items()}
    return Fixture(np.array(lengths), found | {"row_of_token": rows, "loss_mask": np.ones(len(rows), bool)})


class Result(NamedTuple):
    loss: float
    grad: np.ndarray
    scale: float  # sum of the terms' magnitudes: the authors' float32 sums are as exact as this times 6e-8
    clipped: np.ndarray


def evaluate(
    data: Fixture,
    name: str,
    reduction: str | None = None,
    *,
    norm: float | None = None,
    weights: Any = 1.0,
    kl_coefs: Any = 0.0,
    kl: str = "abs",
    **params: Any,
) -> Result:
    """The loss of a mini-batch as the update makes it, and its gradient."""
    function = registry.load_function("objectives", name)
    tensors = {key: torch.from_numpy(values) for key, values in data.inputs.items()}
    new = tensors["logprobs"] = tensors["logprobs"].clone().requires_grad_()
    policy = function(*(tensors[read] for read in registry.inputs_of(function)), **params)
    penalty = kl_penalty(new, tensors["old_logprobs"], kl)
    reduction = reduction or default_reduction(name)
    k = token_coefficients(data.inputs["loss_mask"], data.lengths, reduction, norm)
    terms = torch.from_numpy(k) * (torch.as_tensor(weights) * policy.loss + torch.as_tensor(kl_coefs) * penalty)
    terms.sum().backward()
    return Result(terms.sum().item(), new.grad.numpy(), terms.abs().sum().item(), policy.clipped.numpy())


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.array([value for row in rows for value in row])


PEERS = json.loads((FOLDER / "peers.json").read_text())
NUMBERS = PEERS["fixture"]
LARGE = fixture(
    [len(row) for row in NUMBERS["tokens"]],
    flat(NUMBERS["new_logprobs"]),
    flat(NUMBERS["logprobs"]),
    flat(next(case for case in PEERS["cases"] if case["method"] == "advantage/grpo")["advantages"]),
)
CASES = [case for case in PEERS["cases"] if case["method"].startswith("loss/")]


def named(*names: str) -> list[Any]:
    chosen = [case for case in CASES if case["method"].removeprefix("loss/") in names]
    return [pytest.param(case, id=f"{case['method'][5:]}-{i}") for i, case in enumerate(chosen)]


def agrees(found: Result, case: dict[str, Any]) -> None:
    # The authors' float32 sum of 431 tokens is itself off by a few 1e-7 of the largest terms.
    assert abs(found.loss - case["loss"]) <= 1e-6 * max(1.0, found.scale)
    grad = flat(case["grad"])
    np.testing.assert_allclose(found.grad, grad, rtol=2e-6, atol=1e-6 * abs(grad).max())


@pytest.mark.parametrize("case", named("ppo", "gspo", "sapo", "cispo", "gmpo", "ce-gppo"))
def test_an_objective_equals_the_authors(case: dict[str, Any]) -> None:
    name = case["method"].removeprefix("loss/")
    found = evaluate(LARGE, name, case["aggregation"], **case["params"])
    agrees(found, case)
    if name in ("ppo", "gspo", "cispo"):
        expected = case["metrics"]["actor/pg_clipfrac"] + case["metrics"]["actor/pg_clipfrac_lower"]
        assert found.clipped.mean() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["gspo", "sapo", "gmpo"])
def test_the_default_reduction_is_the_one_that_the_authors_force(name: str) -> None:
    case = next(case for case in CASES if case["method"] == f"loss/{name}")
    assert default_reduction(name) == case["aggregation"]


def chosen_by(mask: str, data: Fixture, **params: Any) -> dict[str, np.ndarray]:
    """What a mask of the current policy hands to the update."""
    function = registry.load_function("masks", mask)
    columns = data.inputs | {"token_key": np.arange(len(data.inputs["logprobs"]), dtype=np.uint64)}
    compiled = function(*(columns[read] for read in registry.inputs_of(function)), **params)
    found = {"weights": compiled.weights, "kl_coefs": compiled.kl_coefs}
    return {name: values for name, values in found.items() if values is not None}


@pytest.mark.parametrize("case", named("kl-cov"))
def test_kl_cov_is_reinforce_with_a_penalty_on_some_tokens(case: dict[str, Any]) -> None:
    params = {"ratio": case["params"]["ratio"], "coef": case["params"]["kl_coef"]}
    agrees(evaluate(LARGE, "reinforce", case["aggregation"], ratio=True, **chosen_by("kl-cov", LARGE, **params)), case)


@pytest.mark.parametrize("case", named("clip-cov"))
def test_clip_cov_is_ppo_without_some_tokens(case: dict[str, Any]) -> None:
    params = case["params"]
    clips = {"clip_low": params["clip_low"], "clip_high": params["clip_high"]}
    bounds = {"ratio": params["ratio"], "lower": params["cov_low"], "upper": params["cov_high"]}
    chosen = chosen_by("clip-cov", LARGE, **bounds, **clips)
    agrees(evaluate(LARGE, "ppo", case["aggregation"], dual_clip=math.inf, **chosen, **clips), case)


# The small fixture, whose construction golden/README.md of the reference writes out.

SMALL_NUMBERS = json.loads((FOLDER / "entropy_small.json").read_text())
SMALL_MASK = np.array(SMALL_NUMBERS["mask"], bool)


def small() -> Fixture:
    b, t, v = np.ogrid[:4, :4, :5]
    z = ((7 * b + 3 * t + 5 * v) % 11) / 2 - 2
    moved = z + 0.15 * (((3 * b + t + 2 * v + 1) % 5) - 2)
    tokens = np.array(SMALL_NUMBERS["tok"], int)[..., None]
    old, new = (
        np.take_along_axis(x - np.log(np.exp(x).sum(-1, keepdims=True)), tokens, -1)[..., 0] for x in (z, moved)
    )
    np.testing.assert_allclose(old, SMALL_NUMBERS["logp_old"], atol=1e-6)
    advantages = np.array([[1.0], [-1.0], [1.0], [-1.0]]) * (0.5 / (math.sqrt(0.5) + 1e-6)) * np.ones((4, 4))
    chosen = [x[SMALL_MASK] for x in (new, old, advantages)]
    return fixture(SMALL_MASK.sum(1).tolist(), *chosen)


SMALL = small()
EPS = {"clip_low": 0.05, "clip_high": 0.07}
DELTA = {"delta_low": 0.05, "delta_high": 0.07, "max_ratio": 3.0}


def agrees_with_small(found: Result, loss: str, grad: str) -> None:
    # Recorded from float32, to six decimals.
    assert found.loss == pytest.approx(SMALL_NUMBERS[loss], abs=1.5e-6)
    np.testing.assert_allclose(found.grad, np.array(SMALL_NUMBERS[grad])[SMALL_MASK], atol=1.5e-6)


@pytest.mark.parametrize(
    ("key", "name", "params"),
    [
        ("vanilla", "ppo", EPS),
        ("gspo", "gspo", EPS),
        ("sapo", "sapo", {"tau_pos": 1.0, "tau_neg": 1.05}),
        ("geo_mean", "gmpo", EPS),
        ("cispo", "cispo", EPS),
        ("dppo_tv", "dppo-tv", DELTA),
        ("dppo_kl", "dppo-kl", DELTA),
        ("CE-GPPO", "ce-gppo", EPS | {"beta1": 0.5, "beta2": 1.0, "dual_clip": 10.0}),
    ],
)
def test_the_small_fixture_gives_the_authors_numbers(key: str, name: str, params: dict[str, Any]) -> None:
    found = evaluate(SMALL, name, **params)
    agrees_with_small(found, f"{key} loss", f"{key} dL/dlogp")
    if key == "CE-GPPO":
        assert found.clipped.mean() == pytest.approx(SMALL_NUMBERS["CE-GPPO clipfrac"], abs=1e-6)
    elif key not in ("geo_mean", "dppo_tv", "dppo_kl"):
        assert found.clipped.mean() == pytest.approx(
            SMALL_NUMBERS[f"{key} dL/dlogp metrics"]["actor/pg_clipfrac"], abs=1e-6
        )


@pytest.mark.parametrize(
    ("mask", "params", "key"),
    [("kl-cov", {"ratio": 0.2}, "kl_cov {}"), ("sent", {"cov_ratio": 0.2}, "SENT v2 {} bool mask")],
)
def test_penalties_of_the_small_fixture(mask: str, params: dict[str, Any], key: str) -> None:
    data = SMALL._replace(inputs=SMALL.inputs | {"entropies": np.array(SMALL_NUMBERS["H_new"])[SMALL_MASK]})
    chosen = chosen_by(mask, data, coef=0.1, **params)
    grad = "dL/dlogp" if mask == "kl-cov" else "grad"
    agrees_with_small(evaluate(data, "reinforce", ratio=True, **chosen), key.format("loss"), key.format(grad))


@pytest.mark.parametrize(
    ("key", "estimator"), [("kl", "k1"), ("abs", "abs"), ("mse", "k2"), ("low_var_kl", "k3"), ("low_var_kl", "k3+")]
)
def test_kl_of_the_small_fixture(key: str, estimator: str) -> None:
    new, old = (torch.from_numpy(SMALL.inputs[name]) for name in ("logprobs", "old_logprobs"))
    expected = np.array(SMALL_NUMBERS[f"KLpen {key}"])[SMALL_MASK]
    np.testing.assert_allclose(kl_penalty(new, old, estimator).numpy(), expected, atol=1.5e-6)


@pytest.mark.parametrize(
    ("reduction", "norm"),
    [
        ("token-mean", None),
        ("token-sum", None),
        ("seq-mean-token-sum", None),
        ("seq-mean-token-sum-norm", 4.0),
        ("seq-mean-token-mean", None),
    ],
)
def test_reductions_of_the_small_fixture(reduction: str, norm: float | None) -> None:
    k = token_coefficients(SMALL.inputs["loss_mask"], SMALL.lengths, reduction, norm)
    assert k @ SMALL.inputs["old_logprobs"] == pytest.approx(SMALL_NUMBERS[f"agg {reduction}"], abs=2e-6)


# Three rows of three, four and two tokens, run through verl 0.9.1 in float64.
DELTAS = [0.1, -0.3, 0.5, -0.4, 0.2, 0.05, -0.1, 0.25, -0.02]
OLD = np.array([-1, -0.5, -0.2, -0.3, -2, -0.7, -1.2, -0.9, -0.1])
VERL = fixture([3, 4, 2], OLD + DELTAS, OLD, np.repeat([1.2, -0.8, -0.4], [3, 4, 2]))
EVEN = {"clip_low": 0.2, "clip_high": 0.2}


@pytest.mark.parametrize(
    ("name", "reduction", "params", "expected"),
    [
        ("ppo", "token-mean", {}, 0.0480568542),
        ("ppo", "token-sum", {}, 0.4325116875),
        ("ppo", "seq-mean-token-sum", {}, 0.1441705625),
        ("ppo", "seq-mean-token-mean", {}, 0.0099838056),
        ("ppo", "seq-mean-token-sum-norm", {}, 0.0360426406),
        ("ppo", "token-mean", {"clip_high": 0.28, "dual_clip": 1.2}, 0.0317532571),
        ("gspo", None, {"clip_low": 0.05, "clip_high": 0.05}, -0.0170835416),
        ("sapo", None, {}, -0.0938383904),
        ("reinforce", None, {}, -0.2431111111),
        ("gmpo", None, EVEN, 0.012937205),
        ("cispo", None, EVEN, -0.2770174255),
        ("dppo-tv", None, {"delta_low": 0.2, "delta_high": 0.2}, -0.1914042131),
        ("dppo-kl", None, {"delta_low": 0.01, "delta_high": 0.01}, -0.1914042131),
    ],
)
def test_losses_of_verl_in_float64(name: str, reduction: str | None, params: dict[str, Any], expected: float) -> None:
    assert evaluate(VERL, name, reduction, **params).loss == pytest.approx(expected, abs=1e-9)


def test_clipped_shares_of_verl_in_float64() -> None:
    assert evaluate(VERL, "ppo").clipped.mean() == pytest.approx(2 / 9)
    assert evaluate(VERL, "ppo", clip_high=0.28, dual_clip=1.2).clipped.mean() == pytest.approx(4 / 9)


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, 0.0544780222), (2e-4, 0.0322557999)])
def test_kl_cov_of_verl_in_float64(ratio: float, expected: float) -> None:
    found = evaluate(VERL, "reinforce", ratio=True, **chosen_by("kl-cov", VERL, ratio=ratio, coef=1.0))
    assert found.loss == pytest.approx(expected, abs=2e-10)


def test_clip_cov_of_verl_in_float64() -> None:
    """One candidate: the last token of the second row."""
    chosen = chosen_by("clip-cov", VERL, ratio=0.5, lower=0.1, upper=0.6)
    assert chosen["weights"].tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    found = evaluate(VERL, "ppo", clip_low=1.0, clip_high=1.0, dual_clip=math.inf, **chosen)
    assert found.loss == pytest.approx(-0.1037297483, abs=2e-10)


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        ("k3", [0.00483742, 0.04985881, 0.10653066], [0.09516258, -0.34985881, 0.39346934]),
        ("k3+", [0.00483742, 0.04985881, 0.10653066], [0.1, -0.3, 0.5]),
        ("k1+", [0.1, -0.3, 0.5], [0.1, -0.3, 0.5]),
        ("abs+", [0.1, 0.3, 0.5], [0.1, -0.3, 0.5]),
        ("k2", [0.005, 0.045, 0.125], [0.1, -0.3, 0.5]),
        ("k2+", [0.005, 0.045, 0.125], [0.1, -0.3, 0.5]),
        ("k1", [0.1, -0.3, 0.5], [1.0, 1.0, 1.0]),
        ("abs", [0.1, 0.3, 0.5], [1.0, -1.0, 1.0]),
    ],
)
def test_kl_values_and_slopes(estimator: str, values: list[float], slopes: list[float]) -> None:
    new = torch.tensor([0.1, -0.3, 0.5], dtype=torch.float64, requires_grad=True)
    penalty = kl_penalty(new, torch.zeros(3, dtype=torch.float64), estimator)
    penalty.sum().backward()
    assert penalty.tolist() == pytest.approx(values, abs=1e-8)
    assert new.grad.tolist() == pytest.approx(slopes, abs=1e-8)


# Two rows of three and two tokens, run through TRL's GRPOTrainer in float32.
TRL = fixture([3, 2], [-1, -0.5, -0.2, -0.3, -2], [-1.2, -0.5, -0.4, -0.2, -1.5], [1.0, 1.0, 1.0, -1.0, -1.0])
HIGHER = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": math.inf}


@pytest.mark.parametrize(
    ("loss_type", "name", "reduction", "params", "expected"),
    [
        ("grpo", "ppo", "seq-mean-token-mean", HIGHER, -0.1475915015),
        ("bnpo, dapo", "ppo", "token-mean", HIGHER, -0.3475936353),
        ("dr_grpo", "ppo", "seq-mean-token-sum-norm", HIGHER | {"norm": 8.0}, -0.108623013),
        ("cispo", "cispo", "token-mean", {"bounds": "trl"}, 0.0962341577),
        ("sapo", "sapo", None, {}, -0.241882503),
        ("luspo", "gspo", "seq-mean-token-sum", {"clip_low": 0.2, "clip_high": 0.28}, -0.9139462114),
        # The two fifths of highest entropy: .9 of the first row and .7 of the second; all tokens in the denominator.
        ("dapo, rho 0.4", "ppo", "token-mean", HIGHER | {"weights": [0.0, 1, 0, 1, 0]}, -0.0190325137),
    ],
)
def test_losses_of_trl(
    loss_type: str, name: str, reduction: str | None, params: dict[str, Any], expected: float
) -> None:
    assert evaluate(TRL, name, reduction, **params).loss == pytest.approx(expected, rel=1e-6)
