"""Beginnings that predict ends, runs that share a curve, coefficients that grow with size, definitions that agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.errors import InputError, UsageError
from entropyctl.laws import fit_law
from entropyctl.laws.early import last_step, predict_rest
from entropyctl.laws.scaling import fit_scaling
from entropyctl.laws.shared_curve import shared_curve
from entropyctl.table import new_record, write
from entropyctl.table.rows import read_rows

from .conftest import Cli

# Read off figure 7 of arXiv 2505.22617, to +-0.005: ln of billions of parameters, a, b on mathematics; a, b on
# code. The ceilings are the plotted plateaus.
QWEN = {
    "0.5B": (-1.02, 0.043, 0.192, 0.036, 0.211),
    "1.5B": (0.27, 0.095, 0.352, 0.112, 0.360),
    "3B": (1.02, 0.176, 0.481, 0.140, 0.419),
    "7B": (1.87, 0.210, 0.598, 0.170, 0.517),
    "32B": (3.43, 0.236, 0.691, 0.194, 0.618),
}
CEILINGS = {"0.5B": 0.149, "1.5B": 0.257, "3B": 0.305, "7B": 0.388, "32B": 0.455}
CODE_CEILINGS = {"0.5B": 0.175, "1.5B": 0.248, "3B": 0.279, "7B": 0.348, "32B": 0.424}
ENTROPY = np.linspace(1.0, 0.02, 40)


def write_csv(path: Path, entropy: np.ndarray, performance: np.ndarray, steps: np.ndarray | None = None) -> Path:
    steps = np.arange(1, len(entropy) + 1) if steps is None else steps
    rows = [f"{s},{h!r},{r!r}" for s, h, r in zip(steps, entropy.tolist(), performance.tolist(), strict=True)]
    path.write_text("step,H,R\n" + "\n".join(rows) + "\n")
    return path


COLUMNS = ("--entropy", "H", "--performance", "R")


def test_the_published_ceilings_reappear_from_the_published_coefficients(cli: Cli, tmp_path: Path) -> None:
    runs = []
    for name, (ln_size, a, b, *_) in QWEN.items():
        path = write_csv(tmp_path / f"{name}.csv", ENTROPY, b - a * np.exp(ENTROPY))
        runs += ["--run", f"{name}={path}", "--size", f"{name}={np.exp(ln_size)}"]
    ran = cli("fit-law", *runs, *COLUMNS, "--predict-size", "14", "--json", "-q", "-o", "laws.parquet")
    found = json.loads(ran.out)
    for name, ceiling in CEILINGS.items():
        assert found["runs"][name]["ceiling"] == pytest.approx(ceiling, abs=1e-9), ran
    # a = .1005 + .0462 ln N, b = .3335 + .1161 ln N are least squares over these five models, before they were rounded.
    a, b = found["scaling"]["a"], found["scaling"]["b"]
    assert (a["intercept"], a["slope"]) == pytest.approx((0.1005, 0.0462), abs=3e-4)
    assert (b["intercept"], b["slope"]) == pytest.approx((0.3335, 0.1161), abs=3e-4)
    [ahead] = found["predicted"]
    assert ahead["ceiling"] == pytest.approx(0.3335 - 0.1005 + (0.1161 - 0.0462) * np.log(14), abs=1e-3)
    assert ahead["ceiling_low"] < 0.417 < ahead["ceiling_high"]
    rows = read_rows(str(tmp_path / "laws.parquet")).rows.to_pylist()
    assert [row["run"] for row in rows] == list(QWEN)
    assert [np.log(row["size"]) for row in rows] == pytest.approx([values[0] for values in QWEN.values()])


def test_the_published_coefficients_of_code_scale_too() -> None:
    ln_sizes, _, _, a, b = zip(*QWEN.values(), strict=True)
    found = fit_scaling(np.exp(ln_sizes), a, b).as_dict()
    assert (found["a"]["intercept"], found["a"]["slope"]) == pytest.approx((0.0912, 0.0351), abs=3e-4)
    assert (found["b"]["intercept"], found["b"]["slope"]) == pytest.approx((0.3230, 0.0918), abs=3e-4)
    for name, ceiling in CODE_CEILINGS.items():
        _, _, _, a_code, b_code = QWEN[name]
        # Digitised numbers are rounded to three places each.
        assert b_code - a_code == pytest.approx(ceiling, abs=1.1e-3)


def test_the_prediction_interval_of_a_further_model_covers_it_95_times_in_100() -> None:
    rng = np.random.default_rng(11)
    sizes, draws, inside = np.array([0.5, 1.5, 3, 7]), 2000, 0
    for _ in range(draws):
        b = 0.33 + 0.12 * np.log(sizes) + rng.normal(0, 0.02, 4)
        low, high = fit_scaling(sizes, 0.1 + 0 * sizes, b).predict(32)["b"][1]
        inside += int(low <= 0.33 + 0.12 * np.log(32) + rng.normal(0, 0.02) <= high)
    assert abs(inside / draws - 0.95) < 0.015, inside / draws


def test_sizes_that_carry_no_line_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 different size\(s\)"):
        fit_scaling([7, 7, 3], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    with pytest.raises(InputError, match="each must be above 0"):
        fit_scaling([7, 0, 3], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("until", "end"), [("36", 36), ("0.15", 36.85), ("15%", 36.85), (" 50% ", 120.5), ("300", 300), ("0.5%", 2.195)]
)
def test_what_until_means(until: str, end: float) -> None:
    assert last_step(until, range(1, 241)) == pytest.approx(end)


@pytest.mark.parametrize("until", ["1.5", "0.0", "150%", "soon", "-3", "nan", "1e-2x", ""])
def test_until_is_a_step_or_a_share(until: str) -> None:
    with pytest.raises(UsageError, match=r"must be a step such as 36, or a share of the run"):
        last_step(until, range(1, 241))


def test_the_first_15_percent_predict_the_rest() -> None:
    # The paper's own test: 36 of some 240 steps fitted, the other ones predicted to about a point of accuracy.
    rng = np.random.default_rng(4)
    steps = np.arange(1, 241)
    entropy = 0.05 + 0.9 * np.exp(-steps / 40)
    performance = 0.598 - 0.210 * np.exp(entropy) + rng.normal(0, 0.005, 240)
    law, ahead = predict_rest(entropy, performance, steps, "15%")
    first, rest = slice(0, 36), slice(36, None)
    assert law.a == fit_law(entropy[first], performance[first]).a
    error = law.predict(entropy[rest]) - performance[rest]
    assert ahead.points == 204
    assert ahead.rmse == pytest.approx(float(np.sqrt((error**2).mean())))
    assert 0.004 < ahead.rmse < 0.012
    assert (ahead.last, ahead.last_predicted) == pytest.approx((performance[-1], law.predict(entropy)[-1]))
    assert ahead.last_low < performance[-1] < ahead.last_high
    assert ahead.inside > 0.8 * 204


def test_the_command_predicts_a_run_from_its_beginning(cli: Cli, tmp_path: Path) -> None:
    # Rows out of order: points are taken in the order of their steps.
    noise = 0.002 * np.cos(3 * np.arange(40))
    turned = np.argsort(np.sin(np.arange(40)))
    performance = 0.598 - 0.210 * np.exp(ENTROPY) + noise
    path = write_csv(tmp_path / "run.csv", ENTROPY[turned], performance[turned], np.arange(0, 400, 10)[turned])
    ran = cli("fit-law", path, *COLUMNS, "--until", "100", "--json", "-o", "law.parquet")
    found, expected = json.loads(ran.out), fit_law(ENTROPY[:11], performance[:11])
    assert (found["a"], found["points"]) == pytest.approx((expected.a, 11)), ran
    assert found["step"] == list(range(0, 400, 10))
    residual = performance[:11] - expected.predict(ENTROPY[:11])
    watson = float((np.diff(residual) ** 2).sum() / (residual**2).sum())
    assert found["diagnostics"]["durbin_watson"] == pytest.approx(watson)
    assert found["prediction"]["points"] == 29 and found["prediction"]["until"] == 100
    row = read_rows(str(tmp_path / "law.parquet")).rows.to_pylist()[0]
    assert (row["until"], row["predicted_points"]) == (100, 29)
    assert row["prediction_rmse"] == pytest.approx(found["prediction"]["rmse"])
    told = cli("fit-law", path, *COLUMNS, "--until", "25%")
    assert "fitted up to step 97.5; over the 30 steps after 97.5: rmse 0.00" in told.text, told
    for until, code, words in [
        ("10", 3, "run.csv up to 10: 2 point(s) of entropy and performance"),
        ("390", 3, "all 40 points lie at or before 390; choose an earlier --until"),
        ("2.5", 2, "--until 2.5: must be a step such as 36, or a share"),
    ]:
        ran = cli("fit-law", path, *COLUMNS, "--until", until)
        assert ran.code == code and words in ran.err, ran


def test_the_f_tests_of_a_worked_example() -> None:
    # x = 1, 2, 3, 4 in both runs; R1 = 3, 2, 2, 1 (SSE 0.2, slope -0.6), R2 = R1 + 1 and so the same slope and SSE.
    # Together: slope -0.6, and each residual moves by 0.5: SSE = 0.4 + 8 * 0.25 = 2.4. F = (2.4 - 0.4) / 2 / (0.4 / 4).
    H = np.log([1, 2, 3, 4])
    found = shared_curve({"one": (H, [3, 2, 2, 1]), "two": (H, [4, 3, 3, 2])})
    curve, slope = found.one_curve, found.one_slope
    # P(F or more) is (1 + 2 F / 4)^-2 for 2 and 4 degrees of freedom.
    assert (curve.F, curve.p) == pytest.approx((10, 0.02777777778)) and curve.freedom == (2, 4)
    assert (slope.F, slope.p) == pytest.approx((0, 1), abs=1e-6) and slope.freedom == (1, 4)
    assert (found.pooled.a, found.pooled.b) == pytest.approx((0.6, 4.0))


def test_runs_of_one_curve_are_told_apart_five_times_in_a_hundred() -> None:
    rng = np.random.default_rng(9)
    apart, draws = np.zeros(2), 1500
    for _ in range(draws):
        runs = {}
        for name, H in (("grpo", ENTROPY[::4]), ("rloo", ENTROPY[5:30:5]), ("prime", ENTROPY[20:])):
            runs[name] = (H, 0.598 - 0.210 * np.exp(H) + rng.normal(0, 0.01, len(H)))
        found = shared_curve(runs)
        apart += [(found.one_curve.p or 0) < 0.05, (found.one_slope.p or 0) < 0.05]
    assert (abs(apart / draws - 0.05) < 0.017).all(), apart / draws


def test_the_command_says_whether_runs_share_a_curve(cli: Cli, tmp_path: Path) -> None:
    noise = 0.004 * np.cos(3 * np.arange(40))
    curve = 0.598 - 0.210 * np.exp(ENTROPY)
    grpo = write_csv(tmp_path / "grpo.csv", ENTROPY, curve + noise)
    rloo = write_csv(tmp_path / "rloo.csv", ENTROPY, curve + noise[::-1])
    other = write_csv(tmp_path / "other.csv", ENTROPY, curve + 0.05 + noise)
    ran = cli("fit-law", "--run", f"grpo={grpo}", "--run", f"rloo={rloo}", *COLUMNS)
    assert ran.code == 0 and "nothing here speaks against one curve (which is no proof of it)" in ran.text, ran
    ran = cli("fit-law", "--run", f"grpo={grpo}", "--run", f"other={other}", *COLUMNS)
    assert "no, one curve does not hold for all of these runs" in ran.text, ran
    assert "nothing here speaks against one a" in ran.text, ran
    rising = write_csv(tmp_path / "rising.csv", ENTROPY, -curve)
    ran = cli("fit-law", "--run", f"grpo={grpo}", "--run", f"up={rising}", *COLUMNS, "-q", "-o", "laws.parquet")
    assert ran.code == 3 and "run up: performance does not fall as e^H grows" in ran.line, ran
    assert not (tmp_path / "laws.parquet").exists()


def test_runs_that_rise_together_and_fall_alone_are_compared_all_the_same(cli: Cli, tmp_path: Path) -> None:
    wave = 0.002 * np.cos(3 * np.arange(40))
    small = write_csv(tmp_path / "small.csv", 0.1 * ENTROPY, 0.2 - 0.05 * np.exp(0.1 * ENTROPY) + wave)
    large = write_csv(tmp_path / "large.csv", 1 + 0.1 * ENTROPY, 0.9 - 0.05 * np.exp(1 + 0.1 * ENTROPY) + wave)
    args = ("fit-law", "--run", f"s={small}", "--run", f"l={large}", *COLUMNS)
    ran = cli(*args)
    assert ran.code == 0 and "one curve for all: none, together they do not fall with e^H" in ran.text, ran
    assert "no, one curve does not hold" in ran.text
    assert json.loads(cli(*args, "--json").out)["together"] is None


def test_a_ceiling_that_no_share_reaches_is_said(cli: Cli, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", np.array([0.9, 0.8, 0.7]), np.array([0.1, 0.5, 0.88]))
    ran = cli("fit-law", path, *COLUMNS)
    assert ran.code == 0 and "The ceiling is above 1, where no share of right answers lies" in ran.text, ran


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--run", "a=x.csv"], "several runs are compared; give at least two"),
        (["--run", "x.csv", "--run", "b=x.csv"], "--run x.csv: must be NAME=TABLE"),
        (["x.csv", "--run", "a=x.csv"], "--run: does not go with TABLE"),
        (["--run", "a=x.csv", "--until", "3"], "--run: does not go with --until"),
        (["x.csv", "--size", "a=3"], "--size: says how large the model of a --run is"),
        (["--run", "a=x", "--run", "b=x", "--size", "a=3"], "--size: run b has none"),
        (["--run", "a=x", "--run", "b=x", "--size", "c=3"], "there is no --run c; known: a, b"),
        (["--run", "a=x", "--run", "b=x", "--size", "a=big"], "--size a=big: must be NAME=N"),
        (["--run", "a=x", "--predict-size", "3"], "--predict-size: needs the sizes"),
        (["--run", "a=x", "--size", "a=1", "--predict-size", "-3"], "--predict-size -3: must be a finite number"),
        (["--dynamics", "--until", "3"], "--dynamics: does not go with --until"),
        (["--derive", "x.csv"], "--derive: does not go with TABLE"),
    ],
)
def test_flags_that_do_not_go_together(cli: Cli, args: list[str], words: str) -> None:
    ran = cli("fit-law", *args)
    assert ran.code == 2 and words in ran.line, ran


def write_metrics(path: Path, context: dict, table: str = "metrics") -> Path:
    entropy = [0.9, 0.6, 0.3, 0.1]
    with write(str(path), table, new_record("update", {}), context=context) as sink:
        for step, H in enumerate(entropy):
            columns: dict = {"step": [step], "policy_version": [step], "entropy": [H], "tokens": [1000]}
            columns |= {"reward": [0.598 - 0.210 * np.exp(H) + 0.001 * (-1) ** step]}
            sink.put(step, pa.table(columns))
    return path


def test_entropies_at_different_temperatures_do_not_belong_together(cli: Cli, tmp_path: Path) -> None:
    warm = write_metrics(tmp_path / "warm.parquet", {"sampling": {"temperature": 1.0}, "policies": {"0": "a"}})
    cool = write_metrics(tmp_path / "cool.parquet", {"sampling": {"temperature": 0.6}, "policies": {"0": "b"}})
    for args in ([warm, cool], ["--run", f"w={warm}", "--run", f"c={cool}"]):
        ran = cli("fit-law", *args, "-q")
        assert ran.code == 5 and "cool.parquet: sampling.temperature is 0.6, but " in ran.line, ran
        assert "or allow it with --allow-mismatch sampling.temperature" in ran.line
    ran = cli("fit-law", warm, cool, "-q", "--allow-mismatch", "sampling.temperature", "-o", "law.parquet")
    assert ran.code == 0, ran
    record = read_rows(str(tmp_path / "law.parquet")).header.chain[-1]
    assert record["allowed_mismatches"][0]["field"] == "sampling.temperature"
    ran = cli("fit-law", warm, "-q", "--allow-mismatch", "sampling.temprature")
    assert ran.code == 2 and "no input has this field" in ran.line, ran


def test_the_files_of_a_directory_belong_together_too(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    for name, temperature in (("step-1", 1.0), ("step-2", 0.6)):
        write_metrics(tmp_path / "metrics" / f"{name}.parquet", {"sampling": {"temperature": temperature}})
    ran = cli("fit-law", "metrics", "-q")
    assert ran.code == 5 and "step-2.parquet: sampling.temperature is 0.6, but " in ran.line, ran
    ran = cli("fit-law", "metrics", "-q", "--allow-mismatch", "sampling", "-o", "law.parquet")
    assert ran.code == 0, ran
    [allowed] = read_rows(str(tmp_path / "law.parquet")).header.chain[-1]["allowed_mismatches"]
    assert (allowed["field"], allowed["used"], allowed["value"]) == ("sampling.temperature", 1.0, 0.6)


def test_token_means_and_sequence_means_do_not_belong_together(cli: Cli, tmp_path: Path) -> None:
    ours = write_metrics(tmp_path / "ours.parquet", {})
    theirs = write_metrics(tmp_path / "theirs.parquet", {"entropy": {"mean": "sequence"}})
    ran = cli("fit-law", "--run", f"a={ours}", "--run", f"b={theirs}")
    assert ran.code == 5 and "theirs.parquet: entropy.mean is sequence, but " in ran.err, ran
    assert cli("fit-law", "--run", f"a={ours}", "--run", f"b={ours}").code == 0


def test_training_and_evaluated_responses_do_not_belong_together(cli: Cli, tmp_path: Path) -> None:
    from .test_fit_law import write_evals

    metrics = write_metrics(tmp_path / "m.parquet", {"sampling": {"temperature": 1.0}})
    evals = write_evals(tmp_path / "e.parquet", [(0, 8, 1, 0.9, 1), (1, 8, 4, 0.5, 1), (2, 8, 5, 0.4, 1)])
    ran = cli("fit-law", "--run", f"a={metrics}", "--run", f"b={evals}")
    assert ran.code == 5 and "entropy.responses is evaluated, but " in ran.err, ran
    bare = write_evals(tmp_path / "bare.parquet", [(0, 8, 1, None, 1), (1, 8, 4, None, 1), (2, 8, 5, None, 1)])
    # With the run's metrics beside them, the entropies are those of training; a name again adds a table.
    ran = cli("fit-law", "--run", f"a={metrics}", "--run", f"b={bare}", "--run", f"b={metrics}")
    assert ran.code == 0 and "b: entropies of the metrics, by policy version" in ran.err, ran
