"""`entropyctl compare`: two masks over the same rows by hand, two runs, and what does not belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.compare.masks import Comparison
from entropyctl.table import new_record, read, write
from entropyctl.table.rows import read_rows

from .conftest import CONTEXT, Cli, scored_rows, write_scored
from .test_forecast import COUNTED, LENGTHS, by_hand, floats, list_column
from .test_forecast import A as ADVANTAGES
from .test_inspect import on_a_terminal, tokenizer

__all__ = ["tokenizer"]

# The step of test_forecast: dH at eta = 1 is -0.5, 1, 1, -1.25, not counted, 0, 0.
WEIGHTS_A = np.array([1.0, 0, 1, 1, 0, 1, 0.5])
WEIGHTS_B = np.array([1.0, 1, 0.5, 1, 1, 0, 0.5])
COUNTED_B = np.array([True, True, True, False, False, True, True])


def masked(path: Path, record: dict[str, Any], **columns: pa.Array) -> Path:
    """A file with the key and a mask's columns alone, made from the rollouts of a record."""
    rows = by_hand(**columns)
    mine = new_record("mask none", {"variant": "paper"})
    with write(str(path), "masked", mine, chain=[record], only=tuple(columns)) as sink:
        sink.put(1, rows)
    return path


@pytest.fixture
def masks(tmp_path: Path) -> list[str]:
    """A mask that removes by weights, one that narrows the loss mask too, and the table that both are laid over."""
    record = new_record("advantage grpo", {})
    with write(str(tmp_path / "base.parquet"), "advantaged", record, context=CONTEXT) as sink:
        sink.put(1, by_hand())
    with read([str(tmp_path / "base.parquet")]) as source:
        record = source.chain[-1]
    masked(tmp_path / "a.parquet", record, weights=floats(WEIGHTS_A))
    columns = {"loss_mask": list_column(COUNTED_B, LENGTHS, pa.bool_()), "kl_coefs": floats(np.array([0.1] * 7))}
    base_mask = list_column(COUNTED, LENGTHS, pa.bool_())
    masked(tmp_path / "b.parquet", record, weights=floats(WEIGHTS_B), base_mask=base_mask, **columns)
    return ["a.parquet", "b.parquet", "--base", "base.parquet"]


def compared(cli: Cli, *args: str) -> dict[str, Any]:
    ran = cli("compare", *args, "--json")
    assert ran.code == 0, ran
    return json.loads(ran.out)


def counts(*values: int) -> dict[str, int]:
    names = ("tokens", "both", "neither", "only_a", "only_b", "other_weight", "other_penalty")
    return dict(zip(names, values, strict=True))


def test_two_masks_by_hand(cli: Cli, masks: list[str]) -> None:
    found = compared(cli, *masks)
    assert (found["kind"], found["a"]["made_by"]) == ("masks", "mask none variant=paper")
    # Six tokens were counted before any mask. A keeps the 1st, 3rd, 4th, 6th and 7th, B the 1st, 2nd, 3rd and 7th.
    assert found["tokens"] == {
        "all": counts(6, 3, 0, 2, 1, 1, 5),
        "positive": counts(2, 1, 0, 0, 1, 0, 2),
        "negative": counts(2, 1, 0, 1, 0, 1, 1),
        "no_advantage": counts(2, 1, 0, 1, 0, 0, 2),
        "positive_above": counts(1, 1, 0, 0, 0, 0, 1),
        "positive_below": counts(1, 0, 0, 0, 1, 0, 1),
        "negative_above": counts(1, 1, 0, 0, 0, 1, 1),
        "negative_below": counts(1, 0, 0, 1, 0, 0, 0),
    }


