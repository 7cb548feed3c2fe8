"""Entropy masks that choose tokens by covariance, entropy and ratio, equal to their authors' code on golden vectors."""

from __future__ import annotations

import inspect
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from entropyctl.errors import UsageError
from entropyctl.masks import archer, clip_b, clip_cov, clip_v, erc, kl_cov, none, quadrant, sent, top_entropy
from entropyctl.masks._blocks import moments
from entropyctl.masks._covariance import covariances
from entropyctl.masks._random import uniform
from entropyctl.masks._ratio import clip_holds, ratios
from entropyctl.masks._select import highest, lowest, quantile, ranked, row_quantiles

from .conftest import ROOT

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
SMALL = json.loads((ROOT / "tests" / "golden" / "entropy_small.json").read_text())


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.array(row) for row in rows])


def keys(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


FIXTURE = {name: flat(PEERS["fixture"][name]) for name in ("logprobs", "new_logprobs")}
COUNT = len(FIXTURE["logprobs"])
GRPO = flat(next(case for case in PEERS["cases"] if case["method"] == "advantage/grpo")["advantages"])


def cases(method: str) -> list[Any]:
    found = [case for case in PEERS["cases"] if case["method"] == method]
    return [pytest.param(case, id=str(case["params"])) for case in found]


def gradient(weights: np.ndarray, kl_coefs: np.ndarray, new: np.ndarray, old: np.ndarray, a: np.ndarray) -> np.ndarray:
    """d loss / d log p of -A r (a clip held nothing) and the penalty |log p - log p_old|, without the 1 / Z."""
    return -weights * a * np.exp(new - old) + kl_coefs * np.sign(new - old)


def loss(weights: np.ndarray, kl_coefs: np.ndarray, new: np.ndarray, old: np.ndarray, a: np.ndarray) -> float:
    return float(np.mean(-weights * a * np.exp(new - old) + kl_coefs * np.abs(new - old)))


# Clip-Cov and KL-Cov: verl 0.9.1.


@pytest.mark.parametrize("case", cases("loss/clip-cov"))
def test_clip_cov_chooses_as_verl_does_where_it_takes_every_candidate(case: dict[str, Any]) -> None:
    params = case["params"]
    names = {"cov_low": "lower", "cov_high": "upper"}
    new, old = FIXTURE["new_logprobs"], FIXTURE["logprobs"]
    flags = {names.get(k, k): v for k, v in params.items()}
    weights = clip_cov(new, old, GRPO, np.ones(COUNT, bool), keys(COUNT), **flags).weights
    assert np.array_equal(weights == 0, flat(case["grad"]) == 0)  # no ratio lies beyond 2 in this fixture
    assert loss(weights, np.zeros(COUNT), new, old, GRPO) == pytest.approx(case["loss"], rel=1e-6)
    assert (weights == 0).mean() == pytest.approx(case["metrics"]["actor/pg_clipfrac"], rel=1e-6)


@pytest.mark.parametrize("case", cases("loss/kl-cov"))
def test_kl_cov_chooses_as_verl_does(case: dict[str, Any]) -> None:
    params = case["params"]
    new, old = FIXTURE["new_logprobs"], FIXTURE["logprobs"]
    coefs = kl_cov(new, GRPO, np.ones(COUNT, bool), keys(COUNT), ratio=params["ratio"], coef=params["kl_coef"]).kl_coefs
    ones = np.ones(COUNT)
    assert loss(ones, coefs, new, old, GRPO) == pytest.approx(case["loss"], rel=1e-6)
    grad = gradient(ones, coefs, new, old, GRPO) / COUNT
    assert np.abs(grad - flat(case["grad"])).max() < 1e-6 * np.abs(grad).max()


# Three responses of 3, 4 and 2 counted tokens; the numbers are verl 0.9.1's in float64.
MASK = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0], bool)
OLD = np.array([-1, -0.5, -0.2, 0, -0.3, -2, -0.7, -1.2, -0.9, -0.1, 0, 0])
DELTA = np.array([0.1, -0.3, 0.5, 0, -0.4, 0.2, 0.05, -0.1, 0.25, -0.02, 0, 0])
ADVANTAGES = np.repeat([1.2, -0.8, -0.4], 4)
COV = [-0.20464198, -0.08019753, 1.28869136, -0.0268642, 0.80424691, -0.06464198, 0.42646914, -0.03041975, -0.2188642]


