"""Sampling mismatch: its numbers, and `score --fail-over` as a user runs it."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from entropyctl.dynamics import Mismatch, mismatch, mismatch_sums
from entropyctl.dynamics.blocks import TOKENS_PER_BLOCK
from entropyctl.dynamics.mismatch import pooled
from entropyctl.errors import StreamEndedEarly, ThresholdCrossed, UsageError
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.mismatch import MismatchWatch, parse_thresholds
from entropyctl.table import new_record, read, write
from entropyctl.table.columns import flat_values, list_column, row_lengths, with_column
from entropyctl.tokenstats import split_model
from entropyctl.tokenstats.table import add_statistics

from .conftest import Cli, scored_rows

# Three responses of 3, 4 and 2 tokens.
X = np.array([0.1, -0.3, 0.5, -0.4, 0.2, 0.05, -0.1, 0.25, -0.02])
SAMPLED = np.array([-1, -0.5, -0.2, -0.3, -2, -0.7, -1.2, -0.9, -0.1]) - X
LENGTHS = np.array([3, 4, 2])


def measured(scored: np.ndarray, sampled: np.ndarray, lengths: np.ndarray, counted: np.ndarray | None = None):
    counted = np.ones(len(scored), bool) if counted is None else counted
    found = mismatch(mismatch_sums(np.asarray(scored), np.asarray(sampled), counted, np.asarray(lengths)))
    assert found is not None
    return found


def test_a_small_step_by_hand() -> None:
    """k3 is what verl 0.9.1 prints of these numbers; the sample sizes go by its chi2_token and chi2_seq."""
    found = measured(SAMPLED + X, SAMPLED, LENGTHS)
    assert (found.tokens, found.disagreeing_tokens) == (9, 0)
    assert found.mean == pytest.approx(1.92 / 9)
    assert found.max == pytest.approx(0.5)
    assert found.k3 == pytest.approx(0.03630731, abs=5e-9)
    assert found.ess == pytest.approx(np.exp(X).mean() ** 2 / 1.21811803, rel=1e-7)
    sums = np.exp([0.3, -0.25, 0.23])
    assert found.sequence_ess == pytest.approx(sums.mean() ** 2 / 1.33757448, rel=1e-7)
    assert found.ess == pytest.approx(0.93536264, abs=1e-8)
    assert found.sequence_ess == pytest.approx(0.95309564, abs=1e-8)


def test_tokens_that_the_policy_did_not_choose_do_not_count_nor_does_a_response_without_any() -> None:
    scored, sampled = np.array([-1.0, -9.0, -7.0, -2.0]), np.array([-1.5, -0.1, -0.1, -2.0])
    found = measured(scored, sampled, [2, 1, 0, 1], np.array([True, False, False, True]))
    w = math.exp(0.5)
    assert found == pytest.approx(
        Mismatch(2, 0.25, 0.5, (w - 1.5) / 2, (w + 1) ** 2 / 2 / (w**2 + 1), (w + 1) ** 2 / 2 / (w**2 + 1), 0, 0.0)
    )
    assert mismatch(mismatch_sums(scored, sampled, np.zeros(4, bool), np.array([2, 1, 0, 1]))) is None
    nothing = np.zeros(0)
    assert mismatch(mismatch_sums(nothing, nothing, nothing.astype(bool), nothing.astype(int))) is None


@pytest.mark.parametrize(
    ("sampled", "scored", "count"),
    [
        (0.6, 0.08, 1),  # the engine is sure, the policy 2.01 nats less
        (0.08, 0.6, 1),  # the other way round
        (0.5, 0.5 * math.exp(-2.01), 1),
        (0.6, 0.09, 0),  # 1.9 nats
        (0.49, 0.01, 0),  # neither side is sure
        (0.9, 0.5, 0),
    ],
)
def test_a_confident_disagreement_is_half_the_mass_against_two_nats_less(
    sampled: float, scored: float, count: int
) -> None:
    found = measured(np.log([scored, 0.7]), np.log([sampled, 0.7]), [2])
    assert (found.disagreeing_tokens, found.disagreements) == (count, count / 2)


def test_nothing_overflows() -> None:
    """Of a response of 5000 tokens with x = 5 the weight is e^25000; two of them are as good as two samples."""
    lengths = np.array([5000, 5000, 10])
    x = np.repeat([5.0, 5.0, 0.0], lengths)
    found = measured(x - 6, np.full(10010, -6.0), lengths)
    assert found.sequence_ess == pytest.approx(2 / 3)
    assert found.ess == pytest.approx((10000 + 10 * math.exp(-5)) ** 2 / 10010 / (10000 + 10 * math.exp(-10)))
    huge = measured(np.array([-0.5, -1e30, -np.inf, -np.inf, 0]), np.array([-1e30, -0.5, -1, -np.inf, -np.inf]), [5])
    assert all(math.isfinite(value) for value in huge)
    assert (huge.max, huge.disagreeing_tokens, huge.ess) == (600, 3, pytest.approx(2 / 5))


def test_blocks_and_pooled_steps_give_what_one_sum_over_everything_gives() -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 900, 80)
    lengths[5] = 2 * TOKENS_PER_BLOCK + 7  # a response over several blocks
    count = int(lengths.sum())
    sampled = -rng.exponential(1, count).astype(np.float32)
    scored = sampled + (rng.normal(0, 0.03, count) * rng.choice([1, 40], count, p=[0.99, 0.01])).astype(np.float32)
    counted = rng.random(count) < 0.9
    x = scored.astype(np.float64) - sampled.astype(np.float64)
    rows = np.repeat(np.arange(80), lengths)
    x_B = np.array([x[(rows == i) & counted].sum() for i in range(80) if counted[rows == i].any()])
    x, w, w_B = x[counted], np.exp(x[counted]), np.exp(x_B)
    sure = np.maximum(scored, sampled)[counted] >= np.log(0.5)
    disagreeing = int((sure & (np.abs(x) > 2)).sum())
    expected = Mismatch(
        *(len(x), np.abs(x).mean(), np.abs(x).max(), (w - 1 - x).mean()),
        *(w.sum() ** 2 / len(w) / (w**2).sum(), w_B.sum() ** 2 / len(w_B) / (w_B**2).sum()),
        *(disagreeing, disagreeing / len(x)),
    )
    assert disagreeing > 0
    assert measured(scored, sampled, lengths, counted) == pytest.approx(expected, rel=1e-9)
    cut = int(lengths[:30].sum())
    parts = [
        mismatch_sums(scored[at], sampled[at], counted[at], some)
        for at, some in ((slice(0, cut), lengths[:30]), (slice(cut, None), lengths[30:]))
    ]
    assert mismatch(pooled(*parts)) == pytest.approx(expected, rel=1e-9)


def test_the_arguments_stay_as_they_are() -> None:
    given = [SAMPLED + X, SAMPLED.copy(), np.ones(9, bool), LENGTHS.copy()]
    before = [array.copy() for array in given]
    mismatch_sums(*given)
    assert all((a == b).all() for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize(
    ("sampling", "cause"),
    [
        ({}, None),
        ({"temperature": 0.7, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}, None),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 40, "logprob_kind": "processed"}, "top-p 0.9 and top-k 40"),
        ({"temperature": 1.0, "top_p": 0.9, "top_k": 0, "logprob_kind": "raw"}, None),
        ({"temperature": 0.7, "top_p": 1.0, "top_k": 0, "logprob_kind": "raw"}, "temperature 0.7"),
    ],
)
def test_options_that_make_the_two_differ_by_construction_are_named(sampling: dict, cause: str | None) -> None:
    """Raw log-probabilities are of the softmax before temperature and truncation; score's are after temperature."""
    assert MismatchWatch("r", sampling).by_construction == cause