def test_what_the_masks_do_to_the_forecast(cli: Cli, masks: list[str]) -> None:
    found = compared(cli, *masks)
    under = found["forecast"]["all"]["under"]
    assert list(under) == ["no mask", "A", "B", "B - A"]
    # Per token that was counted before any mask, so that the three compare.
    assert under["no mask"]["total"] == pytest.approx(0.25 / 6)
    assert under["A"]["total"] == pytest.approx((-0.5 + 1 - 1.25) / 6)
    assert under["B"]["total"] == pytest.approx((-0.5 + 1 + 0.5) / 6)
    assert under["B - A"]["total"] == pytest.approx(1.75 / 6)
    assert under["B - A"]["by_sign"] == pytest.approx({"positive": 1 / 6, "negative": 0.75 / 6})
    assert under["B - A"]["by_quadrant"]["negative_below"] == pytest.approx(1.25 / 6)
    assert (under["A"]["pulling"], under["B"]["pulling"], under["B - A"]["pulling"]) == (5, 4, -1)
    assert (under["A"]["penalised"], under["B"]["penalised"]) == (0, 5)
    assert [step["step"] for step in found["forecast"]["steps"]] == [1]
    whole = json.loads(cli("forecast", "base.parquet", "a.parquet", "--lr", "1", "--json").out)["all"]["under"]["as is"]
    assert whole["by_quadrant"] == pytest.approx(under["A"]["by_quadrant"])


def test_the_tokens_that_differ_most(cli: Cli, masks: list[str], tokenizer: Path) -> None:
    top = compared(cli, *masks, "--top", "2")["top"]
    assert [(one["prompt_id"], one["sample"], one["position"], one["token"]) for one in top] == [
        ("p0", 2, 0, 3),
        ("p0", 0, 1, 1),
    ]
    assert [(one["weight_a"], one["weight_b"], one["difference"]) for one in top] == [(1, 0, 1.25), (0, 1, 1)]
    every = compared(cli, *masks, "--top", "9")["top"]
    assert [one["difference"] for one in every] == [1.25, 1, -0.5]
    text = cli("compare", *masks, "--top", "2", "--tokenizer", str(tokenizer)).text
    assert "    w0⟦ w1⟧\n" in text


def test_masks_are_printed_side_by_side(cli: Cli, masks: list[str]) -> None:
    lines = [" ".join(line.split()) for line in cli("compare", *masks).text.splitlines()]
    assert lines[:2] == ["A a.parquet (mask none variant=paper)", "B b.parquet (mask none variant=paper)"]
    assert lines[3:5] == [
        "tokens kept by both by neither A alone B alone other weight other penalty",
        "all 6 3 0 2 1 1 5",
    ]
    assert "A < 0, S* < E[S] 1 0 0 1 0 0 0" in lines
    assert "no mask A B B - A" in lines and "total 0.04167 -0.125 0.1667 0.2917" in lines
    assert "1:p0:2 0 3 0.04979 3 -1 -1.25 1 0 1.25" in lines


def test_whole_tables_are_compared_without_a_base_and_a_mask_with_none(cli: Cli, tmp_path: Path, scored: Path) -> None:
    assert cli("advantage", "grpo", scored, "-o", "adv.parquet").code == 0
    for keep, name in (("pos-low", "one"), ("pos-low,neg-low", "two")):
        words = ["mask", "quadrant", "--keep", keep, "--variant", "trinity", "adv.parquet", "-o", f"{name}.parquet"]
        assert cli(*words).code == 0
    found = compared(cli, "one.parquet", "two.parquet")
    every = found["tokens"]["all"]
    # What the second keeps beside the first are the tokens with A < 0 and S* < E[S].
    assert every["only_a"] == 0 and every["only_b"] == found["tokens"]["negative_below"]["tokens"] > 0
    assert every["tokens"] == 77 and [step["step"] for step in found["forecast"]["steps"]] == [1, 2]
    plain = compared(cli, "adv.parquet", "two.parquet")
    assert (
        plain["tokens"]["all"]["only_b"] == 0
        and plain["tokens"]["all"]["both"] == found["tokens"]["all"]["both"] + (every["only_b"])
    )
    under = plain["forecast"]["all"]["under"]
    assert under["A"] == under["no mask"]