def test_the_covariance_of_each_token() -> None:
    assert covariances(ADVANTAGES[MASK], (OLD + DELTA)[MASK]) == pytest.approx(COV, rel=1e-6)


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, 0.0544780222), (2e-4, 0.0322557999)])
def test_kl_cov_in_small_numbers(ratio: float, expected: float) -> None:
    found = kl_cov(OLD + DELTA, ADVANTAGES, MASK, keys(12), ratio=ratio).kl_coefs
    chosen = {0.25: [2, 5], 2e-4: [2]}[ratio]  # int(0.25 * 9) = 2 tokens, and at least one
    assert np.flatnonzero(found).tolist() == chosen
    assert loss(np.ones(9), found[MASK], (OLD + DELTA)[MASK], OLD[MASK], ADVANTAGES[MASK]) == pytest.approx(
        expected, rel=1e-6
    )


def test_clip_cov_in_small_numbers() -> None:
    def dropped(**flags: Any) -> list[int]:
        found = clip_cov(OLD + DELTA, OLD, ADVANTAGES, MASK, keys(12), **flags)
        assert found.loss_mask is None and found.kl_coefs is None  # what is dropped stays in the denominator
        return np.flatnonzero(found.weights == 0).tolist()

    assert dropped(ratio=0.5, lower=0.1, upper=0.6) == [7]
    weights = clip_cov(OLD + DELTA, OLD, ADVANTAGES, MASK, keys(12), ratio=0.5, lower=0.1, upper=0.6).weights
    new = OLD + DELTA
    assert loss(weights[MASK], np.zeros(9), new[MASK], OLD[MASK], ADVANTAGES[MASK]) == pytest.approx(
        -0.1037297483, rel=1e-6
    )
    # Three candidates, of which token 2 has A > 0 and r = e^0.5 and token 7 has A < 0 and r = e^-0.1.
    assert dropped(ratio=1.0, lower=0.4, upper=5.0) == [2, 5, 7]
    assert dropped(ratio=1.0, lower=0.4, clip_high=0.6) == [5, 7]
    assert dropped(ratio=1.0, lower=0.4, clip_low=0.09) == [2, 5]
    assert dropped(ratio=1.0, lower=0.4, clip_low=0.09, clip_high=0.6, variant="paper") == [2, 5, 7]
    assert dropped(ratio=0.3, lower=0.4) in ([2, 5], [2, 7], [5, 7])  # int(0.3 * 9) = 2 of them
    assert len(dropped(ratio=0.01, lower=0.4)) == 1  # at least one
    assert dropped(ratio=0.01, lower=0.4, variant="paper") == []


def test_the_interval_of_clip_cov_is_open_in_the_code_and_closed_in_the_paper() -> None:
    a, logprobs = np.array([1.0, -1.0]), np.array([-1.0, -3.0])  # both covariances are 1
    for bounds in ({"lower": 1.0, "upper": 5.0}, {"lower": 0.5, "upper": 1.0}):
        for variant, kept in (("verl", [1, 1]), ("paper", [0, 0])):
            found = clip_cov(logprobs, logprobs, a, np.ones(2, bool), keys(2), ratio=1.0, variant=variant, **bounds)
            assert found.weights.tolist() == kept, (variant, bounds)


def test_clip_cov_draws_evenly_and_the_same_in_any_order() -> None:
    rng = np.random.default_rng(0)
    logprobs, a, mask, key = rng.normal(size=60), rng.normal(size=60), rng.random(60) < 0.9, keys(60) * 977
    flags = {"ratio": 0.1, "lower": 0.05, "upper": 9.0}
    counts = np.zeros(60)
    for seed in range(400):
        counts += clip_cov(logprobs, logprobs, a, mask, key, seed=seed, **flags).weights == 0
    cov = np.full(60, -9.0)
    cov[mask] = covariances(a[mask], logprobs[mask])
    candidates = (cov > 0.05) & (cov < 9)
    assert not counts[~candidates].any()
    expected = 400 * int(0.1 * mask.sum()) / candidates.sum()
    assert np.abs(counts[candidates] - expected).max() < 5 * math.sqrt(expected)
    order = rng.permutation(60)
    first = clip_cov(logprobs, logprobs, a, mask, key, **flags).weights
    moved = clip_cov(logprobs[order], logprobs[order], a[order], mask[order], key[order], **flags).weights
    assert np.array_equal(first[order], moved)


