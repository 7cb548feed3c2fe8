"""Entropy-control masks: equal to their authors' code, one contract for all of them, and how they compose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.masks import Compiled, MaskSummary, apply_mask, clip_b, clip_v, none, quadrant
from entropyctl.table import read
from entropyctl.table.columns import list_column

from .conftest import ROOT, Cli, write_scored

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
FIXTURE = PEERS["fixture"]
LENGTHS = np.array([len(row) for row in FIXTURE["tokens"]])


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.array(row) for row in rows])


def fixture_table() -> pa.Table:
    """The peers' fixture as a step of a scored table."""
    groups = FIXTURE["group"]
    samples = [groups[:i].count(group) for i, group in enumerate(groups)]
    rows = {
        "step": pa.array([1] * len(LENGTHS), pa.int64()),
        "prompt_id": FIXTURE["group"],
        "sample": pa.array(samples, pa.int32()),
        "tokens": list_column(flat(FIXTURE["tokens"]), LENGTHS, pa.int32()),
        "loss_mask": list_column(np.ones(LENGTHS.sum(), bool), LENGTHS, pa.bool_()),
        "reward": pa.array(FIXTURE["reward"], pa.float32()),
        "outcome": ["correct" if r > 0.5 else "wrong" for r in FIXTURE["reward"]],
    }
    for name in ("logprobs", "entropies", "s_star", "expected_s", "sum_p2"):
        rows[name] = list_column(flat(FIXTURE[name]), LENGTHS, pa.float32())
    return pa.table(rows)


GRPO = flat(next(case for case in PEERS["cases"] if case["method"] == "advantage/grpo")["advantages"])
CASES = [case for case in PEERS["cases"] if case["method"] in ("mask/clip-b", "mask/clip-v")]
CASE_IDS = [f"{case['method']} {case['params']}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_the_clips_decide_as_their_authors_code_does(case: dict[str, Any]) -> None:
    valid = np.ones(LENGTHS.sum(), bool)
    s_star, expected_s = (flat(FIXTURE[name]).astype(np.float32) for name in ("s_star", "expected_s"))
    if case["method"] == "mask/clip-b":
        compiled = clip_b(s_star, GRPO, valid, **case["params"])
    else:
        compiled = clip_v(s_star, expected_s, GRPO, valid, **case["params"])
    assert compiled.weights is None  # the authors shrink the denominator
    assert np.array_equal(compiled.loss_mask, flat(case["weights"]) == 1)


@pytest.fixture(scope="module")
def advantaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("peers")
    write_scored(directory / "scored.parquet", fixture_table())
    return directory


def test_the_commands_give_the_peers_numbers(cli: Cli, advantaged: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", cwd=advantaged).code == 0
    with read([str(advantaged / "adv.parquet")]) as source:
        found = flat(next(iter(source)).rows["advantages"].to_pylist())
    assert np.abs(found - GRPO).max() < 1e-6
    ran = cli("advantage", "grpo", "--no-std", "scored.parquet", "-o", "dr.parquet", cwd=advantaged)
    dr_grpo = next(case for case in PEERS["cases"] if case["method"] == "advantage/dr-grpo")
    with read([str(advantaged / "dr.parquet")]) as source:
        found = flat(next(iter(source)).rows["advantages"].to_pylist())
    assert np.abs(found - flat(dr_grpo["advantages"])).max() < 1e-6
    chosen = [CASES[0], CASES[1], *(case for case in CASES if case["params"].get("max_frac") in (0.05, 0.0001))]
    for case in chosen:
        flags = [word for key, value in case["params"].items() for word in (f"--{key.replace('_', '-')}", value)]
        name = case["method"].removeprefix("mask/")
        ran = cli("mask", name, "adv.parquet", *map(str, flags), "-o", "out.parquet", "--json", cwd=advantaged)
        assert ran.code == 0, ran
        with read([str(advantaged / "out.parquet")]) as source:
            mask = flat(next(iter(source)).rows["loss_mask"].to_pylist()).astype(bool)
        assert np.array_equal(mask, flat(case["weights"]) == 1), case["params"]
        assert json.loads(ran.text)["masked_fraction"] == pytest.approx((~mask).mean())


# What each does, in small numbers.


def test_clip_b_in_small_numbers() -> None:
    s_star = np.array([0.0, 0.0, 0.0, -1.0, -1.0, 1.0, 9.0])
    advantages = np.array([1.0, -1.0, 0.0, -1.0, 1.0, -1.0, -1.0])
    valid = np.array([True] * 6 + [False])  # mean -1/6, deviation 0.687 over the first six
    assert clip_b(s_star, advantages, valid, mu=1.0).loss_mask.tolist() == [True, True, True, False, True, True, False]
    paper = clip_b(s_star, advantages, valid, mu=1.0, variant="paper")
    assert paper.loss_mask is None
    assert paper.weights.tolist() == [1, 1, 1, 0, 0, 0, 1]
    high = clip_b(s_star, advantages, valid, mu=1.0, mu_high=2.0, variant="paper")
    assert high.weights.tolist() == [1, 1, 1, 0, 0, 1, 1]


def test_a_token_on_the_boundary_is_kept() -> None:
    valid = np.ones(4, bool)
    assert clip_b(np.array([-1.0, 1, -1, 1]), -np.ones(4), valid, mu=1.0).loss_mask.all()
    assert not clip_b(np.array([-1.0, 1, -1, 1]), -np.ones(4), valid, mu=0.999).loss_mask.all()


def test_clip_v_is_not_centred_again_and_tests_zero_advantages() -> None:
    s_star, expected = np.full(6, 0.1), np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.6])
    valid = np.ones(6, bool)
    advantages = np.array([-1.0, 1.0, 0.0, -1.0, 0.0, -1.0])
    mask = clip_v(s_star, expected, advantages, valid, mu=1.0, max_frac=1.0).loss_mask
    assert mask.tolist() == [True, True, True, True, False, False]
    assert clip_v(s_star, expected, np.ones(6), valid, mu=1.0, max_frac=1.0).loss_mask.all()  # A > 0 is spared