def test_rows_in_another_order_are_the_same_rows(cli: Cli, tmp_path: Path) -> None:
    record, other = new_record("advantage grpo", {}), by_hand(weights=floats(WEIGHTS_B))
    orders = {"a": by_hand(weights=floats(WEIGHTS_A)), "b": other, "c": other.take(pa.array([3, 4, 2, 0, 1]))}
    for name, rows in orders.items():
        with write(str(tmp_path / f"{name}.parquet"), "masked", record) as sink:
            sink.put(1, rows)
    forth, mixed = (compared(cli, "a.parquet", f"{name}.parquet") for name in "bc")
    assert forth["tokens"]["all"] == counts(6, 4, 0, 1, 1, 1, 0)
    assert mixed["tokens"] == forth["tokens"] and mixed["forecast"] == forth["forecast"]


def test_the_tokens_are_those_that_either_side_counts_before_a_mask() -> None:
    narrowed = by_hand(loss_mask=list_column(COUNTED_B, LENGTHS, pa.bool_()))  # by a program that kept no base_mask
    for rows, other in ((narrowed, by_hand()), (by_hand(), narrowed)):
        found = Comparison(1, with_forecast=True)
        found.add(1, rows, other)
        every = found.as_dict()["tokens"]["all"]
        assert (every["tokens"], every["both"], every["only_a"] + every["only_b"]) == (6, 5, 1)


def test_without_advantages_only_tokens_are_counted(cli: Cli, tmp_path: Path, scored: Path) -> None:
    for fraction in ("0.5", "0.25"):
        words = ["mask", "top-entropy", "--fraction", fraction, scored, "--only-new", "-o", f"m{fraction}.parquet"]
        assert cli(*words).code == 0
    found = compared(cli, "m0.5.parquet", "m0.25.parquet", "--base", str(scored))
    assert list(found["tokens"]) == ["all"] and (found["forecast"], found["lacking"]) == (None, "advantages")
    assert found["tokens"]["all"]["tokens"] == 77 and found["top"] == []
    text = cli("compare", "m0.5.parquet", "m0.25.parquet", "--base", scored).text
    assert "nothing is said of A, S* and the forecast: 'advantages' is missing" in text


WEIGHTS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=7, max_size=7)


@given(WEIGHTS, WEIGHTS, st.lists(st.booleans(), min_size=7, max_size=7))
def test_counts_add_up_and_the_difference_is_antisymmetric(a: list[float], b: list[float], counted: list[bool]) -> None:
    narrowed = list_column(COUNTED & np.array(counted), LENGTHS, pa.bool_())
    base = list_column(COUNTED, LENGTHS, pa.bool_())
    one = by_hand(weights=floats(np.array(a)))
    other = by_hand(weights=floats(np.array(b)), loss_mask=narrowed, base_mask=base)
    forth, back = Comparison(7, with_forecast=True), Comparison(7, with_forecast=True)
    forth.add(1, one, other)
    back.add(1, other, one)
    found, mirrored = forth.as_dict(), back.as_dict()
    for name, sums in found["tokens"].items():
        assert sums["tokens"] == sums["both"] + sums["neither"] + sums["only_a"] + sums["only_b"]
        assert (sums["only_a"], sums["both"]) == (mirrored["tokens"][name]["only_b"], mirrored["tokens"][name]["both"])
    total = found["forecast"]["all"]["under"]["B - A"]["total"]
    assert total == pytest.approx(-mirrored["forecast"]["all"]["under"]["B - A"]["total"])
    assert total * 6 == pytest.approx(sum(place["difference"] for place in found["top"]))


# Runs.

CURVE = {1: (1.0, 0.25, -0.5, -0.25), 2: (0.75, 0.5, -0.25, -0.25), 3: (0.5, 0.75, 0.0, 0.25), 4: (0.75, 1.0, 0.0, 0.0)}


def write_run(path: Path, steps: dict[int, tuple[float, ...]], temperature: float = 1.0, **more: float | None) -> Path:
    (path / "metrics").mkdir(parents=True)
    for step, (entropy, reward, predicted, realised) in steps.items():
        row = {"entropy": entropy, "reward": reward, "predicted_change": predicted, "realised_change": realised, **more}
        columns = {name: pa.array([value], pa.float64()) for name, value in row.items()}
        rows = pa.table({"step": pa.array([step], pa.int64()), **columns})
        name = str(path / "metrics" / f"step-{step:06d}.parquet")
        with write(
            name, "metrics", new_record("update", {}), context={"sampling": {"temperature": temperature}}
        ) as sink:
            sink.put(step, rows)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """A run of four steps, and one of three that begins a step later with twice the entropy and no KL."""
    write_run(tmp_path / "run-a", CURVE, kl=0.5)
    other = {step: (2 * CURVE[step][0], *CURVE[step][1:]) for step in (2, 3, 4)}
    write_run(tmp_path / "run-b", other | {5: (0.0, 0.0, 0.0, 0.0)}, kl=None)
    return ["run-a", "run-b"]