def test_kl_cov_decides_ties_by_identity() -> None:
    a, logprobs = np.array([1.0, 1, -1, -1, 0]), np.array([-1.0, -1, -3, -3, -2])
    key = np.array([40, 30, 20, 10, 0], np.uint64)
    found = kl_cov(logprobs, a, np.ones(5, bool), key, ratio=0.6, coef=0.5).kl_coefs
    assert found.tolist() == [0, 0.5, 0.5, 0.5, 0]  # four alike, and the fifth is below them


# The random draw.


def test_the_draw_is_splitmix64_of_key_and_seed() -> None:
    """Against plain integers, which cannot overflow."""

    def mixed(state: int) -> int:
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert mixed(0) == 0xE220A8397B1DCDAF  # the published first output of seed 0
    for seed in (0, 1, 2**64 - 1):
        for key in (0, 1, 12345, 2**64 - 1):
            expected = Fraction(mixed(key ^ mixed(seed)) >> 11, 2**53)
            assert uniform(np.array([key], np.uint64), seed)[0] == float(expected) < 1


def test_the_draw_is_uniform_also_on_keys_in_steps_of_the_generator() -> None:
    steps = keys(20000) * np.uint64(0x9E3779B97F4A7C15)
    for seed in range(3):
        found = np.histogram(uniform(steps, seed), bins=20, range=(0, 1))[0]
        assert ((found - 1000) ** 2 / 1000).sum() < 60  # chi square of 19 degrees of freedom
    assert np.corrcoef(uniform(steps[1:], 0), uniform(steps[:-1], 1))[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_is_a_whole_number_of_64_bits(seed: int) -> None:
    with pytest.raises(UsageError, match=r"^--seed .*: must be a whole number, 0 to 2\^64 - 1"):
        uniform(keys(3), seed)


# Choosing by rank.

SOME = arrays.arrays(np.float64, st.integers(1, 30), elements=st.integers(-3, 3).map(float))


@given(SOME, st.integers(0, 35), st.randoms())
def test_the_lowest_are_a_stable_sort_by_value_and_key(values: np.ndarray, count: int, random: Any) -> None:
    key = keys(len(values))
    random.shuffle(key)
    among = np.array([random.random() < 0.7 for _ in values])
    for choose, order in ((lowest, np.lexsort((key, values))), (highest, np.lexsort((key, -values)))):
        assert set(np.flatnonzero(choose(values, key, count))) == set(order[:count])
        assert set(np.flatnonzero(choose(values, key, count, among))) == set(order[among[order]][:count])


@given(SOME, st.integers(0, 10))
def test_the_quantile_is_numpys(values: np.ndarray, tenths: int) -> None:
    q = tenths / 10
    assert quantile(values, q) == pytest.approx(np.quantile(values, q), abs=1e-9)
    rows = np.arange(len(values)) % 3
    expected = [np.quantile(values[rows == row], q) for row in rows]
    assert row_quantiles(values, rows, q) == pytest.approx(np.array(expected), abs=1e-9)


@pytest.mark.parametrize("kind", ["random", "ties", "ascending", "every 64th is an outlier"])
@pytest.mark.parametrize("number_type", [np.float32, np.float64])
def test_ranks_of_a_long_array_are_those_of_its_sort(kind: str, number_type: type) -> None:
    """A sample guesses where a rank lies; a guess that misleads must not show."""
    values = np.random.default_rng(5).exponential(0.4, 100_000).astype(number_type)
    if kind == "ties":
        values[::2] = 0
    elif kind == "ascending":
        values.sort()
    elif kind == "every 64th is an outlier":
        values[::64] = np.where(np.arange(len(values[::64])) % 2, 1e9, -1e9)
    expected = np.sort(values)
    for rank in (0, 1, 100, 20_000, 49_999, 50_000, 99_998, 99_999):
        assert ranked(values, rank) == expected[rank]
    assert quantile(values, 0.8) == pytest.approx(np.quantile(values.astype(float), 0.8), abs=1e-12)
    key = np.random.default_rng(6).integers(0, 2**63, len(values)).astype(np.uint64)
    among = np.arange(len(values)) % 3 > 0
    for choose, order in ((lowest, np.lexsort((key, values))), (highest, np.lexsort((key, -values)))):
        assert np.array_equal(np.flatnonzero(choose(values, key, 20_000)), np.sort(order[:20_000]))
        found = np.flatnonzero(choose(values, key, 20_000, among))
        assert np.array_equal(found, np.sort(order[among[order]][:20_000]))


def test_a_quantile_that_is_one_of_the_values_is_that_value() -> None:
    values = np.array([0.01, 0.02, 0.03, 0.04, 9, 10, 11, 12, 13, 14, 15])
    assert quantile(values, 1 - 0.7) == 0.04  # (1 - 0.7) * 10 is just above 3
    assert quantile(values, 1 - 0.9) == 0.02  # and this just below 1
    assert row_quantiles(values, np.zeros(11, int), 1 - 0.7).tolist() == [0.04] * 11


# 80/20.

ENTROPIES = np.array([0.1, 0.5, 0.9, 9, 0.2, 0.3, 0.4, 0.9, 0.7, 0, 9, 9])


@pytest.mark.parametrize("variant", ["authors", "trl"])
def test_top_entropy_keeps_what_both_codes_keep(variant: str) -> None:
    found = top_entropy(ENTROPIES, MASK, keys(12), variant=variant)
    if variant == "authors":
        assert found.weights is None and np.flatnonzero(found.loss_mask).tolist() == [2, 7]
    else:  # the threshold is 0.78
        assert found.loss_mask is None and np.flatnonzero(found.weights[MASK]).tolist() == [2, 6]


def test_top_entropy_equals_trls_loss() -> None:
    """TRL's loss of two responses, 0.2/0.28, rho 0.4, divided by all tokens."""
    new, old = np.array([-1, -0.5, -0.2, -0.3, -2]), np.array([-1.2, -0.5, -0.4, -0.2, -1.5])
    a = np.array([1.0, 1, 1, -1, -1])
    weights = top_entropy(np.array([0.1, 0.9, 0.3, 0.7, 0.2]), np.ones(5, bool), keys(5), fraction=0.4, variant="trl")
    ratio = np.exp(new - old)
    terms = np.maximum(-a * ratio, -a * np.clip(ratio, 0.8, 1.28))
    assert (terms * weights.weights).sum() / 5 == pytest.approx(-0.0190325137, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "fraction", "kept"), [(9, 0.2, 2), (10, 0.2, 2), (11, 0.2, 3), (4, 0.0, 1), (4, 1.0, 4), (1, 0.2, 1)]
)
def test_the_authors_round_up_and_keep_one(count: int, fraction: float, kept: int) -> None:
    found = top_entropy(np.arange(count) * 1.0, np.ones(count, bool), keys(count), fraction=fraction).loss_mask
    assert np.flatnonzero(found).tolist() == list(range(count - kept, count))