def test_the_cap_keeps_the_worst_and_spares_no_zero_advantage() -> None:
    centred = np.array([0.0] * 90 + [-1.0, -1.1, -1.2, -1.3, -1.4, -1.5, -1.6, -1.7, -1.8, -1.9])
    advantages = np.array([-1.0] * 90 + [0.0, 0.0] + [-1.0] * 8)
    mask = clip_v(centred, np.zeros(100), advantages, np.ones(100, bool), mu=1.0, max_frac=0.03).loss_mask
    assert np.flatnonzero(~mask).tolist() == [90, 91, 97, 98, 99]
    mask = clip_v(centred, np.zeros(100), advantages, np.ones(100, bool), mu=1.0, max_frac=1e-4).loss_mask
    assert np.flatnonzero(~mask).tolist() == [90, 91, 99]  # at least one


def test_quadrants() -> None:
    s_star, expected = np.array([2.0, 0.5, 2.0, 0.5, 1.0, 2.0]), np.ones(6)
    advantages = np.array([1.0, 1.0, -1.0, -1.0, 1.0, 0.0])
    valid = np.ones(6, bool)

    def kept(**params: Any) -> list[float]:
        return quadrant(s_star, expected, advantages, valid, **params).weights.tolist()

    assert kept() == [0, 1, 1, 0, 1, 1]  # the two that raise the entropy, and tokens of no quadrant
    assert kept(keep="pos-high") == [1, 0, 0, 0, 1, 1]
    assert kept(keep="neg-low , pos-low") == [0, 1, 0, 1, 1, 1]
    assert kept(keep="") == [0, 0, 0, 0, 1, 1]
    assert kept(keep="pos-low", score="s-star") == [0, 0, 0, 0, 0, 1]  # S* itself is positive everywhere
    trinity = quadrant(s_star, expected, advantages, valid, variant="trinity")
    assert trinity.weights is None and trinity.loss_mask.tolist() == [False, True, True, False, True, True]
    with pytest.raises(UsageError, match="there is no quadrant 'up'; known: pos-high, pos-low, neg-high, neg-low"):
        kept(keep="up")


# On the rows of a table.


def small(**extra: list[list[Any]]) -> pa.Table:
    """Three rows of 2, 0 and 3 tokens."""
    rows = {
        "tokens": [[1, 2], [], [3, 4, 5]],
        "loss_mask": [[True, True], [], [True, False, True]],
        "s_star": [[0.5, -0.5], [], [0.25, 0.0, -0.25]],
        "expected_s": [[0.0, 0.0], [], [0.0, 0.0, 0.0]],
        "advantages": [[1.0, 1.0], [], [-1.0, 0.0, -1.0]],
    } | extra
    return pa.table(
        {k: pa.array(v, pa.list_(pa.bool_() if k == "loss_mask" else pa.float32())) for k, v in rows.items()}
    )


def fixed(weights: list[float] | None = None, kl: list[float] | None = None, keep: list[bool] | None = None) -> Any:
    def method(loss_mask: np.ndarray) -> Compiled:
        return Compiled(*(None if part is None else np.array(part) for part in (weights, kl, keep)))

    return method


def test_masks_compose() -> None:
    rows = apply_mask(small(), fixed(weights=[0.5, 1, 2, 1, 1], kl=[0.1, 0, 0, 0, 0]), {})
    assert rows["loss_mask"].to_pylist() == [[True, True], [], [True, False, True]]
    rows = apply_mask(rows, fixed(weights=[0.5, 0, 1, 1, 3], keep=[True, True, True, True, False]), {})
    rows = apply_mask(rows, fixed(kl=[0.2, 0.3, 0, 0, 0], keep=[False, True, True, True, True]), {})
    assert rows["weights"].to_pylist() == [[0.25, 0.0], [], [2.0, 1.0, 3.0]]
    assert rows["kl_coefs"].to_pylist() == [pytest.approx([0.3, 0.3]), [], [0.0, 0.0, 0.0]]
    assert rows["loss_mask"].to_pylist() == [[False, True], [], [True, False, False]]


