"""The forecast: what a step would do to the entropy, by what it comes from, and under other masks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl import registry
from entropyctl.dynamics import calibrated, calibration, token_statistics
from entropyctl.dynamics.forecast import DIFFICULTIES, QUADRANTS, comoments, difficulty, largest_tokens, parts
from entropyctl.errors import UsageError
from entropyctl.forecast import AS_IS, Forecast
from entropyctl.mask_specs import parse_masks
from entropyctl.masks import MaskSummary, compile_mask, lay_over
from entropyctl.memory import Memory
from entropyctl.table import new_record, read, write
from entropyctl.table.columns import list_column

from .conftest import Cli, Ran, scored_rows, write_scored

# Five responses, seven tokens, the last of p0's third response not counted. p0 has one of three right, p1 all.
LENGTHS = np.array([2, 1, 2, 1, 1])
COUNTED = np.array([True, True, True, True, False, True, True])
A = np.array([2.0, 2.0, -1.0, -1.0, 9.0, 0.0, 0.0])
S_STAR = np.array([0.5, -0.25, 1.25, -1.0, 5.0, 0.5, 0.5])
EXPECTED_S = np.full(7, 0.25)  # S* - E[S] = 0.25, -0.5, 1, -1.25, ., 0.25, 0.25
LOGP = np.array([-1.0, -2.0, -1.0, -3.0, -9.0, -2.0, -3.0])


def by_hand(step: int = 1, **columns: pa.Array) -> pa.Table:
    per_token = {"advantages": A, "s_star": S_STAR, "expected_s": EXPECTED_S, "logprobs": LOGP, "entropies": -LOGP}
    found: dict[str, Any] = {
        "step": pa.array([step] * 5, pa.int64()),
        "prompt_id": ["p0", "p0", "p0", "p1", "p1"],
        "sample": pa.array([0, 1, 2, 0, 1], pa.int32()),
        "tokens": list_column(np.arange(7), LENGTHS, pa.int32()),
        "loss_mask": list_column(COUNTED, LENGTHS, pa.bool_()),
        "outcome": ["correct", "wrong", "wrong", "correct", "correct"],
    }
    found |= {name: floats(values) for name, values in per_token.items()}
    return pa.table(found | columns)


def floats(values: np.ndarray) -> pa.Array:
    return list_column(values, LENGTHS, pa.float32())


def write_table(path: Path, *steps: pa.Table) -> Path:
    with write(str(path), "masked", new_record("advantage grpo", {})) as sink:
        for rows in steps:
            sink.put(rows["step"][0].as_py(), rows)
    return path


@pytest.fixture
def advantaged(cli: Cli, tmp_path: Path, scored: Path) -> str:
    """A file of two steps with advantages."""
    assert cli("advantage", "grpo", scored, "-o", "advantaged.parquet").code == 0
    return str(tmp_path / "advantaged.parquet")


def forecast(cli: Cli, *args: object) -> dict[str, Any]:
    ran = cli("forecast", *map(str, args), "--json")
    assert ran.code == 0, ran
    return json.loads(ran.text)


# In small numbers, at learning rate 1/2: dH = -0.25, 0.5, 0.5, -0.625, none, 0, 0; six tokens are counted.


def test_a_step_by_hand(cli: Cli, tmp_path: Path) -> None:
    found = forecast(cli, write_table(tmp_path / "a.parquet", by_hand()), "--lr", 0.5)
    assert (found["learning_rate"], found["eta"], found["calibration"]) == (0.5, 0.5, None)
    assert [block["step"] for block in found["steps"]] == [1]
    block = found["all"]
    assert block == {name: value for name, value in found["steps"][0].items() if name != "step"}
    counts = {name: block[name] for name in ("prompts", "responses", "tokens", "tokens_with_advantage")}
    assert counts == {"prompts": 2, "responses": 5, "tokens": 6, "tokens_with_advantage": 4}
    assert list(block["under"]) == ["as is"]
    change = block["under"]["as is"]
    assert change["total"] == pytest.approx(0.125 / 6)
    assert change["by_sign"] == pytest.approx({"positive": 0.25 / 6, "negative": -0.125 / 6})
    assert change["by_quadrant"] == pytest.approx(
        {
            "positive_above": -0.25 / 6,
            "positive_below": 0.5 / 6,
            "negative_above": 0.5 / 6,
            "negative_below": -0.625 / 6,
        }
    )
    assert change["by_difficulty"] == pytest.approx(
        {"all_wrong": 0, "hard": 0.125 / 6, "medium": 0, "easy": 0, "all_right": 0}
    )
    assert change["largest"] == pytest.approx({"tokens": 1, "change": -0.625 / 6, "share": 0.625 / 1.875})
    assert (change["pulling"], change["penalised"]) == (6, 0)


def test_the_covariances_by_hand(cli: Cli, tmp_path: Path) -> None:
    block = forecast(cli, write_table(tmp_path / "a.parquet", by_hand()), "--lr", 0.5)["all"]
    # mean A = 1/3, mean (S* - E[S]) = 0, mean log p = -2; products sum to -0.25 and to -2
    assert block["cov_A_centred_S"] == pytest.approx(-0.25 / 6)
    assert block["cov_A_logp"] == pytest.approx((-2 + 4) / 6)
    hard, all_right = block["difficulty"]["hard"], block["difficulty"]["all_right"]
    # of p0's four alone: means 1/2, -1/8 and -7/4
    assert hard["cov_A_centred_S"] == pytest.approx(0, abs=1e-12)
    assert hard["cov_A_logp"] == pytest.approx((-2 + 3.5) / 4)
    assert (hard["prompts"], hard["responses"], hard["tokens"], hard["tokens_with_advantage"]) == (1, 3, 4, 4)
    assert (all_right["prompts"], all_right["tokens"], all_right["tokens_with_advantage"]) == (1, 2, 0)
    assert block["difficulty"]["easy"]["cov_A_logp"] is None


def test_the_ratio_to_the_old_policy_is_a_factor(cli: Cli, tmp_path: Path) -> None:
    old = floats(LOGP - math.log(2))
    found = forecast(cli, write_table(tmp_path / "a.parquet", by_hand(old_logprobs=old)), "--lr", 0.5)
    assert found["all"]["under"]["as is"]["total"] == pytest.approx(2 * 0.125 / 6)


def test_masks_that_lie_on_the_rows_are_part_of_them_as_they_are(cli: Cli, tmp_path: Path) -> None:
    weights, penalties = np.array([1.0, 0.5, 1, 0, 1, 1, 1]), np.array([0.0, 0, 0, 1, 1, 0, 0])
    rows = by_hand(weights=floats(weights), kl_coefs=floats(penalties))
    change = forecast(cli, write_table(tmp_path / "a.parquet", rows), "--lr", 0.5)["all"]["under"]["as is"]
    assert change["by_sign"] == pytest.approx({"positive": 0, "negative": 0.5 / 6})
    assert (change["pulling"], change["penalised"]) == (5, 1)


def test_the_contributions_are_written_beside_the_key(cli: Cli, tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", by_hand())
    assert cli("forecast", "a.parquet", "--lr", 0.5, "-o", "out.parquet", "--masks", "random:fraction=1").code == 0
    with read([str(tmp_path / "out.parquet")]) as source:
        rows = next(iter(source)).rows
    assert rows.column_names == ["step", "prompt_id", "sample", "predicted_changes"]
    assert rows["predicted_changes"].to_pylist() == [[-0.25, 0.5], [0.5], [-0.625, 0], [0], [0]]
    assert cli("check", "--full", "out.parquet").code == 0
    streamed = cli("forecast", "a.parquet", "--lr", 0.5, "-o", "-")
    assert "total" in streamed.err and cli("inspect", stdin=streamed.out).text.count("predicted_changes")


def test_all_steps_are_the_mean_over_their_tokens(cli: Cli, tmp_path: Path) -> None:
    second = by_hand(2).slice(0, 2)  # three tokens: dH = -0.25, 0.5, 0.5; A = 2, 2, -1; p0 has one of two right
    found = forecast(cli, write_table(tmp_path / "a.parquet", by_hand(1), second), "--lr", 0.5)
    one, two = found["steps"]
    assert [one["step"], two["step"]] == [1, 2]
    assert two["under"]["as is"]["total"] == pytest.approx(0.75 / 3)
    total = found["all"]
    assert total["under"]["as is"]["total"] == pytest.approx((0.125 + 0.75) / 9)
    assert total["under"]["as is"]["largest"] == pytest.approx(
        {"tokens": 2, "change": (-0.625 + 0.5) / 9, "share": (0.625 + 0.5) / (1.875 + 1.25)}
    )
    assert total["cov_A_logp"] == pytest.approx((6 * one["cov_A_logp"] + 3 * two["cov_A_logp"]) / 9)
    assert (total["prompts"], total["tokens"], total["difficulty"]["medium"]["prompts"]) == (3, 9, 1)


def test_nothing_is_said_of_difficulty_without_grades(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", by_hand().drop_columns(["outcome"]))
    block = forecast(cli, path, "--lr", 0.5)["all"]
    assert block["difficulty"] is None and block["under"]["as is"]["by_difficulty"] is None
    assert block["under"]["as is"]["total"] == pytest.approx(0.125 / 6)
    assert "pass rate" not in cli("forecast", path, "--lr", 0.5).text


def test_a_greedy_baseline_row_is_no_sample_of_the_pass_rate(cli: Cli, tmp_path: Path) -> None:
    greedy = pa.array([False, True, False, False, False])  # p0 is then right in one of two
    block = forecast(cli, write_table(tmp_path / "a.parquet", by_hand(greedy=greedy)), "--lr", 0.5)["all"]
    assert (block["difficulty"]["hard"]["prompts"], block["difficulty"]["medium"]["prompts"]) == (0, 1)
    assert block["under"]["as is"]["by_difficulty"]["medium"] == pytest.approx(0.125 / 6)
    assert (block["responses"], block["difficulty"]["medium"]["responses"]) == (4, 2)


def test_a_step_with_nothing_counted_is_zero_and_no_nan(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", by_hand(loss_mask=list_column(COUNTED & False, LENGTHS, pa.bool_())))
    block = forecast(cli, path, "--lr", 0.5, "--masks", "clip-v,steer")["all"]
    assert block["tokens"] == 0 and block["cov_A_logp"] is None
    assert {name: entry["total"] for name, entry in block["under"].items()} == {"as is": 0, "clip-v": 0, "steer": 0}
    assert block["under"]["as is"]["largest"] == {"tokens": 0, "change": 0, "share": None}
    assert cli("forecast", path, "--lr", 0.5).code == 0


# Under masks.


def test_masks_stand_side_by_side(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", by_hand())
    masks = "quadrant:keep=pos-low,none,random:fraction=1,clip-v:variant=paper:mu=1e+0"
    found = forecast(cli, path, "--lr", 0.5, "--masks", masks)
    assert found["masks"] == masks.split(",")
    under = found["all"]["under"]
    assert list(under) == ["as is", *masks.split(",")]
    assert under["none"] == under["as is"]
    assert under["random:fraction=1"]["total"] == 0 and under["random:fraction=1"]["pulling"] == 0
    # sigma of S* - E[S] is 0.737: tokens at 1 and -1.25 go, and stay in the denominator
    assert under["clip-v:variant=paper:mu=1e+0"]["by_sign"] == pytest.approx({"positive": 0.25 / 6, "negative": 0})


def test_under_a_mask_the_forecast_is_what_the_mask_itself_predicts(cli: Cli, advantaged: str) -> None:
    words = {"clip-v:mu=0.5:max-frac=1": ["clip-v", "--mu", "0.5", "--max-frac", "1"], "steer": ["steer"]}
    # a controller whose second step starts from what it remembers of the first
    words["entropic:k-p=0.1:k-i=0.1:high-prob=0"] = ["entropic", "--k-p", "0.1", "--k-i", "0.1", "--high-prob", "0"]
    found = forecast(cli, advantaged, "--lr", 1, "--masks", ",".join(words))["all"]["under"]
    for spec, command in words.items():
        ran = cli("mask", *command, advantaged, "-o", "m.parquet", "--json")
        assert ran.code == 0, ran
        summary = json.loads(ran.text)
        assert found["as is"]["total"] == pytest.approx(summary["predicted_change_before"], rel=1e-6)
        assert found[spec]["total"] == pytest.approx(summary["predicted_change_after"], rel=1e-6)
        assert found[spec]["total"] != found["as is"]["total"]


def test_a_mask_sees_the_metrics_before_its_step_alone(cli: Cli, advantaged: str, tmp_path: Path) -> None:
    history = metrics(tmp_path, [-3e-4, 6e-4])  # of steps 1 and 2, which are those of the table; the slope is 3
    found = forecast(cli, advantaged, "--lr", 1, "--history", history, "--masks", "budget:target-change=1e-5")
    ran = cli(
        "mask", "budget", "--target-change", "1e-5", "--history", history, advantaged, "-o", "m.parquet", "--json"
    )
    expected = 3 * json.loads(ran.text)["predicted_change_after"]
    assert found["all"]["under"]["budget:target-change=1e-5"]["total"] == pytest.approx(expected, rel=1e-6)


def test_without_a_history_a_budget_is_met_at_the_step_size_of_the_forecast(cli: Cli, advantaged: str) -> None:
    found = forecast(cli, advantaged, "--lr", 1e-6, "--masks", "budget:target-change=1e-9")
    assert found["steps"][0]["under"]["budget:target-change=1e-9"]["total"] == pytest.approx(1e-9, rel=1e-5)


def test_composed_masks_are_those_of_the_pipe(cli: Cli, advantaged: str) -> None:
    spec = "clip-b:mu=0+top-entropy:fraction=0.5"
    found = forecast(cli, advantaged, "--lr", 1, "--masks", spec)["all"]
    first = cli("mask", "clip-b", "--mu", "0", advantaged)
    second = cli("mask", "top-entropy", "--fraction", "0.5", "-o", "m.parquet", "--json", stdin=first.out)
    summary = json.loads(second.text)
    assert summary["tokens"] < found["tokens"]  # clip-b shrinks the denominator; the forecast's stays
    assert found["under"][spec]["total"] * found["tokens"] == pytest.approx(
        summary["predicted_change_after"] * summary["tokens"], rel=1e-6
    )


def advantaged_rows(step: int) -> pa.Table:
    rows = scored_rows(step, groups=4, longest=8)
    lengths = np.array([len(row) for row in rows["tokens"].to_pylist()])
    per_row = np.random.default_rng(step).choice([-1.5, -0.5, 0.0, 1.0], len(lengths))
    return rows.append_column("advantages", list_column(np.repeat(per_row, lengths), lengths, pa.float32()))


@pytest.mark.parametrize("name", registry.names("masks"))
def test_every_mask_can_be_forecast(name: str) -> None:
    specs = parse_masks("--masks", name)
    found, summary, memory = Forecast(1.0, specs), MaskSummary(), Memory(None, name, {})
    (spec,) = specs[name]
    for step in (1, 2):
        rows = advantaged_rows(step)
        found.add(step, rows)
        compiled = compile_mask(
            rows, registry.load_function("masks", name), spec.params, {"state": memory.before(step)}
        )
        memory.remember(step, compiled.state)
        lay_over(rows, compiled, summary)
    total = found.as_dict()["all"]["under"][name]["total"]
    assert total == pytest.approx(summary.as_dict()["predicted_change_after"], rel=1e-5, abs=1e-9)


# Against what happens.


@pytest.mark.parametrize("seed", range(3))
def test_the_forecast_is_what_a_step_on_each_tokens_logits_does_to_first_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, advantages = rng.normal(size=(40, 12)) * 2, rng.normal(size=40)
    tokens = np.array([rng.choice(12, p=np.exp(x) / np.exp(x).sum()) for x in logits])
    stats = token_statistics(logits, tokens)
    direction = np.eye(12)[tokens] - np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {name: getattr(stats, name) for name in ("logprobs", "s_star", "expected_s")} | {"advantages": advantages}
    base = {"step": [1], "prompt_id": ["p"], "sample": pa.array([0], pa.int32()), "loss_mask": [[True] * 40]}
    rows = pa.table(base | {name: pa.array([values]) for name, values in columns.items()})
    errors = []
    for alpha in (1e-2, 5e-3, 2.5e-3):
        found = Forecast(alpha, {})
        found.add(1, rows)
        moved = token_statistics(logits + alpha * advantages[:, None] * direction, tokens)
        realised = float((moved.entropies - stats.entropies).mean())
        errors.append(abs(found.as_dict()["all"]["under"][AS_IS]["total"] - realised))
    assert errors[0] < 1e-2**2
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.3 * errors[1]


# The step size.


def metrics(tmp_path: Path, realised: list[float]) -> Path:
    predicted, steps = [-1e-4, 2e-4], [1, 2]
    columns = {"entropy": [1.0, 1.0], "entropy_after": [1.0, 1.0], "learning_rate": [1e-3, 2e-3]}
    columns |= {"predicted_change": predicted, "realised_change": realised}
    with write(str(tmp_path / "metrics.parquet"), "metrics", new_record("update", {})) as sink:
        sink.put(0, pa.table({"step": pa.array(steps, pa.int64()), **columns}))
    return tmp_path / "metrics.parquet"


def test_a_history_calibrates_the_learning_rate(cli: Cli, tmp_path: Path) -> None:
    path, history = write_table(tmp_path / "a.parquet", by_hand()), metrics(tmp_path, [-3e-4, 6e-4])
    found = forecast(cli, path, "--lr", 0.5, "--history", history)
    assert found["calibration"] == pytest.approx(3) and found["eta"] == pytest.approx(1.5)
    assert found["all"]["under"]["as is"]["total"] == pytest.approx(3 * 0.125 / 6)
    assert "learning rate 0.5 x 3, calibrated" in cli("forecast", path, "--lr", 0.5, "--history", history).text
    assert forecast(cli, path, "--history", history)["eta"] == pytest.approx(6e-3)  # the last rate, 2e-3


def test_a_history_that_went_the_other_way_calibrates_nothing(cli: Cli, tmp_path: Path) -> None:
    path, history = write_table(tmp_path / "a.parquet", by_hand()), metrics(tmp_path, [3e-4, -6e-4])
    ran = cli("forecast", path, "--lr", 0.5, "--history", history, "--json")
    assert json.loads(ran.text)["calibration"] is None and json.loads(ran.text)["eta"] == 0.5
    assert "do not follow what was predicted" in ran.line


def test_the_slope_is_that_of_least_squares_through_the_origin() -> None:
    history = {"predicted_change": [1.0, 2.0, np.nan], "realised_change": [1.0, 1.0, 5.0]}
    arrays = {name: np.array(values) for name, values in history.items()} | {"learning_rate": np.array([1.0, 10, 9])}
    assert calibration(arrays) == pytest.approx(3 / 5)
    assert calibrated(arrays) == pytest.approx(6)
    assert calibration({}) is None and calibrated({}) == 1


# The mathematics alone.


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_difficulties_meet_at_a_third_and_two_thirds(right_of: tuple[int, int]) -> None:
    right, n = right_of
    name = DIFFICULTIES[difficulty(np.arange(n) < right, np.zeros(n, int))[0]]
    if right in (0, n):
        assert name == ("all_wrong" if right == 0 else "all_right")
    else:
        assert name == ("hard" if 3 * right <= n else "medium" if 3 * right < 2 * n else "easy")


def test_the_difficulty_is_of_the_rows_group() -> None:
    group = np.array([7, 2, 7, 2, 7, 9])
    right = np.array([True, False, False, False, False, True])
    assert [DIFFICULTIES[i] for i in difficulty(right, group)] == [
        *("hard", "all_wrong", "hard", "all_wrong", "hard", "all_right")
    ]


NUMBERS = st.lists(st.tuples(*[st.floats(-5, 5)] * 3, st.integers(0, 4)), max_size=40)


@given(NUMBERS)
def test_the_parts_sum_to_the_total(tokens: list[tuple[float, float, float, int]]) -> None:
    A, S, w, level = (np.array(column) for column in zip(*tokens, strict=True)) if tokens else [np.empty(0)] * 4
    change = -A * S * w
    found = parts(change, A, S, level.astype(int))
    for some in (found.by_sign, found.by_quadrant, found.by_difficulty):
        assert some.sum() == pytest.approx(found.total, abs=1e-9)
    assert found.by_quadrant.shape == (len(QUADRANTS),) and found.by_difficulty.shape == (len(DIFFICULTIES),)
    assert found.absolute == pytest.approx(np.abs(change).sum())
    assert found.largest_absolute == pytest.approx(np.abs(change).max(initial=0))  # one of up to 1000
    together = comoments(A, S, w)
    assert together.centred_s == pytest.approx(len(A) * np.cov(A, S, bias=True)[0, 1] if len(A) else 0, abs=1e-6)


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (7000, 7)])
def test_a_thousandth_of_the_tokens_is_at_least_one(size: int, count: int) -> None:
    values = np.random.default_rng(0).permutation(size)
    assert sorted(values[largest_tokens(values)]) == list(range(size - count, size))


# The words.


def test_masks_are_parsed_to_typed_parameters() -> None:
    found = parse_masks("--masks", "clip-v:mu=1e+1:sides=both:max-frac=none, clip-b+entropic:anti-windup=true")
    ((clip_v,), (clip_b, entropic)) = found.values()
    assert list(found) == ["clip-v:mu=1e+1:sides=both:max-frac=none", "clip-b+entropic:anti-windup=true"]
    assert (clip_v.params["mu"], clip_v.params["sides"], clip_v.params["max_frac"]) == (10.0, "both", None)
    assert clip_v.params["variant"] == "trinity" and clip_b.name == "clip-b"
    assert entropic.params["anti_windup"] is True and "state" in entropic.reads
    assert parse_masks("--masks", "random:seed=3")["random:seed=3"][0].params["seed"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip-w", "there is no mask 'clip-w'; known: archer, budget, clip-b"),
        ("", "there is no mask ''"),
        ("clip-v,", "there is no mask ''"),
        ("clip-b+clip-w", "there is no mask 'clip-w'"),
        ("clip-v:nu=1", "'nu=1' sets no parameter of clip-v; known: mu=..., mu-high=..., sides=..."),
        ("clip-v:8.5", "'8.5' sets no parameter of clip-v"),
        ("clip-v:mu=much", "mu: 'much' must be a number"),
        ("clip-v:sides=3", "sides: '3' must be low or high or both or none"),
        ("random:seed=0.5", "seed: '0.5' must be a whole number"),
        ("none:x=1", "'x=1' sets no parameter of none; known: none"),
    ],
)
def test_a_word_that_means_nothing_is_a_usage_error_that_lists_the_known(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"^--masks") as error:
        parse_masks("--masks", text)
    assert message in str(error.value) and "\n" not in str(error.value)


def ends(ran: Ran, code: int, *said: str) -> None:
    assert ran.code == code, ran
    assert ran.line.startswith("entropyctl forecast: ") and all(part in ran.line for part in said), ran


def test_what_is_wrong_is_one_line(cli: Cli, scored: Path, tmp_path: Path) -> None:
    ends(cli("forecast", scored, "--lr", 1), 3, "column 'advantages' is missing; it is made by `entropyctl advantage`")
    path = write_table(tmp_path / "a.parquet", by_hand())
    ends(cli("forecast", path), 2, "--lr is missing")
    ends(cli("forecast", path, "--lr", 0), 2, "--lr 0: must be a finite number above 0")
    ends(cli("forecast", path, "--lr", "inf"), 2, "--lr inf: must be")
    ends(cli("forecast", path, "--lr", 1, "--masks", "clip-v:mu=-1"), 2, "--masks clip-v:mu=-1: --mu -1: must be")
    ends(cli("forecast", path, "--lr", 1, "--masks", "importance"), 3, "column 'rollout_logprobs' is missing")


def test_the_table_says_what_the_json_says(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", by_hand(1), by_hand(2))
    ran = cli("forecast", path, "--lr", 0.5, "--masks", "kl-cov,random:fraction=1")
    text = ran.text
    assert "step 1: 2 prompts, 5 responses, 6 tokens" in text and "step 2: " in text
    assert "all 2 steps: 4 prompts, 10 responses, 12 tokens" in text
    totals = [line.split() for line in text.splitlines() if line.startswith("total")]
    assert totals == [["total", "0.02083", "0.02083", "0"]] * 3
    assert "hard (c/n <= 1/3): 1 prompt " in text and "all right: 1 prompt, no advantage" in text
    assert "33.3 %" in text and "tokens with a KL penalty (not predicted)" in text
    assert cli("forecast", path, "--lr", 0.5, "--quiet").out == b""
    assert "\x1b" not in text


def test_neither_torch_nor_pandas_is_imported(cli: Cli, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", by_hand())
    ran = cli("forecast", path, "--lr", 0.5, "--masks", "clip-v,steer,budget", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ran.code == 0
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines()}
    assert "numpy" in imported and not imported & {"torch", "transformers", "pandas", "sympy"}


def test_rows_of_a_pipe_are_forecast_too(cli: Cli, tmp_path: Path) -> None:
    write_scored(tmp_path / "scored.parquet", scored_rows(1))
    ran = cli("forecast", "--lr", 1e-6, "--json", stdin=cli("advantage", "grpo", "scored.parquet").out)
    assert ran.code == 0 and json.loads(ran.text)["all"]["tokens"] > 0