def test_ties_of_top_entropy() -> None:
    alike, mask = np.full(10, 0.5), np.arange(10) < 8
    key = keys(10)[::-1].copy()
    assert np.flatnonzero(top_entropy(alike, mask, key).loss_mask).tolist() == [6, 7]  # the smallest keys
    assert top_entropy(alike, mask, key, variant="trl").weights.all()  # all of them
    least = np.arange(10.0)
    assert np.flatnonzero(top_entropy(least, mask, key, variant="trl", fraction=0.0).weights[mask]).tolist() == [7]


@given(SOME, st.integers(0, 20))
def test_both_variants_keep_the_highest_entropies(entropies: np.ndarray, twentieths: int) -> None:
    mask, fraction = np.ones(len(entropies), bool), twentieths / 20
    authors = top_entropy(entropies, mask, keys(len(entropies)), fraction=fraction).loss_mask
    trl = top_entropy(entropies, mask, keys(len(entropies)), fraction=fraction, variant="trl").weights == 1
    for kept in (authors, trl):
        assert kept.any()
        assert entropies[kept].min() >= (entropies[~kept].max() if (~kept).any() else -math.inf)
    assert authors.sum() == max(1, math.ceil(round(fraction * len(entropies), 9)))


# SENT.


def test_sent_equals_its_authors_code_with_a_boolean_mask() -> None:
    mask = flat(SMALL["mask"]) == 1
    new, old, a, h = (flat(SMALL[name]) for name in ("logp_new", "logp_old", "A_grpo", "H_new"))
    coefs = sent(new, h, a, mask, keys(16), cov_ratio=0.2).kl_coefs
    # int(0.8 * 13) = 10 tokens of low entropy, of which the int(0.2 * 10) = 2 highest and lowest covariances
    assert sorted(coefs[coefs > 0].round(6).tolist()) == pytest.approx([0.05, 0.05, 0.2, 0.2])
    ones = np.ones(16)
    found = loss(ones[mask], coefs[mask], new[mask], old[mask], a[mask])
    assert found == pytest.approx(SMALL["SENT v2 loss bool mask"], abs=1e-6)
    assert abs(found - SMALL["SENT v2 loss int mask (as shipped)"]) > 5e-5
    grad = np.where(mask, gradient(ones, coefs, new, old, a), 0.0) / mask.sum()
    assert np.abs(grad - flat(SMALL["SENT v2 grad bool mask"])).max() < 2e-6


