"""The step size that a run's updates had, out of what was predicted and what happened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.dynamics import calibration
from entropyctl.errors import InputError
from entropyctl.laws.step_size import fit_step_size
from entropyctl.table import new_record, write

from .conftest import Cli


def history(predicted: list[float], realised: list[float], rate: float = 1e-6) -> dict[str, np.ndarray]:
    found = {"predicted_change": predicted, "realised_change": realised, "learning_rate": [rate] * len(predicted)}
    return {name: np.array(values, np.float64) for name, values in found.items()}


def test_a_worked_example() -> None:
    # sum p r = 1*2 + 2*5 + 3*7 = 33, sum p^2 = 14; residuals 2 - 33/14 and so on: SSE = 78 - 33^2 / 14 = 3/14.
    found = fit_step_size(history([1, 2, 3], [2, 5, 7]))
    half = 4.302652730 * (3 / 14 / 2 / 14) ** 0.5
    assert found.slope == pytest.approx(33 / 14)
    assert found.slope_interval == pytest.approx((33 / 14 - half, 33 / 14 + half))
    assert found.eta == pytest.approx(33e-6 / 14)
    assert found.explained == pytest.approx(1 - 3 / 14 / 78)
    # A line with a constant: slope 2.5, offset 14/3 - 5.
    assert found.offset == pytest.approx(-1 / 3)
    assert (found.same_sign, found.same_sign_p) == (3, pytest.approx(0.125))


def test_it_is_the_slope_that_the_forecast_calibrates_with() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.normal(0, 1e-7, 50)
    known = history(list(predicted), list(800 * predicted + rng.normal(0, 2e-5, 50)))
    found = fit_step_size(known)
    assert found.slope == calibration(known)
    assert found.slope_interval[0] < 800 < found.slope_interval[1]


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(8)
    predicted, inside, draws = np.array([-3.0, -2, -4, -1, 2, 1]), 0, 2000
    for _ in range(draws):
        low, high = fit_step_size(history(list(predicted), list(5 * predicted + rng.normal(0, 1, 6)))).slope_interval
        inside += int(low <= 5 <= high)
    assert abs(inside / draws - 0.95) < 0.015, inside / draws


def test_steps_without_a_prediction_are_left_out() -> None:
    known = history([1, float("nan"), 2, 0, 3], [2, 9, 5, 9, 7])
    assert fit_step_size(known).steps == 3
    assert fit_step_size(known).slope == pytest.approx(33 / 14)


@pytest.mark.parametrize(
    ("predicted", "realised", "words"),
    [
        ([1, 2], [1, 2], r"2 step\(s\) with a predicted and a realised change; a step size needs at least three"),
        ([0, 0, 0, 0], [1, 2, 3, 4], r"0 step\(s\)"),
        ([1, 2, 3], [-1, -2, -4], "do not follow the predicted ones: slope -1.214 .95 % interval"),
        ([1, 2, 3], [0, 0, 0], "do not follow the predicted ones: slope 0 "),
    ],
)
def test_steps_that_carry_no_step_size_are_refused(predicted: list[float], realised: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_step_size(history(predicted, realised), path="m")


def write_metrics(directory: Path, predicted: list[float], realised: list[float]) -> Path:
    directory.mkdir()
    for step, (p, r) in enumerate(zip(predicted, realised, strict=True), start=1):
        columns = {"step": [step], "entropy": [0.5], "entropy_after": [0.5 + r], "realised_change": [r]}
        columns |= {"predicted_change": [p], "learning_rate": [1e-6]}
        with write(str(directory / f"step-{step:06d}.parquet"), "metrics", new_record("update", {})) as sink:
            sink.put(
                step,
                pa.table({k: pa.array(v, pa.int64() if k == "step" else pa.float64()) for k, v in columns.items()}),
            )
    return directory


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics", [-1e-7, -2e-7, -3e-7, 1e-7], [-2e-4, -5e-4, -7e-4, 2e-4])
    ran = cli("fit-law", "--dynamics", metrics, "--json")
    found = json.loads(ran.out)
    slope = (2 + 10 + 21 + 2) / 15 * 1e3
    assert (found["slope"], found["eta"], found["steps"]) == pytest.approx((slope, slope * 1e-6, 4)), ran
    ran = cli("fit-law", "--dynamics", metrics)
    assert ran.text.startswith("realised dH = 2333 x predicted dH   (4 steps, 99"), ran
    assert "the same sign in 4 of 4 steps" in ran.text
    opposite = write_metrics(tmp_path / "opposite", [1e-7, 2e-7, 3e-7], [-1e-4, -2e-4, -3e-4])
    ran = cli("fit-law", "--dynamics", opposite)
    assert ran.code == 3 and "opposite: the realised changes of the entropy do not follow" in ran.line, ran
    ran = cli("fit-law", "--dynamics", metrics, opposite)
    assert ran.code == 2 and "--dynamics is of one run" in ran.line, ran
