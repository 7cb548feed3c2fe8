"""Residuals speak up where the law's intervals would mislead, and as seldom as they say where they would not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entropyctl.laws import fit_law
from entropyctl.laws.residuals import Diagnostics, diagnose

from .conftest import Cli

ENTROPY = np.linspace(1.2, 0.05, 12)


def seen(performance: np.ndarray, entropy: np.ndarray = ENTROPY) -> Diagnostics:
    return diagnose(entropy, performance, fit_law(entropy, performance).line)


def law(entropy: np.ndarray = ENTROPY) -> np.ndarray:
    return -0.210 * np.exp(entropy) + 0.598


@pytest.mark.parametrize("points", [4, 12])
def test_independent_residuals_raise_an_alarm_five_times_in_a_hundred(points: int) -> None:
    rng = np.random.default_rng(7)
    entropy = np.linspace(1.2, 0.05, points)
    found = [seen(law(entropy) + rng.normal(0, 0.01, points), entropy) for _ in range(1500)]
    for name in ("dependence_p", "curvature_p", "outlier_p"):
        values = np.array([getattr(one, name) for one in found])
        # Three standard errors of a share of 0.05 in 1500 draws are 0.017.
        assert abs((values < 0.05).mean() - 0.05) < 0.017, (name, (values < 0.05).mean())
        assert np.isfinite(values).all()


def test_the_durbin_watson_probability_is_that_of_simulated_residuals() -> None:
    rng = np.random.default_rng(3)
    wave = law() + 0.01 * np.sin(np.arange(12) / 2)
    one = seen(wave)
    drawn = [seen(law() + rng.normal(0, 0.01, 12)).durbin_watson for _ in range(4000)]
    assert one.durbin_watson is not None and one.dependence_p is not None
    assert one.dependence_p < 0.01
    middle = seen(law() + 0.01 * np.array([1, -1, 2, -2, 3, 3, -1, 0, 2, -1, -3, 1.0]))
    assert middle.durbin_watson is not None
    share = float((np.array(drawn) <= middle.durbin_watson).mean())
    assert middle.dependence_p == pytest.approx(share, abs=0.025) and 0.1 < share < 0.9


def test_many_points_take_the_normal_limit() -> None:
    rng = np.random.default_rng(2)
    entropy = np.linspace(1.2, 0.05, 590)
    noise = rng.normal(0, 0.01, 601)
    exact = seen(law(entropy) + noise[:590], entropy)
    entropy = np.linspace(1.2, 0.05, 601)
    limit = seen(law(entropy) + noise, entropy)
    assert exact.dependence_p == pytest.approx(limit.dependence_p, abs=0.15)
    slow = seen(law(entropy) + np.cumsum(noise) / 10, entropy)
    assert slow.dependence_p is not None and slow.dependence_p < 1e-6


def test_a_bend_is_seen() -> None:
    one = seen(law() + 0.05 * (np.exp(ENTROPY) - 2) ** 2 + 0.001 * np.cos(7 * np.arange(12)))
    assert one.curvature_p is not None and one.curvature_p < 1e-4


def test_a_point_off_the_others_is_named_with_the_p_of_a_fit_without_it() -> None:
    performance = law() + 0.002 * np.cos(5 * np.arange(12))
    performance[4] += 0.05
    one = seen(performance)
    # The t of a prediction of the point from the eleven others, with 9 degrees of freedom.
    others = np.delete(np.arange(12), 4)
    without = fit_law(ENTROPY[others], performance[others])
    half = float(without.line.half_width(np.exp(ENTROPY[4]), 0.95, new=True)) / 2.2621571628
    t = (performance[4] - without.predict(ENTROPY[4:5])[0]) / half
    from scipy.special import stdtr

    assert one.outlier == 4
    assert one.outlier_p == pytest.approx(12 * 2 * stdtr(9, -abs(t)), rel=1e-6)


def test_the_ceilings_without_one_point_are_those_of_fits_without_it() -> None:
    performance = law() + 0.01 * np.cos(5 * np.arange(12))
    ceilings = [fit_law(np.delete(ENTROPY, i), np.delete(performance, i)).ceiling for i in range(12)]
    one, ceiling = seen(performance), fit_law(ENTROPY, performance).ceiling
    assert one.ceiling_without == pytest.approx((min(ceilings), max(ceilings)))
    assert one.ceiling_mover == int(np.abs(np.array(ceilings) - ceiling).argmax())


def test_points_on_the_law_leave_nothing_to_test() -> None:
    assert seen(law())[:5] == (None, None, None, None, None)


def test_two_entropies_carry_a_law_and_no_bend() -> None:
    one = seen(np.array([0.10, 0.12, 0.30, 0.31]), np.array([0.9, 0.9, 0.1, 0.1]))
    assert one.curvature_p is None and one.dependence_p is not None


def test_the_command_says_what_speaks_against_its_intervals(cli: Cli, tmp_path: Path) -> None:
    performance = law() + 0.05 * (np.exp(ENTROPY) - 2) ** 2 + 0.001 * np.cos(7 * np.arange(12))
    rows = [f"{2 * i},{h},{r}" for i, (h, r) in enumerate(zip(ENTROPY, performance, strict=True))]
    (tmp_path / "bent.csv").write_text("step,H,R\n" + "\n".join(rows) + "\n")
    ran = cli("fit-law", "bent.csv", "--entropy", "H", "--performance", "R")
    assert ran.code == 0, ran
    assert "Residuals are bent (a term in e^2H has p" in ran.text, ran
    assert "Residuals are like the ones before them (Durbin-Watson" in ran.text, ran
    assert "Without the point at step 0 the ceiling would lie outside its interval" not in ran.text, ran
    performance = law()
    performance[0] += 0.2
    rows = [f"{2 * i},{h},{r}" for i, (h, r) in enumerate(zip(ENTROPY, performance, strict=True))]
    (tmp_path / "off.csv").write_text("step,H,R\n" + "\n".join(rows) + "\n")
    ran = cli("fit-law", "off.csv", "--entropy", "H", "--performance", "R")
    assert "The point at step 0 lies off the others (p 0)" in ran.text or "step 0 lies off the others" in ran.text, ran