def test_sent_in_small_numbers() -> None:
    entropies = np.array([0.1, 0.2, 0.3, 0.4, 5.0, 9.0])
    a, logprobs = np.array([1.0, 1, -1, -1, 1, 1]), np.array([-1.0, -2, -3, -4, -1, -1])
    mask = np.arange(6) < 5
    # T_low is 0 to 3: mean A 0, mean log p -2.5, covariances 1.5, 0.5, 0.5, 1.5

    def coefs(**flags: Any) -> list[float]:
        return sent(logprobs, entropies, a, mask, keys(6), **flags).kl_coefs.tolist()

    assert coefs() == pytest.approx([0.2, 0.05, 0, 0, 0, 0])
    assert coefs(cov_ratio=0.5, coef=1.0) == pytest.approx([2, 0.5, 0.5, 2, 0, 0])
    assert coefs(cov_ratio=1.0) == pytest.approx([0.05] * 4 + [0, 0])  # the lowest go last
    assert coefs(low_fraction=0.2) == pytest.approx([0.05, 0, 0, 0, 0, 0])
    assert coefs(variant="paper") == pytest.approx([0.2, 0.05, 0.05, 0.05, 0, 0])
    paper = {"variant": "paper", "beta_low": 0.3, "beta_high": 0.7}
    assert coefs(**paper, tau_h=0.4, tau_cov=0.6) == pytest.approx([0.7, 0.3, 0.7, 0, 0, 0])  # 1 and lp -2: 2/3, 0, 4/3
    assert coefs(**paper, tau_cov=9.0) == pytest.approx([0.3] * 4 + [0, 0])
    assert coefs(**paper, tau_h=0.0) == [0] * 6
    with pytest.raises(UsageError, match=r"^--tau-h 0.4: must go with --variant paper"):
        coefs(tau_h=0.4)


# ERC.


def test_erc_keeps_what_lies_strictly_inside_the_band() -> None:
    old = np.array([1.0, 1, 1, 1, 1, 0, 0, 1])
    new = np.array([1.0, 0.9, 1.1, 0.96, 1.04, 0, 1e-6, 9])
    mask = np.arange(8) < 7
    found = erc(new, old, mask)
    assert found.loss_mask is None  # what is dropped stays in the denominator
    assert found.weights.tolist() == [1, 1, 1, 1, 1, 1, 0, 1]  # 0.8 to 1.2
    assert erc(new, old, mask, variant="paper").weights.tolist() == [1, 0, 0, 1, 1, 1, 0, 1]  # 0.95 to 1.05
    assert erc(new, old, mask, variant="paper", low=0.8).weights.tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
    one = erc(np.ones(2), np.ones(2), np.ones(2, bool), low=1.0, high=2.0).weights
    assert one.tolist() == [0, 0]  # the bound itself is outside
    with pytest.raises(UsageError, match=r"^--low 2: must not lie above --high 1.2"):
        erc(new, old, mask, low=2.0)