def test_greedy_rows_and_rows_without_sampled_numbers_are_left_out() -> None:
    rows = scored_rows(groups=1, samples=3)
    lengths = row_lengths(rows["tokens"])
    moved = flat_values(rows["rollout_logprobs"]) - np.repeat(np.float32([1, 2, 3]), lengths)
    rows = with_column(
        rows, "rollout_logprobs", list_column(moved, lengths, pa.float32(), np.array([True, True, False]))
    )
    rows = rows.append_column("greedy", pa.array([None, True, None], pa.bool_()))
    watch = MismatchWatch("r", {})
    assert watch.see(rows) is rows
    found = watch.as_dict()["mismatch"]
    assert (found["tokens"], found["max"]) == (lengths[0], pytest.approx(1, abs=1e-6))


# The command, on a table of two steps whose second holds one token that the engine was wrongly sure of.


@pytest.fixture(scope="module")
def honest(tiny_policy: Path) -> tuple[pa.Table, dict]:
    """Four responses with the tiny model's own log-probabilities as the sampled ones, and what a file says of them."""
    policy = find_policy(str(tiny_policy))
    lengths, numbers = np.array([8, 3, 6, 7]), np.random.default_rng(4).integers(1, 257, 24)
    rows = pa.table(
        {
            "step": pa.array([1] * 4, pa.int64()),
            "prompt_id": ["a", "a", "b", "b"],
            "sample": pa.array([0, 1, 0, 1], pa.int32()),
            "prompt_tokens": pa.array([[70], [70], [71], [71]], pa.list_(pa.int32())),
            "tokens": list_column(numbers, lengths, pa.int32()),
            "loss_mask": list_column(np.ones(24, bool), lengths, pa.bool_()),
        }
    )
    model = split_model(load_model(policy, torch.float32, torch.device("cpu")))
    logprobs = add_statistics(rows, model, temperature=0.8, token_budget=64)["logprobs"]
    said = {"sampling": {"temperature": 0.8}, "tokenizer": policy.tokenizer_digest, "policies": {"0": policy.digest}}
    return rows.append_column("rollout_logprobs", logprobs), said