def test_two_runs_by_hand(cli: Cli, runs: list[str]) -> None:
    found = compared(cli, *runs)
    assert (found["kind"], found["steps"]) == ("runs", [2, 3, 4])
    assert found["a"] == {"path": "run-a", "steps": 4, "first": 1, "last": 4}
    assert list(found["numbers"]) == ["entropy", "reward", "predicted_change", "realised_change"]
    entropy = found["numbers"]["entropy"]
    assert (entropy["a"], entropy["b"]) == ([0.75, 0.5, 0.75], [1.5, 1.0, 1.5])
    assert entropy["end"] == {"a": 0.75, "b": 1.5, "difference": 0.75}
    assert entropy["mean"] == pytest.approx({"a": 2 / 3, "b": 4 / 3, "difference": 2 / 3})
    assert found["numbers"]["reward"]["mean"]["difference"] == 0
    assert compared(cli, "run-a/metrics", "run-b")["numbers"] == found["numbers"]


def test_two_runs_are_printed_with_curves_on_one_scale(cli: Cli, runs: list[str], tmp_path: Path) -> None:
    lines = [" ".join(line.split()) for line in cli("compare", *runs).text.splitlines()]
    assert lines[:3] == ["A run-a: 4 steps, 1 to 4", "B run-b: 4 steps, 2 to 5", "3 steps in common, 2 to 4"]
    assert "entropy 0.75 1.5 0.75 0.6667 1.333 0.6667" in lines
    assert lines[-3:] == ["2 0.75 1.5 0.5 0.5", "3 0.5 1 0.75 0.75", "4 0.75 1.5 1 1"]
    text = cli("compare", *runs, env={"PYTHONIOENCODING": "ascii"}).text
    drawn = text[text.index("entropy of A") : text.index("reward of A")].splitlines()
    # A lies in the lower half of the scale that both share, B in the upper.
    top, middle = drawn[1], len(drawn[0]) - len(drawn[0].lstrip())
    assert top.split()[0] == "1.5" and middle == 0
    half = drawn[0].index("entropy of B")
    assert "*" not in top[:half].replace("1.5", "") and "*" in top[half:]
    colored = on_a_terminal(tmp_path, "compare", *runs)
    assert "entropy of B" in colored and "\x1b[" in colored


def test_many_steps_are_listed_in_part(cli: Cli, tmp_path: Path) -> None:
    steps = {step: (1.0 / step, 0.5, 0.0, 0.0) for step in range(1, 61)}
    write_run(tmp_path / "run-a", steps)
    lines = cli("compare", "run-a", "run-a").text.splitlines()
    listed = [line.split()[0] for line in lines[-12:]]
    assert listed[0] == "1" and listed[-1] == "60" and len(set(listed)) == 12


# What does not belong together.


def refused(cli: Cli, code: int, words: str, *args: str) -> None:
    ran = cli("compare", *args)
    assert ran.code == code and words in ran.line, ran


def test_tables_of_other_rollouts_are_refused(cli: Cli, tmp_path: Path, masks: list[str]) -> None:
    other = new_record("advantage grpo", {})
    masked(tmp_path / "c.parquet", other, weights=floats(WEIGHTS_A))
    refused(cli, 5, "c.parquet: was not made from the rollouts of base.parquet", "a.parquet", "c.parquet", *masks[2:])
    refused(cli, 5, "c.parquet: was not made from the rollouts of a.parquet", "a.parquet", "c.parquet")
    refused(cli, 3, "a.parquet: has no column 'loss_mask'; name the table", "a.parquet", "a.parquet")


