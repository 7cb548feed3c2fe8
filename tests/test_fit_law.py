"""R = -a e^H + b is fitted exactly, with intervals that cover, and says what it cannot know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.errors import InputError
from entropyctl.laws import fit_law
from entropyctl.table import new_record, write
from entropyctl.table.columns import column_from
from entropyctl.table.rows import read_rows
from entropyctl.table.schema import load_schema

from .conftest import Cli

# Qwen2.5-7B on mathematics, read off figure 7 of arXiv 2505.22617.
A, B = 0.210, 0.598


def published(entropy: np.ndarray) -> np.ndarray:
    return -A * np.exp(entropy) + B


def test_points_on_the_published_curve_give_the_published_numbers() -> None:
    entropy = np.array([0.9, 0.6, 0.4, 0.2, 0.1, 0.05])
    fit = fit_law(entropy, published(entropy))
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.210, 0.598, 0.388), abs=1e-12)
    assert fit.rmse < 1e-12
    assert fit.r2 == pytest.approx(1)
    assert fit.points == 6
    assert fit.predict(np.array([0.0]))[0] == pytest.approx(0.388)


def test_a_worked_example() -> None:
    # x = e^H = 1, 2, 3, 4 and R = 3, 2, 2, 1: Sxx = 5, Sxy = -3, so a = 0.6 and b = 2 + 0.6 * 2.5.
    # Residuals 0.1, -0.3, 0.3, -0.1: SSE = 0.2, s^2 = 0.1; t of 2 degrees of freedom at 95 % is 4.302652730.
    fit = fit_law(np.log([1, 2, 3, 4]), [3, 2, 2, 1])
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.6, 3.5, 2.9))
    assert fit.rmse == pytest.approx(0.2236067977)
    assert fit.r2 == pytest.approx(0.9)
    half_a = 4.302652730 * (0.1 / 5) ** 0.5
    half_b = 4.302652730 * (0.1 * (1 / 4 + 2.5**2 / 5)) ** 0.5
    half_ceiling = 4.302652730 * (0.1 * (1 / 4 + 1.5**2 / 5)) ** 0.5
    assert fit.a_interval == pytest.approx((0.6 - half_a, 0.6 + half_a))
    assert fit.b_interval == pytest.approx((3.5 - half_b, 3.5 + half_b))
    assert fit.ceiling_interval == pytest.approx((2.9 - half_ceiling, 2.9 + half_ceiling))


def test_the_95_percent_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(20240607)
    entropy = np.array([1.2, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
    draws, covered = 2000, np.zeros(3)
    for _ in range(draws):
        fit = fit_law(entropy, published(entropy) + rng.normal(0, 0.02, len(entropy)))
        truths = zip((A, B, B - A), (fit.a_interval, fit.b_interval, fit.ceiling_interval), strict=True)
        covered += [low <= truth <= high for truth, (low, high) in truths]
    # Three standard errors of a share of 0.95 in 2000 draws are 0.015.
    assert (abs(covered / draws - 0.95) < 0.015).all(), covered / draws


def test_a_wider_level_gives_a_wider_interval() -> None:
    points = np.log([1, 2, 3, 4]), [3, 2, 2, 1]
    narrow, wide = fit_law(*points, confidence=0.5), fit_law(*points, confidence=0.99)
    assert narrow.a_interval is not None and wide.a_interval is not None
    assert wide.a_interval[0] < narrow.a_interval[0] < narrow.a_interval[1] < wide.a_interval[1]


def test_one_further_measurement_lies_in_its_prediction_interval_95_times_in_100() -> None:
    rng = np.random.default_rng(5)
    entropy, ahead, draws, inside = np.array([1.2, 1.1, 1.0, 0.9, 0.8]), np.array([0.1]), 2000, 0
    for _ in range(draws):
        low, high = fit_law(entropy, published(entropy) + rng.normal(0, 0.02, 5)).prediction_interval(ahead)
        inside += int(low[0] <= published(ahead)[0] + rng.normal(0, 0.02) <= high[0])
    assert abs(inside / draws - 0.95) < 0.015, inside / draws


@pytest.mark.parametrize(
    ("entropy", "performance", "words"),
    [
        ([0.5], [0.1], r"1 point\(s\) of entropy and performance; a law needs at least three"),
        ([0.5, 0.6], [0.1, 0.2], "2 point.* two are always fitted exactly"),
        ([], [], r"0 point\(s\)"),
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], "performance does not fall as e.H grows: a = -?0 "),
        ([0.1, 0.2, 0.3], [1 / 3, 1 / 3 + 1e-16, 1 / 3], "performance does not fall"),
        ([0.1, 0.5, 0.9], [0.1, 0.3, 0.6], r"a = -0.3692 \(95 % interval .* and the law needs a > 0"),
        ([0.3, 0.3 + 1e-12, 0.3], [0.1, 0.2, 0.3], "all 3 points have the entropy 0.3"),
        ([0.5, -0.6, 0.2], [0.1, 0.2, 0.3], "point 2 has H = -0.6, which is no entropy"),
        ([0.5, 0.6, 400], [0.3, 0.2, 0.1], "point 3 has H = 400, which is no entropy"),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], "all 3 points have the entropy 0.5"),
        ([0.5, float("nan")], [0.1, 0.2], "point 2 is .H nan, R 0.2."),
        ([0.5, 0.6], [float("inf"), 0.2], "point 1 is .H 0.5, R inf."),
    ],
)
def test_points_that_carry_no_law_are_refused_in_words(
    entropy: list[float], performance: list[float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        fit_law(entropy, performance, path="x.csv")


def write_metrics(path: Path, entropy: list[float], reward: list[float | None], versions: list[int]) -> Path:
    with write(str(path), "metrics", new_record("update", {})) as sink:
        for step, row in enumerate(zip(entropy, reward, versions, strict=True)):
            columns = {
                "step": pa.array([step], pa.int64()),
                "policy_version": pa.array([row[2]], pa.int64()),
                "entropy": pa.array([row[0]], pa.float64()),
                "reward": pa.array([row[1]], pa.float64()),
                "tokens": pa.array([1000], pa.int64()),
            }
            sink.put(step, pa.table(columns))
    return path


def write_evals(path: Path, rows: list[tuple[int, int, int, float | None, int]]) -> Path:
    """Rows of (policy version, n, c, entropy, tokens)."""
    filled = {"majority_correct": None, "predictions": [], "data_source": None}
    zeros = {"truncated": 0, "unparsable": 0, "timeout": 0, "error": 0}
    made = [
        {"prompt_id": str(i), "policy_version": v, "n": n, "c": c, "entropy": h, "tokens": t, **filled, **zeros}
        for i, (v, n, c, h, t) in enumerate(rows)
    ]
    columns = load_schema("evals").columns
    with write(str(path), "evals", new_record("eval", {})) as sink:
        sink.put(0, pa.table({c.name: column_from([row.get(c.name) for row in made], c.arrow_type) for c in columns}))
    return path


def test_metrics_alone_give_a_point_for_each_step(cli: Cli, tmp_path: Path) -> None:
    entropy = [0.9, 0.6, 0.3]
    metrics = write_metrics(tmp_path / "m.parquet", entropy, list(published(np.array(entropy))), [0, 1, 2])
    ran = cli("fit-law", metrics, "--json", "--quiet")
    law = json.loads(ran.out)
    assert (law["a"], law["b"], law["ceiling"]) == pytest.approx((0.210, 0.598, 0.388)), ran
    assert law["points"] == 3 and law["confidence"] == 0.95


def test_evals_take_the_entropy_of_their_own_tokens(cli: Cli, tmp_path: Path) -> None:
    # Version 0: entropies ln 2 and ln 4 weighted 3 to 1, pass@1 (0.25 + 0.5) / 2. Version 1: ln 2, pass@1 0.75.
    rows = [(0, 4, 1, np.log(2), 300), (0, 4, 2, np.log(4), 100), (1, 4, 3, np.log(2), 10), (2, 4, 4, 0.1, 10)]
    metrics = write_metrics(tmp_path / "m.parquet", [5.0, 6.0], [0.0, 0.0], [0, 1])
    ran = cli("fit-law", metrics, write_evals(tmp_path / "e.parquet", rows), "--json")
    law = json.loads(ran.out)
    assert law["entropy"] == pytest.approx([1.25 * np.log(2), np.log(2), 0.1]), ran
    assert law["performance"] == [0.375, 0.75, 1.0]
    assert law["policy_version"] == [0, 1, 2]
    assert ran.line == "entropyctl: fit-law: entropies of the evaluations themselves"


def test_evals_without_entropies_are_joined_to_the_metrics_by_policy_version(cli: Cli, tmp_path: Path) -> None:
    rows = [(0, 4, 1, None, 1), (1, 4, 2, 0.1, 1), (2, 4, 3, None, 1), (3, 4, 3, None, 1)]
    evals = write_evals(tmp_path / "e.parquet", rows)
    metrics = write_metrics(tmp_path / "m.parquet", [0.8, 0.6, 0.5], [None, None, None], [0, 1, 3])
    ran = cli("fit-law", metrics, evals, "--json")
    law = json.loads(ran.out)
    assert (law["entropy"], law["performance"]) == ([0.8, 0.6, 0.5], [0.25, 0.5, 0.75]), ran
    assert "entropies of the metrics, by policy version" in ran.err
    assert "policy version 2 has no entropy and was left out" in ran.err
    alone = cli("fit-law", evals)
    assert alone.code == 3 and "add the run's metrics table" in alone.line, alone


def test_performance_may_be_pass_at_k(cli: Cli, tmp_path: Path) -> None:
    evals = write_evals(tmp_path / "e.parquet", [(0, 8, 1, 0.9, 1), (1, 8, 4, 0.5, 1), (2, 8, 8, 0.4, 1)])
    law = json.loads(cli("fit-law", evals, "--metric", "pass@4", "--json").out)
    assert law["performance"] == pytest.approx([0.5, 0.985714285714, 1.0])
    ran = cli("fit-law", evals, "--metric", "pass@9")
    assert ran.code == 2 and "problem 0 of policy version 0 has n = 8 responses" in ran.line, ran
    ran = cli("fit-law", evals, "--metric", "accuracy")
    assert ran.code == 2 and "must be pass@K" in ran.line, ran


def test_a_problem_that_was_evaluated_again_counts_as_it_was_last(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    write_evals(tmp_path / "h" / "1.parquet", [(0, 8, 1, 0.9, 1), (1, 8, 4, 0.5, 1), (2, 8, 8, 0.4, 1)])
    write_evals(tmp_path / "h" / "2.parquet", [(0, 16, 4, 0.9, 1)])
    assert json.loads(cli("fit-law", tmp_path / "h", "--json", "-q").out)["performance"] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_any_table_with_two_columns(cli: Cli, tmp_path: Path, name: str) -> None:
    entropy = [0.9, 0.5, 0.1]
    rows = [{"H": h, "R": float(r)} for h, r in zip(entropy, published(np.array(entropy)), strict=True)]
    rows.append({"H": 0.2, "R": None})
    path = tmp_path / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        comma = "," if name.endswith(".csv") else "\t"
        lines = [comma.join(rows[0]), *(comma.join("" if v is None else str(v) for v in r.values()) for r in rows)]
        path.write_text("\n".join(lines) + "\n")
    ran = cli("fit-law", path, "--entropy", "H", "--performance", "R", "-o", "law.parquet")
    assert ran.code == 0, ran
    assert ran.text.startswith("R = -0.21 e^H + 0.598   (3 points of H 0.1 to 0.9, rmse ")
    assert "1 row(s) without 'H' or 'R' were left out" in ran.err
    _, law, header = read_rows(str(tmp_path / "law.parquet"))
    assert law.column_names == [column.name for column in load_schema("laws").columns]
    assert law.to_pylist()[0]["ceiling"] == pytest.approx(0.388)
    assert [record["stage"] for record in header.chain] == ["unknown", "fit-law"]
    assert header.chain[-1]["inputs"][0]["path"] == str(path)


def write_csv(path: Path, *points: tuple[object, object]) -> Path:
    path.write_text("".join(f"{h},{r}\n" for h, r in (("H", "R"), *points)))
    return path


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(0.5, 0.1)], "1 point(s) of entropy and performance"),
        ([(0.5, 0.1), (0.4, 0.2)], "2 point(s) of entropy and performance"),
        ([(0.1, 0.1), (0.5, 0.3), (0.9, 0.6)], "performance does not fall as e^H grows"),
        ([(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)], "all 3 points have the entropy 0.5"),
        ([(0.5, 0.1), ("nan", 0.2), (0.1, 0.2)], "point 2 is (H nan, R 0.2)"),
        ([("high", 0.1), ("low", 0.2)], "column 'H' is string; it must hold numbers"),
    ],
)
def test_points_without_a_law_are_bad_input(
    cli: Cli, tmp_path: Path, points: list[tuple[object, object]], words: str
) -> None:
    path = write_csv(tmp_path / "p.csv", *points)
    ran = cli("fit-law", path, "--entropy", "H", "--performance", "R", "-q", "-o", "law.parquet")
    assert ran.code == 3 and words in ran.line and "p.csv: " in ran.line, ran
    assert not (tmp_path / "law.parquet").exists()


def test_flags_that_do_not_fit_the_input_are_usage_errors(cli: Cli, tmp_path: Path, scored: Path) -> None:
    path = write_csv(tmp_path / "p.csv", (0, 0.5), (0.5, 0.3))
    for args, words in [
        ([path], "is no table of entropyctl's; name two of its columns with --entropy and --performance (it has H, R)"),
        ([path, "--entropy", "H"], "give both or neither"),
        ([path, "--entropy", "H", "--performance", "R", "--metric", "pass@1"], "--metric chooses what evals stand for"),
        ([path, "--entropy", "H", "--performance", "R", "--confidence", "95"], "must lie between 0 and 1"),
        ([scored], "is a table of scored"),
    ]:
        ran = cli("fit-law", *args)
        assert ran.code == 2 and words in ran.line, ran
    ran = cli("fit-law", path, "--entropy", "h", "--performance", "R")
    assert ran.code == 3 and "has no column 'h'; it has H, R" in ran.line, ran