@pytest.fixture
def rollouts(honest: tuple[pa.Table, dict], tmp_path: Path) -> Path:
    return tampered(tmp_path / "tampered.parquet", *honest)


def tampered(path: Path, honest: pa.Table, context: dict) -> Path:
    lengths = row_lengths(honest["tokens"])
    numbers = flat_values(honest["rollout_logprobs"]).copy()
    worst = int(numbers.argmin())
    assert numbers[worst] < -3
    numbers[worst] = np.log(0.9)
    second = with_column(honest, "rollout_logprobs", list_column(numbers, lengths, pa.float32()))
    second = with_column(second, "step", pa.array([2] * len(lengths), pa.int64()))
    first = with_column(honest, "step", pa.array([1] * len(lengths), pa.int64()))
    with write(str(path), "rollouts", new_record("rollout", {}), context=context) as sink:
        sink.put(1, first)
        sink.put(2, second)
    return path


def table(path: Path) -> pa.Table:
    with read([str(path)]) as source:
        return pa.concat_tables([step.rows for step in source])


def test_score_says_how_far_it_lies_from_what_was_sampled(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    ran = cli("score", rollouts, "--policy", policy_root, "-o", "s.parquet", "--json")
    assert ran.code == 0, ran
    rows = table(tmp_path / "s.parquet")
    x = flat_values(rows["logprobs"]).astype(np.float64) - flat_values(rows["rollout_logprobs"])
    found = json.loads(ran.text)["mismatch"]
    assert (found["tokens"], found["disagreeing_tokens"], found["by_construction"]) == (len(x), 1, None)
    assert found["max"] == pytest.approx(np.abs(x).max()) and found["max"] > 2
    assert found["k3"] == pytest.approx((np.exp(x) - 1 - x).mean())
    with read([str(tmp_path / "s.parquet")]) as source:
        assert source.chain[-1]["summary"]["mismatch"] == found
    ran = cli("score", rollouts, "--policy", policy_root, "--only-new", "-o", "new.parquet")
    line = f"sampled against scored log p: mean {found['mean']:.2g}, max {found['max']:.2g}, k3 {found['k3']:.2g}, ESS "
    assert line in ran.err and f", 1 of {len(x)} tokens disagree confidently\n" in ran.err, ran
    assert "disagree" not in cli("score", rollouts, "--policy", policy_root, "-q", "-o", "s.parquet").err


@pytest.mark.parametrize(
    ("threshold", "holds", "crossed", "says"),
    [
        ("max", "3", "2.9", "max of the sampling mismatch is 3, over --fail-over max=2.9;"),
        ("mean", "0.6", "0.59", "mean of the sampling mismatch is 0.6, over --fail-over mean=0.59;"),
        ("k3", "0.41", "0.4", "k3 of the sampling mismatch is 0.41, over --fail-over k3=0.4;"),
        ("disagreements", "0.2", "0.19", "disagreements of the sampling mismatch is 0.2, over --fail-over disagr"),
        ("ess", "0.81", "0.82", "ess of the sampling mismatch is 0.8195, below --fail-over ess=0.82;"),
        ("sequence_ess", "0.5", "0.6", "sequence_ess of the sampling mismatch is 0.5497, below --fail-over sequence_"),
    ],
)
def test_every_measure_may_be_a_threshold(threshold: str, holds: str, crossed: str, says: str) -> None:
    """One of five tokens has x = -3: w = e^-3, k3 = (e^-3 - 1 + 3) / 5."""
    lengths = np.array([3, 2])
    numbers = np.float32([-2, -0.25, -1, -0.5, -1.5])
    scored = numbers - np.float32([0, 3, 0, 0, 0])
    rows = pa.table(
        {
            "step": pa.array([4, 4], pa.int64()),
            "logprobs": list_column(scored, lengths, pa.float32()),
            "rollout_logprobs": list_column(numbers, lengths, pa.float32()),
        }
    )
    watch = MismatchWatch("r", {}, parse_thresholds([f"{threshold}={holds}"]), at_once=True)
    assert watch.see(rows) is rows and watch.crossed is None
    with pytest.raises(ThresholdCrossed, match=f"^r: step 4: {re.escape(says)}"):
        MismatchWatch("r", {}, parse_thresholds([f"{threshold}={crossed}"]), at_once=True).see(rows)


def test_a_threshold_that_is_crossed_ends_with_10_and_the_file_is_whole(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    words = ("--fail-over", "mean=9", "--fail-over", "max=1")
    ran = cli("score", rollouts, "--policy", policy_root, "-q", "-o", "s.parquet", *words)
    assert ran.code == 10, ran
    assert "tampered.parquet: step 2: max of the sampling mismatch is " in ran.line, ran
    assert ", over --fail-over max=1; score with the number type and the weights that sampled, or " in ran.line, ran
    assert cli("check", "--full", "s.parquet").code == 0
    rows = table(tmp_path / "s.parquet")
    assert set(rows["step"].to_pylist()) == {1, 2} and {"logprobs", "rollout_logprobs"} <= set(rows.column_names)


def test_thresholds_that_hold_change_nothing(cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path) -> None:
    words = ("--fail-over", "max=50", "--fail-over", "ess=0.01", "--fail-over", "disagreements=0.5", "-q")
    assert cli("score", rollouts, "--policy", policy_root, *words, "-o", "a.parquet").code == 0
    assert cli("score", rollouts, "--policy", policy_root, "-q", "-o", "b.parquet").code == 0
    assert table(tmp_path / "a.parquet").equals(table(tmp_path / "b.parquet"))


def test_in_a_stream_the_step_that_crosses_goes_no_further(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    ran = cli("score", rollouts, "--policy", policy_root, "-q", "--fail-over", "max=1", "--tee", "tee.parquet")
    assert ran.code == 10 and "step 2: max" in ran.line, ran
    assert not (tmp_path / "tee.parquet").exists()
    steps = []
    with pytest.raises(StreamEndedEarly), read(["-"], stdin=io.BytesIO(ran.out)) as source:
        steps.extend(step.number for step in source)
    assert steps == [1]
    after = cli("mask", "none", "-q", "-o", "m.parquet", stdin=ran.out)
    assert after.code == 4 and not (tmp_path / "m.parquet").exists(), after


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("kl=0.1", "must be NAME=VALUE; the names are mean, max, k3, disagreements, ess, sequence_ess"),
        ("k3", "k3 must be a finite number, 0 or above"),
        ("k3=much", "k3 must be a finite number, 0 or above"),
        ("max=nan", "max must be a finite number, 0 or above"),
        ("mean=-1", "mean must be a finite number, 0 or above"),
        ("ess=90", "ess must be a number from 0 to 1; the names are mean, "),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--fail-over {word}: {says}")):
        parse_thresholds(["k3=1", word])


def test_thresholds_are_checked_before_anything_is_opened_and_belong_to_the_policy(cli: Cli) -> None:
    ran = cli("score", "nowhere.parquet", "--policy", "nowhere", "--fail-over", "kl=0.1", "-o", "s.parquet")
    assert ran.code == 2 and "--fail-over kl=0.1: must be NAME=VALUE; the names are mean, max, k3" in ran.line, ran
    ran = cli("score", "nowhere.parquet", "--reward", "exact", "--fail-over", "k3=1", "-o", "s.parquet")
    assert ran.code == 2 and "--fail-over: belongs to --policy" in ran.line, ran


def test_without_sampled_numbers_nothing_is_said_and_a_threshold_is_refused(
    cli: Cli, policy_root: Path, rollouts: Path, tmp_path: Path
) -> None:
    with read([str(rollouts)]) as source:
        rows, context = next(iter(source)).rows, source.context
    nulls = pa.nulls(rows.num_rows, pa.list_(pa.float32()))
    for name, changed in (
        ("absent.parquet", rows.drop_columns(["rollout_logprobs"])),
        ("null.parquet", with_column(rows, "rollout_logprobs", nulls)),
    ):
        with write(str(tmp_path / name), "rollouts", new_record("rollout", {}), context=context) as sink:
            sink.put(1, changed)
        ran = cli("score", name, "--policy", policy_root, "-o", "s.parquet")
        assert ran.code == 0 and "sampled against" not in ran.err, ran
        ran = cli("score", name, "--policy", policy_root, "--fail-over", "k3=1", "-o", "s.parquet")
        assert ran.code == 3 and "rollout_logprobs" in ran.line and "entropyctl rollout" in ran.line, ran


def test_truncated_sampling_is_said_to_differ_by_construction(
    cli: Cli, policy_root: Path, honest: tuple[pa.Table, dict], tmp_path: Path
) -> None:
    rows, context = honest
    context = context | {"sampling": context["sampling"] | {"top_k": 3}}
    path = tampered(tmp_path / "r.parquet", rows, context)
    ran = cli("score", path, "--policy", policy_root, "-o", "s.parquet", "--fail-over", "max=1")
    assert "disagree confidently; top-k 3 makes them differ by construction\n" in ran.err, ran
    assert ran.code == 10 and "over --fail-over max=1 (top-k 3 makes them differ); score with" in ran.err, ran
