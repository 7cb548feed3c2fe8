"""`entropyctl eval`: pass@k, average and majority of scored responses, by problem, policy version and data source."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.errors import InputError
from entropyctl.laws.evaluate import evaluate
from entropyctl.laws.summary import summarise
from entropyctl.table.rows import read_rows

from .conftest import Cli, scored_rows, write_scored

# Problem a: 8 responses, 1 correct. Problem b: 8 responses, 4 correct.
OUTCOMES = {
    "a": ["correct"] + ["wrong"] * 4 + ["unparsable", "timeout", "error"],
    "b": ["correct"] * 4 + ["wrong"] * 4,
}
PREDICTED = {
    "a": ["7", "9", "9", "8", "8", None, None, None],
    "b": ["3", "3", "3", "4", "5", "5", "5", "6"],
}


def graded(version: int = 0, source: dict[str, str] | None = None, **replace: list[object]) -> pa.Table:
    """The sixteen responses of problems a and b, two tokens each."""
    ids = ["a"] * 8 + ["b"] * 8
    columns = {
        "step": pa.array([1] * 16, pa.int64()),
        "prompt_id": ids,
        "sample": pa.array([*range(8), *range(8)], pa.int32()),
        "tokens": pa.array([[1, 2]] * 16, pa.list_(pa.int32())),
        "finish_reason": ["length", "length", *["stop"] * 14],
        "policy_version": pa.array([version] * 16, pa.int64()),
        "outcome": OUTCOMES["a"] + OUTCOMES["b"],
        "predicted": PREDICTED["a"] + PREDICTED["b"],
        "entropies": pa.array([[1.0, 0.0]] * 8 + [[2.0, 1.0]] * 8, pa.list_(pa.float32())),
    }
    if source:
        columns["data_source"] = [source[i] for i in ids]
    return pa.table(columns | replace)


def test_each_problem_is_counted() -> None:
    a, b = evaluate([graded()]).to_pylist()
    assert (a["prompt_id"], a["n"], a["c"], a["truncated"], a["tokens"], a["entropy"]) == ("a", 8, 1, 2, 16, 0.5)
    assert (a["unparsable"], a["timeout"], a["error"]) == (1, 1, 1)
    assert (b["n"], b["c"], b["truncated"], b["unparsable"], b["entropy"]) == (8, 4, 0, 0, 1.5)


def test_answers_are_counted_and_the_majority_shares_a_tie() -> None:
    a, b = evaluate([graded()]).to_pylist()
    assert a["predictions"] == [
        {"predicted": "9", "count": 2, "correct": False},
        {"predicted": "8", "count": 2, "correct": False},
        {"predicted": "7", "count": 1, "correct": True},
    ]
    assert a["majority_correct"] == 0
    assert b["majority_correct"] == 0.5  # 3 and 5 were given three times each, and 3 is right


def test_means_over_problems() -> None:
    pooled = summarise(evaluate([graded()]), [1, 4])["pooled"]
    assert pooled["pass@k"]["1"]["mean"] == pytest.approx((1 / 8 + 4 / 8) / 2)
    assert pooled["pass@k"]["4"]["mean"] == pytest.approx((0.5 + 0.9857142857) / 2)
    assert list(pooled["pass@k"]) == ["1", "4"]
    assert pooled["avg@n"]["mean"] == pytest.approx(0.3125)
    # Over all subsets of four: a is right in 11 of 70, ties shared, and b in half of them.
    assert pooled["cons@k"]["1"]["mean"] == pytest.approx(0.3125)
    assert pooled["cons@k"]["4"]["mean"] == pytest.approx((11 / 70 + 1 / 2) / 2)
    assert (pooled["problems"], pooled["responses"], pooled["n"]) == (2, 16, 8)
    assert (pooled["truncated"], pooled["entropy"], pooled["tokens"]) == (2 / 16, 1.0, 32)
    assert (pooled["unparsable"], pooled["timeout"], pooled["error"]) == (1, 1, 1)


def test_the_interval_is_students_over_problems_and_stays_within_0_and_1() -> None:
    # Two problems, 1/8 and 4/8: mean 0.3125, deviation 0.2651650, t of one degree of freedom 12.7062047.
    average = summarise(evaluate([graded()]))["pooled"]["avg@n"]
    assert average["low"] == 0.0 and average["high"] == 1.0
    half = summarise(evaluate([graded()]), confidence=0.5)["pooled"]["avg@n"]  # t = 1 exactly
    assert half["high"] - half["mean"] == pytest.approx(0.2651650 / 2**0.5)


def test_the_interval_of_other_samples_holds_the_problems_fixed() -> None:
    # The variances of c/8 for p = 1.5/9 and 4.5/9: 0.0173611 and 0.03125; of their mean over 2 problems 0.0121528.
    average = summarise(evaluate([graded()]))["pooled"]["avg@n"]
    assert average["samples_high"] - average["mean"] == pytest.approx(1.959964 * 0.0121528**0.5, rel=1e-5)
    # One problem says nothing of others, but of its own other samples.
    only_a = summarise(evaluate([graded().slice(0, 8)]))["pooled"]["avg@n"]
    assert (only_a["mean"], only_a["low"], only_a["high"], only_a["samples_low"]) == (0.125, None, None, 0.0)
    assert only_a["samples_high"] == pytest.approx(0.125 + 1.959964 * 0.0173611**0.5, rel=1e-5)


def test_problems_that_all_agree_are_not_certain() -> None:
    # Three problems, 0 of 8 each: variance (1/18)(17/18)/8 = 0.00655864, t of two degrees of freedom 4.3026527.
    rows = graded(outcome=["wrong"] * 16)
    three = pa.concat_tables([rows, rows.slice(0, 8).set_column(1, "prompt_id", [["c"] * 8])])
    average = summarise(evaluate([three]))["pooled"]["avg@n"]
    assert average["high"] == pytest.approx(4.3026527 * (0.00655864 / 3) ** 0.5)
    # The consensus was wrong three times of three: (1/2)/4 of the draws are taken to be right.
    consensus = summarise(evaluate([three]))["pooled"]["cons@k"]["8"]
    assert consensus["high"] == pytest.approx(4.3026527 * (0.125 * 0.875 / 3) ** 0.5)


def test_every_k_up_to_n_is_reported_when_none_is_chosen() -> None:
    assert list(summarise(evaluate([graded()]))["pooled"]["pass@k"]) == [str(k) for k in range(1, 9)]


def test_steps_of_one_policy_version_are_one_evaluation_and_versions_are_apart() -> None:
    evals = evaluate([graded(0), graded(1), graded(1)])
    assert [(r["policy_version"], r["prompt_id"], r["n"]) for r in evals.to_pylist()] == [
        (0, "a", 8),
        (0, "b", 8),
        (1, "a", 16),
        (1, "b", 16),
    ]
    summary = summarise(evals)
    assert [(g["policy_version"], g["n"]) for g in summary["by_policy"]] == [(0, 8), (1, 16)]


def test_steps_of_unknown_policies_are_one_and_that_is_said() -> None:
    said = list[str]()
    unknown = graded().drop_columns(["policy_version"])
    assert [row["n"] for row in evaluate([unknown, unknown], "x", said.append).to_pylist()] == [16, 16]
    assert said == [
        "x: 2 steps do not say which version of a policy they are of, and are counted as one policy; "
        "evaluate the files of a step alone"
    ]
    evaluate([graded(), graded()], "x", said.append)
    evaluate([unknown], "x", said.append)
    assert len(said) == 1


def test_several_versions_are_no_more_problems_and_pooled_means_have_no_interval() -> None:
    one, two = (summarise(evaluate(steps)) for steps in ([graded(0)], [graded(0), graded(1)]))
    assert two["pooled"]["problems"] == 2 and two["pooled"]["responses"] == 32
    nothing = dict.fromkeys(("se", "low", "high", "samples_low", "samples_high"))
    assert two["pooled"]["avg@n"] == {"mean": 0.3125} | nothing
    assert two["pooled"]["cons@k"] == {"8": {"mean": 0.25} | nothing}
    assert two["pooled"]["pass@k"]["1"] == {"mean": 0.3125} | nothing
    # By version nothing is lost.
    assert two["by_policy"][1] == one["by_policy"][0] | {"policy_version": 1}
    assert one["by_policy"][0]["avg@n"]["low"] == 0.0


def test_data_sources_are_reported_apart() -> None:
    groups = summarise(evaluate([graded(source={"a": "hard", "b": "easy"})]))["by_data_source"]
    assert [(g["data_source"], g["avg@n"]["mean"]) for g in groups] == [("easy", 0.5), ("hard", 0.125)]


def test_what_is_not_there_is_null_and_not_zero() -> None:
    rows = graded().drop_columns(["entropies", "finish_reason", "predicted", "policy_version"])
    row = evaluate([rows]).to_pylist()[0]
    assert (row["entropy"], row["truncated"], row["majority_correct"], row["policy_version"]) == (None, None, None, 0)
    pooled = summarise(evaluate([rows]))["pooled"]
    assert (pooled["entropy"], pooled["truncated"], pooled["cons@k"]) == (None, None, None)


def test_a_token_of_probability_0_leaves_the_weights_of_the_answers_unknown() -> None:
    certain = [[-1.0, -1.0]] * 15
    kind = pa.list_(pa.float32())
    for first, made_of in (([-1.0, -1.0], "logprobs"), ([float("-inf"), -1.0], "counts")):
        found = evaluate([graded(logprobs=pa.array([first, *certain], kind))]).to_pylist()
        assert [row["semantic_entropy_of"] for row in found] == [made_of] * 2
        assert [row["semantic_entropy"] for row in found] == pytest.approx([1.7329, 0.9743], abs=1e-4)


def test_a_problem_without_any_answer_counts_as_no_majority() -> None:
    rows = graded(predicted=[None] * 8 + PREDICTED["b"])
    assert [row["majority_correct"] for row in evaluate([rows]).to_pylist()] == [None, 0.5]
    assert summarise(evaluate([rows]))["pooled"]["cons@k"]["8"]["mean"] == 0.25


@pytest.mark.parametrize("outcome", ["Correct", None, ""])
def test_an_unknown_outcome_is_refused_with_its_row(outcome: str | None) -> None:
    rows = graded(outcome=[*OUTCOMES["a"], *OUTCOMES["b"][:7], outcome])
    with pytest.raises(InputError, match=r"x: row step 1, prompt b, sample 7: its outcome is .* correct, wrong"):
        evaluate([rows], "x")


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(InputError, match="holds no rows"):
        evaluate([graded().slice(0, 0)])


def test_the_command_prints_a_table_for_people(cli: Cli, tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", graded())
    ran = cli("eval", path, "-k", "1,2", "-k", "4")
    assert ran.code == 0, ran
    titles, values = (" ".join(line.split()) for line in ran.text.splitlines()[:2])
    assert titles == "policy problems n avg@n 95 % interval pass@1 pass@2 pass@4 cons@1 cons@2 cons@4 truncated entropy"
    assert values == "0 2 8 0.312 0.000 to 1.000 0.312 0.518 0.743 0.312 0.339 0.329 12.5 % 1"
    assert "problems solved: never 0, sometimes 2 (0 0900090000 1), always 0" in ran.text
    assert "not graded, counted as not correct: unparsable 1, timeout 1, error 1" in ran.text
    assert ran.err == ""
    assert "\x1b" not in ran.text


def test_json_is_one_object_on_stdout(cli: Cli, tmp_path: Path) -> None:
    ran = cli("eval", write_scored(tmp_path / "s.parquet", graded()), "--json")
    assert json.loads(ran.out)["pooled"]["pass@k"]["8"]["mean"] == 1.0, ran


def test_the_table_is_written_with_the_summary_in_its_record(cli: Cli, tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "s.parquet", graded())
    ran = cli("eval", scored, "-o", "e.parquet", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, b"", ""), ran
    _, rows, header = read_rows(str(tmp_path / "e.parquet"))
    assert header.table == "evals"
    assert rows["c"].to_pylist() == [1, 4]
    assert [record["stage"] for record in header.chain] == ["score", "eval"]
    record = header.chain[-1]
    assert record["summary"]["pooled"]["cons@k"]["8"]["mean"] == 0.25
    assert record["rows"] == 2 and record["rows_in"] == 16
    assert header.context["sampling"]["temperature"] == 1.0


def test_a_file_of_another_program_is_said_to_be_one_once(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(graded(), tmp_path / "s.parquet")
    ran = cli("eval", "s.parquet")
    assert ran.line == "entropyctl: s.parquet: written by another program; its history starts as unknown"


def test_a_stream_is_evaluated_in_a_pipe(cli: Cli, tmp_path: Path) -> None:
    stream = cli("mask", "none", write_scored(tmp_path / "s.parquet", graded(loss_mask=[[True, True]] * 16)), "-q")
    assert stream.code == 0, stream
    ran = cli("eval", "--json", stdin=stream.out)
    assert json.loads(ran.out)["pooled"]["problems"] == 2, ran


def test_a_cut_stream_is_not_evaluated(cli: Cli, tmp_path: Path) -> None:
    stream = cli("mask", "none", write_scored(tmp_path / "s.parquet", scored_rows()), "-q").out
    ran = cli("eval", "-o", "e.parquet", stdin=stream[: len(stream) // 2])
    assert (ran.code, ran.out) == (4, b""), ran
    assert list(tmp_path.glob("*e.parquet*")) == []


@pytest.mark.parametrize(
    ("k", "words"),
    [
        ("9", "-k 9: problem a has n = 8 responses of policy version 0"),
        ("0", "-k 0: problem a has n = 8"),
        ("1,x", "-k x: must be a whole number"),
    ],
)
def test_k_that_cannot_be_is_a_usage_error(cli: Cli, tmp_path: Path, k: str, words: str) -> None:
    ran = cli("eval", write_scored(tmp_path / "s.parquet", graded()), "-k", k)
    assert ran.code == 2 and words in ran.line, ran


def test_ungraded_responses_name_the_stage_that_grades(cli: Cli, tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", scored_rows().drop_columns(["outcome"]))
    ran = cli("eval", path)
    assert ran.code == 3, ran
    assert ran.line.endswith("s.parquet: column 'outcome' is missing; it is made by `entropyctl score --reward`")


def test_a_threshold_that_is_missed_is_status_10(cli: Cli, tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", graded())
    assert cli("eval", path, "--fail-under", "0.31").code == 0
    ran = cli("eval", path, "--fail-under", "0.32", "-o", "e.parquet")
    assert ran.code == 10, ran
    assert ran.line == "entropyctl eval: avg@n is 0.3125, below --fail-under 0.32"
    assert (tmp_path / "e.parquet").exists()