def test_another_temperature_is_refused_unless_it_is_allowed(cli: Cli, tmp_path: Path) -> None:
    record = new_record("score", {})
    write_scored(tmp_path / "a.parquet", scored_rows(), record=record)
    hot = {**CONTEXT, "sampling": {**CONTEXT["sampling"], "temperature": 0.6}}
    write_scored(tmp_path / "b.parquet", scored_rows(), record=record, context=hot)
    refused(cli, 5, "b.parquet: sampling.temperature is 0.6, but a.parquet has 1.0", "a.parquet", "b.parquet")
    assert cli("compare", "a.parquet", "b.parquet", "--allow-mismatch", "sampling.temperature").code == 0
    write_run(tmp_path / "run-a", CURVE)
    write_run(tmp_path / "run-b", CURVE, temperature=0.6)
    refused(cli, 5, "sampling.temperature is 0.6", "run-a", "run-b")
    assert cli("compare", "run-a", "run-b", "--allow-mismatch", "sampling.temperature").code == 0


def test_other_rows_steps_and_advantages_are_refused(cli: Cli, tmp_path: Path) -> None:
    record = new_record("score", {})
    rows, fewer = scored_rows(1), scored_rows(1).slice(0, 11)
    write_scored(tmp_path / "a.parquet", rows, record=record)
    write_scored(tmp_path / "b.parquet", fewer, record=record)
    write_scored(tmp_path / "c.parquet", rows, scored_rows(2), record=record)
    refused(cli, 5, "b.parquet: lacks row step 1, prompt p2, sample 3 of a.parquet", "a.parquet", "b.parquet")
    refused(cli, 5, "b.parquet: lacks row step 1, prompt p2, sample 3 of a.parquet", "b.parquet", "a.parquet")
    refused(cli, 5, "a.parquet: has no step 2 where the other has it", "a.parquet", "c.parquet")
    for estimator in ("grpo", "rloo"):
        assert cli("advantage", estimator, "a.parquet", "-o", f"{estimator}.parquet").code == 0
    refused(cli, 5, "rloo.parquet: 'advantages' of step 1 is not that of grpo.parquet", "grpo.parquet", "rloo.parquet")


def test_two_evaluations_are_compared_by_problem(cli: Cli, scored: Path, tmp_path: Path) -> None:
    assert cli("eval", scored, "-q", "-o", "a.parquet").code == 0
    table = read_rows(str(tmp_path / "a.parquet"))
    solved = table.rows.set_column(table.rows.schema.get_field_index("c"), "c", table.rows["n"])
    with write(str(tmp_path / "b.parquet"), "evals", new_record("eval", {}), context=table.header.context) as sink:
        sink.put(0, solved)
    found = json.loads(cli("compare", "a.parquet", "b.parquet", "--json").out)
    n, c = (table.rows[name].to_pylist() for name in ("n", "c"))
    assert found["difference"][0] == pytest.approx(1 - sum(c) / sum(n)) and found["problems"] == 3
    back = cli("compare", "b.parquet", "a.parquet")
    text = " ".join(back.text.split())
    assert (
        "against b.parquet, 3 problems that both have" in text and "no difference is shown at any k up to 8" in text
    ), back
    assert cli("eval", "a.parquet", "--against", "b.parquet", "--json").code == 0


def test_inputs_that_are_nothing_to_compare_are_refused(
    cli: Cli, tmp_path: Path, scored: Path, runs: list[str]
) -> None:
    refused(cli, 5, "run-a: is a run's metrics, and scored.parquet is a table of responses", "scored.parquet", "run-a")
    refused(cli, 2, "--base: is of two masks", *runs, "--base", "scored.parquet")
    refused(cli, 2, "standard input can be read once", "-", "-")
    refused(cli, 3, "nowhere", "nowhere", "scored.parquet")
    write_run(tmp_path / "run-c", {9: (1.0, 1.0, 0.0, 0.0)})
    refused(cli, 5, "run-c: has no step in common with run-a", "run-a", "run-c")


def test_the_help_names_the_stage(cli: Cli) -> None:
    assert "Compare two masks, two runs or two evaluations" in cli("--help").text
    assert ADVANTAGES.shape == COUNTED.shape