# Archer.


def test_archer_in_small_numbers() -> None:
    entropies = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2.0, 3.0, 9.0])
    rows = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    mask = np.arange(9) < 8
    a = np.array([1.0, -1, 1, -1, 0, 1, -1, -1, 1])
    ratio = np.array([1.3, 0.7, 0.7, 1.3, 9.0, 1.4, 0.6, 0.45, 9.0])

    def compiled(**flags: Any) -> tuple[list[float], list[float]]:
        found = archer(np.log(ratio), np.zeros(9), entropies, a, mask, rows, **flags)
        assert found.loss_mask is None
        return found.weights.tolist(), found.kl_coefs.tolist()

    # The 0.8-quantile of the first response is 0.5, that of the second 2.8: tokens 0 to 4 and 6 are low.
    weights, coefs = compiled()
    assert weights == [0, 0, 1, 1, 1, 1, 0, 0, 1]
    assert coefs == pytest.approx([0.001 * 8 / 6] * 5 + [0, 0.001 * 8 / 6, 0, 0])
    # The paper counts the token at the quantile as high, and does not divide by the low ones.
    weights, coefs = compiled(variant="paper", coef=0.5)
    assert weights == [0, 0, 1, 1, 1, 1, 0, 0, 1]
    assert coefs == [0.5, 0.5, 0.5, 0.5, 0, 0, 0.5, 0, 0]
    assert compiled(clip_high_entropy=0.6)[0] == [0, 0, 1, 1, 1, 1, 0, 1, 1]
    assert compiled(clip_low_entropy=0.35)[0] == [1, 1, 1, 1, 1, 1, 0, 0, 1]
    assert compiled(quantile=1.0)[0] == [0, 0, 1, 1, 1, 0, 0, 0, 1]


def test_archers_penalty_is_a_mean_over_low_entropy_tokens() -> None:
    rng = np.random.default_rng(3)
    entropies, kl, rows = rng.random(50), rng.random(50), np.arange(50) // 10
    found = archer(kl, kl, entropies, kl, np.ones(50, bool), rows, coef=0.3).kl_coefs
    low = entropies <= np.repeat([np.quantile(entropies[rows == row], 0.8) for row in range(5)], 10)
    assert (found * kl).mean() == pytest.approx(0.3 * kl[low].mean(), rel=1e-6)


@given(
    st.lists(
        st.tuples(st.integers(-3000, 3000).map(lambda n: n / 1000), st.sampled_from([-1.0, 0.0, 1.0])),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([0.0, 0.2, 0.9, 1.0, 3.0]),
    st.sampled_from([0.0, 0.28, 1.0, 4.0, 1e9]),
)
def test_a_clip_holds_where_ppos_gradient_is_zero(tokens: list[tuple[float, float]], low: float, high: float) -> None:
    delta, a = (np.array(column) for column in zip(*tokens, strict=True))
    held = clip_holds(delta, np.zeros(len(delta)), a, low, high)
    ratio = np.exp(delta)
    assert np.array_equal(held, -a * np.clip(ratio, 1 - low, 1 + high) > -a * ratio)


def test_where_both_policies_are_one_column_every_ratio_is_1() -> None:
    logprobs, a = np.array([-0.5, -3.0, 0.0], np.float32), np.array([1.0, -1.0, 0.0])
    for low in (0.0, 0.2):
        same, equal = (clip_holds(logprobs, old, a, low, low) for old in (logprobs[:], logprobs.copy()))
        assert same.tolist() == equal.tolist() == [False] * 3
    assert ratios(logprobs, logprobs[:]).tolist() == ratios(logprobs, logprobs.copy()).tolist() == [1.0] * 3
    assert ratios(logprobs, logprobs[::-1]).tolist() == pytest.approx(np.exp([-0.5, 0.0, 0.5]))


def test_a_ratio_that_overflows_is_held() -> None:
    assert clip_holds(np.array([5000.0]), np.array([-5000.0]), np.ones(1), 0.2, 0.2).all()


# Moments.


@pytest.mark.parametrize("number_type", [np.float32, np.float64])
@pytest.mark.parametrize("centre", [0.0, 1e4])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_moments_of_many_blocks_are_those_of_the_whole(number_type: type, centre: float, share: float) -> None:
    rng = np.random.default_rng(3)
    values = (centre + rng.normal(size=100_000)).astype(number_type)
    valid = rng.random(100_000) < share
    valid[:50_000] &= share == 1.0  # whole blocks without any
    count, mean, std = moments(lambda at: values[at], valid)
    exact = values[valid].astype(np.float64)
    assert count == len(exact)
    assert mean == pytest.approx(exact.mean() if count else 0.0, rel=1e-12)
    assert std == pytest.approx(exact.std() if count else 0.0, rel=1e-12)


# Clip_B and Clip_V on the small fixture, where they can be checked by hand.


def small(name: str) -> np.ndarray:
    return flat(SMALL[name]).astype(np.float32)


SMALL_MASK = flat(SMALL["mask"]) == 1


@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0])
def test_clip_b_equals_its_authors_code_on_the_small_fixture(mu: float) -> None:
    found = clip_b(small("S*"), small("A_grpo"), SMALL_MASK, mu=mu).loss_mask
    assert np.array_equal(found, flat(SMALL[f"ClipB mu={mu} mask"]) == 1)


