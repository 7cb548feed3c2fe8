"""Files that released versions wrote stay readable. A new version of a table adds a folder here; none is remade."""

from __future__ import annotations

from pathlib import Path

import pytest

from entropyctl.table import read

from .conftest import ROOT, Cli

CORPUS = ROOT / "tests" / "golden" / "v1"
FIRST = {"outcome": "correct", "tokens": [13, 18, 14, 15], "s_star": [-0.00357761, -0.12099066, -0.01061632, -0.081166]}
REMOVED = 13


def test_version_1_at_rest(cli: Cli) -> None:
    assert cli("check", "--full", CORPUS / "scored.parquet").code == 0
    with read([str(CORPUS / "scored.parquet")]) as source:
        steps = list(source)
    assert [(s.number, s.rows.num_rows) for s in steps] == [(1, 12), (2, 12)]
    assert source.context["sampling"]["temperature"] == 1.0
    row = steps[0].rows.slice(0, 1).to_pylist()[0]
    assert (row["prompt_id"], row["sample"], row["outcome"]) == ("p0", 0, FIRST["outcome"])
    assert row["tokens"] == FIRST["tokens"]
    assert row["s_star"] == pytest.approx(FIRST["s_star"], abs=1e-7)


def test_version_1_in_a_pipe(cli: Cli, tmp_path: Path) -> None:
    ran = cli("mask", "none", "-o", "again.parquet", stdin=(CORPUS / "masked.arrows").read_bytes())
    assert ran.code == 0, ran
    with read([str(tmp_path / "again.parquet")]) as source:
        rows = next(iter(source)).rows
        assert [record["stage"] for record in source.chain] == ["score", "advantage grpo", "mask clip-v", "mask none"]
    masks = rows["loss_mask"].to_pylist()
    assert sum(len(m) - sum(m) for m in masks) == REMOVED
