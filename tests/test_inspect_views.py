"""`entropyctl inspect`: what a condition selects, the largest contributions, histograms, and coloured responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.contributions import Largest
from entropyctl.show.bins import Counts, binned, edges_for, shown_range
from entropyctl.show.scale import DIVERGING, SEQUENTIAL
from entropyctl.table import new_record, write
from entropyctl.table.columns import filtered_lists

from .conftest import Cli, scored_rows
from .test_inspect import HOSTILE, column, on_a_terminal, tokenizer

__all__ = ["tokenizer"]

# Two steps. dH at eta = 1 is -w A (S* - E[S]): 1, -0.5, 0 (no weight) | 0.25, not counted | -2 | nothing.
LISTS: dict[str, list[list[float]]] = {
    "entropies": [[0.5, 2.5, 1.0], [3.0, 0.25], [2.0], []],
    "s_star": [[-1.0, 0.75, 0.5], [0.5, 9.0], [1.5], []],
    "expected_s": [[0.0, 0.25, 0.25], [0.25, 0.0], [0.5], []],
    "logprobs": [[-1.0, -2.0, 0.0], [-3.0, -1.0], [-0.5], []],
    "rollout_logprobs": [[-1.0, -1.5, 0.0], [-3.5, -1.0], [-0.5], []],
    "advantages": [[1.0, 1.0, 1.0], [-1.0, -1.0], [2.0], []],
    "weights": [[1.0, 1.0, 0.0], [1.0, 1.0], [1.0], []],
}


def small(**columns: pa.Array | list[str]) -> pa.Table:
    lists = {name: pa.array(values, pa.list_(pa.float32())) for name, values in LISTS.items()}
    found: dict[str, Any] = {
        "step": pa.array([1, 1, 2, 2], pa.int64()),
        "prompt_id": ["a", "a", "b", "c d"],
        "sample": pa.array([0, 1, 0, 0], pa.int32()),
        "tokens": pa.array([[1, 2, 3], [4, 5], [6], []], pa.list_(pa.int32())),
        "loss_mask": pa.array([[True] * 3, [True, False], [True], []], pa.list_(pa.bool_())),
        "response": ["one two three", "four five", "six", ""],
        "reward": pa.array([1, 0, 1, None], pa.float32()),
        "outcome": ["correct", "wrong", "correct", "error"],
        **lists,
    }
    return pa.table(found | columns)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = small()
    with write(str(tmp_path / "t.parquet"), "masked", new_record("mask none", {})) as sink:
        sink.put(1, rows.slice(0, 2))
        sink.put(2, rows.slice(2, 2))
    return tmp_path / "t.parquet"


def asked(cli: Cli, *args: str | Path) -> dict[str, Any]:
    ran = cli("inspect", *args, "--json")
    assert ran.code == 0, ran
    return json.loads(ran.out)


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# --where: statistics of what is selected.


def test_statistics_are_those_of_the_selected_rows_and_tokens(cli: Cli, table: Path) -> None:
    facts = asked(cli, table, "--where", "reward > 0 and entropies > 0.75")["inputs"][0]
    assert (facts["where"], facts["of"]) == ("reward > 0 and entropies > 0.75", {"rows": 4, "tokens": 6})
    assert (facts["table"], facts["rows"], facts["tokens"]) == ("masked/1", 2, 3)
    assert facts["steps"] == {"count": 2, "first": 1, "last": 2}
    entropies, reward = column(facts, "entropies"), column(facts, "reward")
    assert (entropies["count"], entropies["min"], entropies["max"]) == (3, 1.0, 2.5)
    assert entropies["mean"] == pytest.approx(5.5 / 3)
    assert (reward["count"], reward["mean"]) == (2, 1.0)
    assert column(facts, "outcome")["values"] == {"correct": 2}
    assert column(facts, "tokens")["count"] == 3  # the ids of the same tokens
    lines = lines_of(cli("inspect", table, "--where", "reward > 0 and entropies > 0.75").text)
    assert {"where reward > 0 and entropies > 0.75", "rows 2 of 4 in 2 step(s), 1 to 2"} < set(lines)
    assert "tokens 3 of 6 in responses" in lines


def test_a_condition_of_rows_keeps_all_their_tokens(cli: Cli, table: Path) -> None:
    facts = asked(cli, table, "--where", "outcome == 'wrong' or reward == null")["inputs"][0]
    assert (facts["rows"], facts["tokens"]) == (2, 2)
    nothing = asked(cli, table, "--where", "reward > 5")["inputs"][0]
    assert (nothing["rows"], nothing["tokens"], nothing["steps"]) == (0, 0, None)
    assert cli("inspect", table, "--where", "reward > 5").code == 0


def test_a_list_that_was_not_computed_leaves_the_others_in_their_places(cli: Cli, tmp_path: Path) -> None:
    entropies = pa.array([None, [3.0, 0.25], [2.0], []], pa.list_(pa.float32()))
    pq.write_table(small(entropies=entropies), tmp_path / "t.parquet")
    facts = asked(cli, "t.parquet", "--where", "position == 2 or position == 0 and sample == 1")["inputs"][0]
    assert (facts["rows"], facts["tokens"], facts["of"]) == (2, 2, {"rows": 4, "tokens": 6})
    found = column(facts, "entropies")
    assert (found["count"], found["nulls"], found["min"], found["max"]) == (1, 1, 3.0, 3.0)


def test_inputs_are_laid_over_one_another_and_a_stream_is_selected_from(cli: Cli, table: Path) -> None:
    cli("mask", "quadrant", "--keep", "pos-low", table, "--only-new", "-o", "q.parquet")
    facts = asked(cli, table, "q.parquet", "--where", "weights == 0")["inputs"][0]
    # the one that had none, and those with A > 0 and S* > E[S], or A < 0
    assert (facts["path"].split("/")[-1], facts["tokens"]) == ("t.parquet + q.parquet", 5)
    streamed = cli(
        "inspect", "--where", "entropies > 2.25", "--rows", "9", "--json", stdin=cli("mask", "none", table).out
    )
    assert [row["prompt_id"] for row in json.loads(streamed.out)["listed"]] == ["a", "a"]


def test_another_programs_file_is_selected_from(cli: Cli, tmp_path: Path) -> None:
    rows = pa.table({"id": [1, 2, 3], "my score": [0.5, None, 2.0], "grades": [[1.0, 2.0], [3.0], []]})
    pq.write_table(rows, tmp_path / "t.parquet")
    facts = asked(cli, "t.parquet", "--where", "`my score` > 1 or grades > 2.5")["inputs"][0]
    assert (facts["table"], facts["rows"], facts["of"]["rows"]) == (None, 1, 3)
    found = asked(cli, "t.parquet", "--where", "`my score` > 1", "--rows", "2")
    assert found["listed"][0] | {"number": 2, "step": None, "tokens": None} == found["listed"][0]
    assert lines_of(cli("inspect", "t.parquet", "--where", "id > 1", "--rows", "1").text)[-1] == "1"


def test_lists_keep_some_items() -> None:
    lists = pa.array([[1, 2], None, [], [3, 4, 5]], pa.list_(pa.int64()))
    kept = filtered_lists(lists, np.array([True, False, False, True, True]))
    assert kept.to_pylist() == [[1], None, [], [4, 5]]
    nested = pa.array([[[1], [2, 3]], [[4]]], pa.list_(pa.list_(pa.int32())))
    assert filtered_lists(nested.slice(1), np.array([True])).to_pylist() == [[[4]]]
    assert filtered_lists(nested, np.array([False, True, False])).to_pylist() == [[[2, 3]], []]


def test_metrics_are_selected_from_too(cli: Cli, tmp_path: Path) -> None:
    rows = pa.table({"step": pa.array([1, 2, 3], pa.int64()), "entropy": [1.5, 1.0, 0.5], "reward": [0.25, 0.5, 0.75]})
    with write(str(tmp_path / "m.parquet"), "metrics", new_record("update", {})) as sink:
        for i in range(3):
            sink.put(i + 1, rows.slice(i, 1))
    lines = lines_of(cli("inspect", "m.parquet", "--where", "entropy < 1.25 and reward < 1", "--rows", "1").text)
    assert lines == ["2 of 3 rows; the first 1:", "--row reward", "1 0.5"]
    facts = asked(cli, "m.parquet", "--where", "entropy < 1.25")["inputs"][0]
    assert (facts["rows"], facts["tokens"], column(facts, "entropy")["mean"]) == (2, None, 0.75)


# --rows: from a selection to a response.


def test_rows_are_listed_as_row_takes_them(cli: Cli, table: Path) -> None:
    lines = lines_of(cli("inspect", table, "--where", "entropies < 2.75", "--rows", "2").text)
    assert lines == [
        "3 of 4 rows, 5 of 6 tokens; the first 2:",
        "--row reward outcome tokens mean H selected",
        "1:a:0 1 correct 3 1.333 3",
        "1:a:1 0 wrong 2 1.625 1",
    ]
    every = lines_of(cli("inspect", table, "--rows", "9").text)
    assert every[0] == "4 of 4 rows" and every[-1] == "'2:c d:0' - error 0 -"
    ran = cli("inspect", table, "--row", "2:c d:0")
    assert ran.code == 0 and "outcome: error" in ran.text, ran
    assert asked(cli, table, "--rows", "1")["listed"] == [
        {
            **{"number": 0, "step": 1, "prompt_id": "a", "sample": 0, "reward": 1.0, "outcome": "correct"},
            **{"tokens": 3, "entropy": pytest.approx(4 / 3), "selected": 3},
        }
    ]


def test_a_hostile_key_is_found_as_it_is_shown(cli: Cli, tmp_path: Path) -> None:
    rows = small(prompt_id=["a", "a", HOSTILE, HOSTILE])
    with write(str(tmp_path / "t.parquet"), "masked", new_record("mask none", {})) as sink:
        sink.put(1, rows.slice(0, 2))
    pq.write_table(rows.slice(2, 1), tmp_path / "h.parquet")
    listed = cli("inspect", "h.parquet", "--rows", "1")
    assert all(char.isprintable() or char == "\n" for char in listed.text), listed
    import shlex

    name = shlex.split(listed.text.splitlines()[-1])[0]
    assert name.startswith("2:\\x1b[31mred")
    shown = cli("inspect", "h.parquet", "--row", name)
    assert shown.code == 0 and "response:\nsix\n" in shown.text, shown


# --top.


def test_the_tokens_that_carry_most_of_the_predicted_change(cli: Cli, table: Path) -> None:
    facts = asked(cli, table, "--top", "3")
    # five tokens are counted: dH = 1, -0.5, 0, 0.25, -2
    assert (facts["tokens"], facts["total"], facts["absolute"]) == (5, -1.25 / 5, 3.75 / 5)
    keys = [(one["step"], one["prompt_id"], one["sample"], one["position"]) for one in facts["top"]]
    assert keys == [(2, "b", 0, 0), (1, "a", 0, 0), (1, "a", 0, 1)]
    assert [one["change"] for one in facts["top"]] == [-2, 1, -0.5]
    assert [one["share"] for one in facts["top"]] == pytest.approx([2 / 3.75, 1 / 3.75, 0.5 / 3.75])
    last = facts["top"][-1]
    assert (last["before"], last["token"], last["after"]) == ([1], 2, [3])
    assert {name: last[name] for name in ("entropy", "advantage", "centred_s", "weight")} == {
        **{"entropy": 2.5, "advantage": 1, "centred_s": 0.5, "weight": 1},
    }
    assert last["probability"] == pytest.approx(np.exp(-2))
    whole = json.loads(cli("forecast", table, "--lr", "1", "--json").out)["all"]
    assert whole["under"]["as is"]["total"] == pytest.approx(facts["total"])


def test_the_largest_among_those_of_a_condition_have_shares_of_all(cli: Cli, table: Path) -> None:
    facts = asked(cli, table, "--top", "9", "--where", "advantages < 0 or entropies == 2.5")
    assert [one["change"] for one in facts["top"]] == [-0.5, 0.25]
    assert facts["selected"] == {"tokens": 2, "total": -0.25 / 5, "absolute": 0.75 / 5}
    assert facts["top"][0]["share"] == pytest.approx(0.5 / 3.75)


def test_the_largest_are_printed_with_the_token_marked(cli: Cli, table: Path, tokenizer: Path) -> None:
    lines = lines_of(cli("inspect", table, "--top", "2").text)
    assert lines == [
        "predicted change of entropy at eta = 1, -w r A (S* - E[S]), nats",
        "5 counted tokens: mean dH -0.25, mean |dH| 0.75",
        "the 2 largest carry 80 % of |dH|",
        "",
        "--row at token p H A S* - E[S] w dH share",
        "2:b:0 0 6 0.6065 2 2 1 1 -2 53.3 %",
        "⟦6⟧",
        "1:a:0 0 1 0.3679 0.5 1 -1 1 1 26.7 %",
        "⟦1⟧ 2 3",
    ]
    words = ["inspect", table, "--top", "1", "--where", "position == 1", "--tokenizer", tokenizer]
    text = cli(*words).text
    assert "    w1⟦ w2⟧ w3\n" in text
    assert "1 of them where position == 1: -0.1 of dH, 0.1 (13.3 %) of |dH|" in lines_of(text)
    assert "    w1[[ w2]] w3\n" in cli(*words, env={"PYTHONIOENCODING": "ascii"}).text
    assert json.loads(cli(*words, "--json").out)["top"][0]["text"] == [" w1", " w2", " w3"]


def test_nothing_to_predict_is_no_error(cli: Cli, table: Path) -> None:
    ran = cli("inspect", table, "--top", "3", "--where", "weights == 0")
    assert ran.code == 0 and "none of them changes anything" in ran.text, ran


@given(st.lists(st.lists(st.integers(-3, 3), max_size=9), min_size=1, max_size=6), st.integers(1, 8))
def test_the_largest_over_steps_are_those_of_all_at_once(steps: list[list[int]], count: int) -> None:
    found = Largest(count)
    for number, values in enumerate(steps):
        rows = pa.table(
            {
                "step": pa.array([number], pa.int64()),
                "prompt_id": ["p"],
                "sample": pa.array([0], pa.int32()),
                "loss_mask": pa.array([[True] * len(values)], pa.list_(pa.bool_())),
            }
        )
        found.add(rows, np.array(values, np.float64), {"change": np.array(values, np.float64)})
    every = [(-abs(value), number, i) for number, values in enumerate(steps) for i, value in enumerate(values) if value]
    assert [(-abs(p.facts["change"] or 0), p.step, p.position) for p in found.places] == sorted(every)[:count]


# --histogram.


def test_a_histogram_by_hand(cli: Cli, table: Path) -> None:
    found = asked(cli, table, "--histogram", "entropies,reward", "--where", "step < 3")["histograms"]
    entropies, reward = found
    assert (entropies["of"], entropies["per"], reward["per"]) == ("entropies", "token", "row")
    group = entropies["groups"]["all"]
    assert {name: group[name] for name in ("count", "null", "min", "max", "below", "above")} == {
        **{"count": 6, "null": 0, "min": 0.25, "max": 3.0, "below": 0, "above": 0}
    }
    edges = entropies["edges"]
    assert edges[0] == 0.2 and edges[1] == 0.4 and edges[-1] == 3.2 and len(edges) == 16
    full = {edge: count for edge, count in zip(edges, group["counts"], strict=False) if count}
    assert full == {0.2: 1, 0.4: 1, 1.0: 1, 2.0: 1, 2.4: 1, 3.0: 1}
    assert (reward["groups"]["all"]["count"], reward["groups"]["all"]["null"]) == (3, 1)


def test_a_histogram_by_group_is_printed_without_long_gaps(cli: Cli, table: Path) -> None:
    lines = lines_of(cli("inspect", table, "--histogram", "reward", "--by", "outcome").text)
    assert lines[0] == "reward by outcome: 3 rows, 1 null, 0 to 1"
    assert lines[1] == "from to correct error wrong"
    bar = "█" * 48
    assert lines[2:] == [f"0 0.05 0 0 1 {bar}", "...", f"1 1.05 2 {bar} 0 0"]
    plain = cli("inspect", table, "--histogram", "reward", env={"PYTHONIOENCODING": "ascii"}).text
    assert f"1  {'#' * 25}" in plain and "█" not in plain
    by_sign = asked(cli, table, "--histogram", "entropies", "--by", "advantages > 0")["histograms"][0]["groups"]
    assert {name: group["count"] for name, group in by_sign.items()} == {"false": 2, "true": 4}


def test_a_tail_has_no_bins_of_its_own_and_is_counted(cli: Cli, tmp_path: Path) -> None:
    values = np.append(np.linspace(0, 1, 4999), 1000.0)
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    found = asked(cli, "t.parquet", "--histogram", "x")["histograms"][0]
    group = found["groups"]["all"]
    assert (found["edges"][0], group["below"], group["above"], group["max"]) == (0, 0, 2, 1000)  # 1 is at the last edge
    assert sum(group["counts"]) == 4998 and found["edges"][-1] == 1
    lines = lines_of(cli("inspect", "t.parquet", "--histogram", "x").text)
    assert lines[0] == "x: 5000 rows, 0 to 1000" and lines[-1] == "1 2 ▍"


def test_bars_are_logarithmic_where_one_bin_has_nearly_all(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [0.0] * 999 + [1.0, 2.0, 3.0]}), tmp_path / "t.parquet")
    lines = lines_of(cli("inspect", "t.parquet", "--histogram", "x").text)
    assert lines[0] == "x: 1002 rows, 0 to 3; bars are logarithmic"
    assert lines[2] == f"0 0.2 999 {'█' * 50}" and lines[-1] == f"3 3.2 1 {'█' * 5}"


FLOATS = st.floats(allow_nan=False, width=32) | st.integers(-5, 5).map(float) | st.floats(allow_nan=False)


@given(st.lists(FLOATS, max_size=60))
def test_every_number_is_counted_once_where_it_lies(values: list[float]) -> None:
    counts = Counts()
    counts.put(np.array(values))
    if not values:
        assert counts.count == 0
        return
    edges = edges_for(*shown_range(counts))
    found = binned(counts, edges)
    assert len(found.counts) == len(edges) - 1 <= 25 and edges == sorted(set(edges))
    assert found.below + sum(found.counts) + found.above == len(values)
    if max(map(abs, values)) > 3e38:  # what float32 does not hold is larger than all that it does
        return
    # An edge is exact to a part in 2^11.
    below = sum(value < edges[0] - abs(edges[0]) / 2048 for value in values)
    assert below <= found.below <= sum(value < edges[0] for value in values)


@given(st.lists(FLOATS, max_size=30), st.lists(FLOATS, max_size=30))
def test_counts_of_parts_go_together(one: list[float], other: list[float]) -> None:
    parts, whole = (Counts(), Counts()), Counts()
    for counts, values in zip((*parts, whole), (one, other, [*one, *other]), strict=True):
        counts.put(np.array(values), np.zeros(len(values), bool))
    parts[0].add(parts[1])
    assert (parts[0].count, parts[0].low, parts[0].high) == (whole.count, whole.low, whole.high)
    if whole.count:
        edges = edges_for(*shown_range(whole))
        assert binned(parts[0], edges) == binned(whole, edges)


def test_round_edges_hold_what_begins_at_them() -> None:
    counts = Counts()
    counts.put(np.array([-0.6, -0.3, -0.0, 0.0, 0.1, 0.3, 0.6], np.float32))
    edges = edges_for(-0.6, 0.6)
    assert edges[:2] == [-0.6, -0.5] or edges[:2] == [-0.6, -0.55]
    found = dict(zip(edges, binned(counts, edges).counts, strict=False))
    assert {edge: count for edge, count in found.items() if count} == {-0.6: 1, -0.3: 1, 0.0: 2, 0.1: 1, 0.3: 1, 0.6: 1}


# --row: colours.


def test_any_quantity_is_shown(cli: Cli, table: Path) -> None:
    for text, shown in {
        "centred_s": ["-1", "0.5", "0.25"],
        "s_star - expected_s": ["-1", "0.5", "0.25"],
        "mismatch": ["0", "-0.5", "0"],
        "change": ["1", "-0.5", "-0"],
        "kept": ["1", "1", "0"],
    }.items():
        ran = cli("inspect", table, "--row", "1:a:0", "--color", text)
        assert ran.code == 0, ran
        last = [line.split() for line in ran.text.splitlines()[-3:]]
        assert [line[2] for line in last] == shown, ran
        assert f"{text}" in ran.text and last[2][3:] == ["weight", "0"]


def test_removed_tokens_and_selected_ones_are_seen(cli: Cli, table: Path) -> None:
    lines = lines_of(cli("inspect", table, "--row", "1:a:1").text)
    assert lines[-3:] == ["token entropies removed", "0 4 3", "1 5 0.25 not counted"]
    lines = lines_of(cli("inspect", table, "--row", "1:a:0", "--where", "entropies > 0.75").text)
    assert lines[-2:] == ["1 2 2.5", "2 3 1 weight 0"]


def color_256(shade: str) -> str:
    from rich.color import Color, ColorSystem

    return f"48;5;{Color.parse(shade).downgrade(ColorSystem.EIGHT_BIT).number}m"


def test_signs_have_colours_about_zero_and_removed_tokens_a_line_through_them(table: Path, tokenizer: Path) -> None:
    words = ["inspect", "t.parquet", "--row", "1:a:0", "--tokenizer", "tok"]
    signed = on_a_terminal(table.parent, *words, "--color", "centred_s").rstrip().splitlines()
    low, high = color_256(DIVERGING[0]), color_256(DIVERGING[5])
    assert f"\x1b[30;{low} w1\x1b[0m" in f"{signed[-1]}".replace("mw1", "m w1"), signed[-1]
    assert f"\x1b[30;{high} w2\x1b[0m" in signed[-1]
    assert "\x1b[9;30;48;5;" in signed[-1] and "struck out: 1 weight 0" in signed[-2]
    assert "centred_s [nat]: -1 " in signed[-3] and signed[-3].count("\x1b[1;30;48;5;") == len(DIVERGING)
    plain = on_a_terminal(table.parent, *words).rstrip().splitlines()
    assert plain[-3].count("\x1b[1;30;48;5;") == len(SEQUENTIAL)
    selected = on_a_terminal(table.parent, *words, "--where", "entropies > 2").rstrip().splitlines()
    assert selected[-1].startswith(" w1\x1b[30;48;5;"), selected[-1]


def test_on_a_terminal_the_token_stands_out_and_bars_fit(table: Path, tokenizer: Path) -> None:
    words = ["inspect", "t.parquet", "--top", "1", "--where", "position == 1", "--tokenizer", "tok"]
    shown = on_a_terminal(table.parent, *words)
    assert "     w1\x1b[1;7m⟦ w2⟧\x1b[0m w3" in shown, shown
    narrow = on_a_terminal(
        table.parent, "inspect", "t.parquet", "--histogram", "entropies", "--by", "outcome", COLUMNS="60"
    )
    lines = [line for line in narrow.splitlines() if "█" in line]
    assert len(lines) == 6 and all(len(line.rstrip()) <= 60 for line in lines), narrow


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--where", "rewards > 0"], 3, "t.parquet: there is no column 'rewards'; known: step, prompt_id, sample"),
        (["--where", "reward >"], 2, "--where: the end at character 9 does not fit there"),
        (["--where", "reward"], 2, "--where reward: is a number, and must be true or false"),
        (["--where", "values > 0"], 3, "'values' is missing; it is made by `entropyctl score --critic`"),
        (["--histogram", "outcome"], 2, "--histogram outcome: is a text, and must be a number or true or false"),
        (["--histogram", "reward", "--by", "entropies > 1"], 2, "--by entropies > 1: is of tokens, and reward of rows"),
        (["--histogram", "entropies,"], 2, "--histogram: the end at character 11"),
        (["--by", "outcome"], 2, "--by: is of another view; choose one with --histogram"),
        (["--tokenizer", "tok"], 2, "--tokenizer: is of another view; choose one with --row or --top"),
        (["--top", "3", "--rows", "3"], 2, "--rows and --top: each shows something else"),
        (["--top", "0"], 2, "--top"),
        (["--provenance", "--where", "reward > 0"], 2, "--provenance: does not go with --where"),
        (["--row", "1:a:0", "--where", "nosuch > 0"], 3, "there is no column 'nosuch'"),
        (["--row", "1:a:0", "--color", "reward"], 3, "--color wants a number for each token"),
        (["--row", "1:a:0", "--color", "entropies >"], 2, "--color: the end at character 12"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    cli: Cli, table: Path, args: list[str], code: int, words: str
) -> None:
    ran = cli("inspect", table, *args)
    assert ran.code == code and words in ran.line, ran


def test_too_many_groups_are_refused(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(9.0)}), tmp_path / "t.parquet")
    ran = cli("inspect", "t.parquet", "--histogram", "x", "--by", "x")
    assert ran.code == 2 and "--by x: has more than 6 values; compare it with something" in ran.err, ran


def test_rows_that_lack_an_advantage_are_named(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(scored_rows(), tmp_path / "s.parquet")
    ran = cli("inspect", "s.parquet", "--top", "3")
    assert ran.code == 3 and "'advantages' is missing; it is made by `entropyctl advantage`" in ran.err, ran


@pytest.mark.parametrize(
    "args", [["--rows", "3"], ["--where", "reward == 1"], ["--histogram", "reward", "--by", "response"], ["--top", "2"]]
)
def test_nothing_of_the_data_is_obeyed_in_any_view(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    rows = small(prompt_id=["a", "a", HOSTILE, HOSTILE], outcome=[HOSTILE] * 4, response=[HOSTILE] * 4)
    pq.write_table(rows.slice(2, 1), tmp_path / "h.parquet")
    ran = cli("inspect", "h.parquet", *args)
    assert ran.code == 0 and not [char for char in ran.text if char != "\n" and not char.isprintable()], ran
