"""The formulas follow: sympy proves them, and what entropyctl computes with agrees in numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from entropyctl.laws import derivation

from .conftest import ROOT, Cli

pytest.importorskip("sympy")


def test_every_statement_is_proved_and_agrees_in_numbers(cli: Cli) -> None:
    ran = cli("fit-law", "--derive", "--json")
    assert ran.code == 0, ran
    found = {one["name"]: one for one in json.loads(ran.out)["derived"]}
    assert list(found) == [
        *("ceiling", "slope", "least squares", "variance of the ceiling"),
        *("lemma 3.1", "theorem 3.2", "theorem 3.3", "corollary 3.4"),
        *("mean score", "entropy mechanism", "sign and least value"),
    ]
    assert all(one["proved"] and one["holds"] and one["difference"] < 1e-9 for one in found.values()), ran
    assert found["slope"]["latex"] == "- a e^{H}"
    assert found["theorem 3.2"]["derived"] == "-p*(H + log(p))"
    told = cli("fit-law", "--derive")
    assert "theorem 3.3: dz = eta r A (e_k - p):  dH = -eta r A (S* - E[S])" in told.text
    assert told.text.count("[proved by sympy; numbers differ by ") == 11


@pytest.mark.parametrize(
    ("function", "names"),
    [("s_star", {"sign"}), ("centred_score", {"mean"}), ("predicted_change", {"one step"})],
)
def test_a_function_that_computes_something_else_is_seen(
    monkeypatch: pytest.MonkeyPatch, function: str, names: set[str]
) -> None:
    right = getattr(derivation, function)
    monkeypatch.setattr(derivation, function, lambda *args, **options: np.asarray(right(*args, **options)) + 1e-3)
    wrong = {name for name, difference in derivation._numbers().items() if difference > derivation.TOLERANCE}
    assert wrong == names


def test_without_sympy_the_extra_is_named() -> None:
    script = "import sys; sys.modules['sympy'] = None\nfrom entropyctl.cli import main\nsys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", script, "fit-law", "--derive"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2 and "pip install 'entropyctl[derive]'" in ran.stderr, ran