@pytest.mark.parametrize(("mu", "max_frac"), [(0.25, 1.0), (0.25, 0.15), (0.5, 1.0), (0.5, 0.0001), (1.0, 1.0)])
def test_clip_v_equals_its_authors_code_on_the_small_fixture(mu: float, max_frac: float) -> None:
    found = clip_v(small("S*"), small("N=E_p[S]"), small("A_grpo"), SMALL_MASK, mu=mu, max_frac=max_frac).loss_mask
    assert np.array_equal(found, flat(SMALL[f"ClipV mu={mu} mf={max_frac} mask"]) == 1)


def test_a_cap_on_clip_b_keeps_the_furthest() -> None:
    s_star = np.array([0.0] * 8 + [-2.0, -3.0])
    a, mask = -np.ones(10), np.ones(10, bool)
    assert np.flatnonzero(~clip_b(s_star, a, mask, mu=1.0).loss_mask).tolist() == [8, 9]
    assert np.flatnonzero(~clip_b(s_star, a, mask, mu=1.0, max_frac=0.1).loss_mask).tolist() == [9]
    assert np.flatnonzero(~clip_b(s_star, a, mask, mu=1.0, max_frac=0.0).loss_mask).tolist() == [9]  # at least one
    with pytest.raises(UsageError, match=r"^--max-frac 1.5: must lie in \[0, 1\]"):
        clip_b(s_star, a, mask, max_frac=1.5)


REFERENCE = {"low": (True, False), "high": (False, True), "both": (True, True)}


@pytest.mark.parametrize("sides", REFERENCE)
@pytest.mark.parametrize("apply_to", ["negative", "positive", "both"])
@pytest.mark.parametrize("method", ["clip-b", "clip-v"])
def test_the_clips_on_either_side_and_sign_against_the_formula(method: str, apply_to: Any, sides: Any) -> None:
    rng = np.random.default_rng(5)
    s_star, expected = rng.normal(size=200), rng.random(200) * 0.1
    a, mask = rng.choice([-1.0, 0.0, 2.0], 200), rng.random(200) < 0.8
    centred = s_star - (s_star[mask].mean() if method == "clip-b" else expected)
    sigma = centred[mask].std()
    low, high = REFERENCE[sides]
    outside = (low & (centred < -0.7 * sigma)) | (high & (centred > 1.1 * sigma))
    # Clip_V tests tokens with A = 0 with either sign, Clip_B with neither.
    signs = {"negative": a < 0, "positive": a > 0, "both": np.ones(200, bool)}[apply_to]
    signs = signs | ((a == 0) & (method == "clip-v"))
    flags: dict[str, Any] = {"mu": 0.7, "mu_high": 1.1, "sides": sides, "apply_to": apply_to}
    for variant in ("paper", "trinity"):
        if method == "clip-b":
            found = clip_b(s_star, a, mask, variant=variant, **flags)
        else:
            found = clip_v(s_star, expected, a, mask, variant=variant, max_frac=1.0, **flags)
        kept = found.weights == 1 if variant == "paper" else found.loss_mask
        assert np.array_equal(kept[mask], ~(outside & signs & mask)[mask])


