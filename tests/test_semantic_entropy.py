"""`entropyctl eval` measures how a problem's probability is spread over its different answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.dynamics.semantic_entropy import semantic_entropy
from entropyctl.inputs import cluster, group
from entropyctl.laws.evaluate import evaluate
from entropyctl.table.rows import read_rows

from .conftest import Cli, scored_rows, write_scored


def responses(
    outcome: list[str], predicted: list[str | None], logprobs: list[list[float] | None] | None = None, **more: list
) -> pa.Table:
    """Responses to problem p."""
    count = len(outcome)
    columns = {
        "step": pa.array([1] * count, pa.int64()),
        "prompt_id": ["p"] * count,
        "sample": pa.array(range(count), pa.int32()),
        "outcome": outcome,
        "predicted": pa.array(predicted, pa.string()),
    }
    if logprobs is not None:
        columns["logprobs"] = pa.array(logprobs, pa.list_(pa.float32()))
    return pa.table(columns | more)


def measured(*steps: pa.Table) -> list[tuple[float | None, str | None]]:
    return [(r["semantic_entropy"], r["semantic_entropy_of"]) for r in evaluate(steps).to_pylist()]


def test_without_log_probabilities_answers_weigh_by_their_number() -> None:
    # Clusters of 4 (correct, however it was written), 3 and 1 of 8 responses: ln2/2 + (3/8) ln(8/3) + ln8/8.
    outcome = ["correct"] * 4 + ["wrong"] * 4
    found = measured(responses(outcome, ["3", "3", "3.0", "6/2", "5", "5", "5", "6"]))
    assert found == [(pytest.approx(0.974314753), "counts")]


def test_a_response_without_an_answer_is_an_answer_of_its_own() -> None:
    # 1, 2, 2, 1, 1, 1 of 8: 4 (ln 8) / 8 + 2 (ln 4) / 4.
    outcome = ["correct", "wrong", "wrong", "wrong", "wrong", "unparsable", "timeout", "error"]
    found = measured(responses(outcome, ["7", "9", "9", "8", "8", None, None, None]))
    assert found == [(pytest.approx(math.log(8) / 2 + math.log(4) / 2), "counts")]


def test_with_log_probabilities_answers_weigh_by_the_mean_per_token() -> None:
    # Means -0.2, -0.3, -0.25, -0.5 in clusters {1, 2}, {3}, {4}: masses 0.529580, 0.264459, 0.205961.
    rows = responses(
        ["correct", "correct", "wrong", "wrong"],
        ["1", "1", "2", "3"],
        [[-0.2], [-0.1, -0.5], [-0.25, -0.25], [-0.5]],
    )
    assert measured(rows) == [(pytest.approx(1.013820, abs=1e-6), "logprobs")]


def test_tokens_that_are_not_counted_have_no_weight() -> None:
    masks = pa.array([[True, False], [True, True]], pa.list_(pa.bool_()))
    rows = responses(["correct", "wrong"], ["1", "2"], [[-0.5, -90.0], [-0.25, -0.75]], loss_mask=masks)
    assert measured(rows) == [(pytest.approx(math.log(2)), "logprobs")]


def test_one_response_without_log_probabilities_turns_all_into_counts() -> None:
    whole = responses(["correct", "wrong"], ["1", "2"], [[-0.1], [-9.0]])
    half = responses(["correct", "wrong"], ["1", "2"], [[-0.1], None], prompt_id=["q", "q"])
    assert measured(whole)[0][1] == "logprobs"
    assert measured(whole, half) == [(pytest.approx(math.log(2)), "counts")] * 2


def test_agreement_is_zero_and_long_responses_do_not_underflow() -> None:
    agree = responses(["correct"] * 2, ["1", "1"], [[-3.0], [-4.0]])
    assert measured(agree) == [(0.0, "logprobs")]
    unlikely = responses(["correct", "wrong"], ["1", "2"], [[-2000.0], [-2000.0]])
    assert measured(unlikely) == [(pytest.approx(math.log(2)), "logprobs")]


def test_a_grader_that_reads_no_answers_leaves_it_unknown() -> None:
    assert measured(responses(["correct", "wrong"], [None, None])) == [(None, None)]
    assert measured(responses(["correct", "wrong"], [None, None]).drop_columns(["predicted"])) == [(None, None)]


def test_steps_of_one_problem_are_one_set_of_answers() -> None:
    rows = responses(["correct", "wrong", "wrong", "error"], ["1", "2", "2", None], [[-0.5], [-1.0], [-1.5], [-2.0]])
    [(whole, _)] = measured(rows)
    assert measured(rows.slice(0, 1), rows.slice(1, 2), rows.slice(3)) == [(pytest.approx(whole), "logprobs")]


def test_the_command_writes_what_the_function_computes(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(groups=5, samples=6)
    ran = cli("eval", write_scored(tmp_path / "s.parquet", rows), "-q", "-o", "e.parquet")
    assert ran.code == 0, ran
    logprob_B = np.array([np.mean(one) for one in rows["logprobs"].to_pylist()])
    expected = semantic_entropy(group(rows), cluster(rows), logprob_B).entropy_G
    written = read_rows(str(tmp_path / "e.parquet")).rows
    np.testing.assert_allclose(written["semantic_entropy"].to_pylist(), expected, rtol=1e-6)
    assert set(written["semantic_entropy_of"].to_pylist()) == {"logprobs"}