def test_a_mask_never_brings_a_token_back() -> None:
    rows = apply_mask(small(), fixed(keep=[True] * 5), {})
    assert rows["loss_mask"].to_pylist()[2] == [True, False, True]


def test_what_the_summary_says() -> None:
    summary = MaskSummary()
    rows = apply_mask(small(), fixed(weights=[0, 1, 1, 1, 0.5]), {}, summary)
    apply_mask(
        rows, fixed(weights=[1, 1, 1, 1, 2], keep=[False, True, False, True, True]), {}, (second := MaskSummary())
    )
    assert summary.as_dict() == {
        "tokens": 4,
        "masked_fraction": 0.25,
        "masked_fraction_positive": 0.5,
        "masked_fraction_negative": 0.0,
        # -A (S* - E[S]): -0.5, 0.5, 0.25 and -0.25 of the tokens that count
        "predicted_change_before": 0.0,
        "predicted_change_after": pytest.approx((0.5 + 0.25 - 0.125) / 4),
    }
    # The second starts from what the first left: three tokens that pull, of which it removes one, and their weights.
    assert second.as_dict() == {
        "tokens": 4,
        "masked_fraction": pytest.approx(1 / 3),
        "masked_fraction_positive": 0.0,
        "masked_fraction_negative": 0.5,
        "predicted_change_before": pytest.approx((0.5 + 0.25 - 0.125) / 4),
        "predicted_change_after": pytest.approx((0.5 - 0.25) / 4),
    }


def test_without_advantages_the_summary_says_less() -> None:
    summary = MaskSummary()
    apply_mask(small().drop_columns(["advantages"]), none, {}, summary)
    assert summary.as_dict() == {"tokens": 4, "masked_fraction": 0.0}
    apply_mask(small(s_star=[[0.5, -0.5], None, [0.25, 0.0, -0.25]]), none, {}, (summary := MaskSummary()))
    assert [name for name in summary.as_dict() if "change" in name] == []  # and not that it would be 0
    assert "masked_fraction_positive" in summary.as_dict()


def test_a_weight_that_was_not_computed_counts_as_one() -> None:
    rows = apply_mask(small(weights=[None, [], [2.0, 2.0, 2.0]]), fixed(weights=[0.5] * 5), {})
    assert rows["weights"].to_pylist() == [[0.5, 0.5], [], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fixed(weights=[1.0]), "returned weights of shape \\(1,\\) for 5 tokens"),
        (fixed(weights=[float("nan")] * 5), "a weight that is not finite"),
        (lambda loss_mask: loss_mask, "returned ndarray and not Compiled"),
    ],
)
def test_a_method_that_returns_nonsense_is_named(function: Any, words: str) -> None:
    with pytest.raises(EntropyctlError, match=f"mask (method|<lambda>): .*{words}"):
        apply_mask(small(), function, {})


def test_a_mask_works_on_a_scored_table_where_it_needs_no_advantages(cli: Cli, scored: Path) -> None:
    ran = cli("mask", "none", "scored.parquet", "-o", "out.parquet")
    assert (ran.code, "masked_fraction_positive" in ran.err) == (0, False), ran


def test_a_step_with_nothing_left_says_so_and_has_no_nan(cli: Cli, scored: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    ran = cli("mask", "random", "--fraction", "1", "a.parquet", "-o", "out.parquet")
    assert ran.code == 0, ran
    assert "mask random: step 1: no token is left to learn from" in ran.err, ran
    with read([str(scored.parent / "out.parquet")]) as source:
        weights = np.concatenate([row for step in source for row in step.rows["weights"].to_pylist()])
    assert (weights == 0).all()
    for name in ("clip-v", "kl-cov", "budget", "steer", "entropic"):
        again = cli("mask", name, "out.parquet", "-o", "again.parquet", "-q")
        assert again.code == 0, again


def test_the_summary_counts_the_tokens_with_a_penalty(cli: Cli, scored: Path) -> None:
    summary = MaskSummary()
    apply_mask(small(), fixed(weights=[1.0] * 5, kl=[0.0, 2.0, 1.0, 1.0, 0.0]), {}, summary)
    assert summary.as_dict()["penalised_fraction"] == 0.5  # of the four that count, the second and the third
    cli("advantage", "grpo", "scored.parquet", "-o", "advantaged.parquet")
    ran = cli("mask", "kl-cov", "--ratio", 1, "advantaged.parquet", "-o", "out.parquet")
    assert (ran.code, "penalised_fraction 1," in ran.err) == (0, True), ran
    ran = cli("mask", "clip-v", "advantaged.parquet", "-o", "out.parquet")
    assert (ran.code, "penalised" in ran.err) == (0, False), ran


@pytest.mark.parametrize("words", [("probability", "--factor", "1e39"), ("kl-cov", "--coef", "1e39")])
def test_numbers_beyond_float32_are_refused(cli: Cli, scored: Path, words: tuple[str, ...]) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    ran = cli("mask", *words, "a.parquet", "-o", "out.parquet")
    assert ran.code != 0 and ("too large for float32" in ran.line or "check its parameters" in ran.line), ran
    assert not (scored.parent / "out.parquet").exists()