# What all of them have.

EVERY = [archer, clip_b, clip_cov, clip_v, erc, kl_cov, none, quadrant, sent, top_entropy]
BAD = [
    (clip_cov, {"ratio": 0.0}, r"--ratio 0: must lie above 0"),
    (clip_cov, {"ratio": 1.5}, r"--ratio 1.5: must lie above 0, up to 1"),
    (clip_cov, {"lower": 6.0}, r"--lower 6: must not lie above --upper 5"),
    (clip_cov, {"upper": math.nan}, r"--upper nan: must be a finite number"),
    (clip_cov, {"clip_low": -0.1}, r"--clip-low -0.1: must be a finite number, 0 or above"),
    (clip_cov, {"clip_high": math.inf}, r"--clip-high inf: must be a finite number, 0 or above"),
    (clip_cov, {"seed": -3}, r"--seed -3: must be a whole number"),
    (kl_cov, {"ratio": 1.5}, r"--ratio 1.5: must lie in \[0, 1\]"),
    (kl_cov, {"coef": -1.0}, r"--coef -1: must be a finite number, 0 or above"),
    (top_entropy, {"fraction": -0.1}, r"--fraction -0.1: must lie in \[0, 1\]"),
    (sent, {"low_fraction": 1.1}, r"--low-fraction 1.1: must lie in \[0, 1\]"),
    (sent, {"cov_ratio": math.nan}, r"--cov-ratio nan: must lie in \[0, 1\]"),
    (sent, {"coef": -1.0}, r"--coef -1: must be a finite number, 0 or above"),
    (sent, {"tau_h": -1.0, "variant": "paper"}, r"--tau-h -1: must be a finite number, 0 or above"),
    (sent, {"tau_cov": math.inf, "variant": "paper"}, r"--tau-cov inf: must be a finite number"),
    (sent, {"beta_low": -1.0, "variant": "paper"}, r"--beta-low -1: must be a finite number, 0 or above"),
    (sent, {"beta_high": 0.1}, r"--beta-high 0.1: must go with --variant paper"),
    (erc, {"low": -1.0}, r"--low -1: must be a finite number, 0 or above"),
    (erc, {"high": math.nan}, r"--high nan: must be a finite number, 0 or above"),
    (archer, {"quantile": 1.1}, r"--quantile 1.1: must lie in \[0, 1\]"),
    (archer, {"clip_low_entropy": -1.0}, r"--clip-low-entropy -1: must be a finite number, 0 or above"),
    (archer, {"clip_high_entropy": math.inf}, r"--clip-high-entropy inf: must be a finite number, 0 or above"),
    (archer, {"coef": math.nan}, r"--coef nan: must be a finite number, 0 or above"),
]


def arguments(function: Any, count: int) -> list[np.ndarray]:
    special = {"loss_mask": np.ones(count, bool), "token_key": keys(count), "row_of_token": np.zeros(count, int)}
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return [special.get(name, np.linspace(-1, 1, count)) for name in names]


@pytest.mark.parametrize(("function", "flags", "words"), BAD)
def test_a_bad_number_is_named(function: Any, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^{words}"):
        function(*arguments(function, 4), **flags)


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
def test_a_number_outside_the_loss_mask_may_be_anything(function: Any) -> None:
    """Even not a number: no warning, and the same result."""
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    plain, odd = [], []
    mask = np.arange(40) % 4 != 1
    for name, values in zip(names, arguments(function, 40), strict=True):
        values = mask if name == "loss_mask" else values
        plain.append(values)
        odd.append(np.where(mask, values, np.nan) if values.dtype == np.float64 else values)
    for a, b in zip(function(*plain), function(*odd), strict=True):
        assert (a is None) == (b is None)
        assert a is None or (np.isfinite(b).all() and np.array_equal(np.asarray(a)[mask], np.asarray(b)[mask]))
