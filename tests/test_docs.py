"""docs/METHODS.md is what the docstrings say, and leaves no method out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from entropyctl import registry

from .conftest import ROOT
from .test_packaging import copy_of_the_checkout

PAGE = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
TITLES = {"advantages": "Advantages and reward shaping", "masks": "Masks", "objectives": "Objectives"}
METHODS = [
    (room, name) for room in TITLES for name in registry.names(room) if registry.source_file(room, name) is not None
]


def generate(*flags: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # -P: only the generator itself may find the package, as for a reader who runs it.
    command = [sys.executable, "-P", "docs/generate.py", *flags]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def table(room: str) -> list[list[str]]:
    """The cells of a room's table, heading first."""
    lines = PAGE.partition(f"\n## {TITLES[room]}\n")[2].partition("\n### ")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_page_is_what_the_docstrings_say() -> None:
    ran = generate("--check")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), ran


def test_a_changed_docstring_is_noticed_and_written(tmp_path: Path) -> None:
    root = copy_of_the_checkout(tmp_path / "checkout")
    page, method = root / "docs" / "METHODS.md", root / "entropyctl" / "masks" / "clip_v.py"
    method.write_text(method.read_text().replace("Shipped by: Trinity-RFT.", "Shipped by: nobody."))
    ran = generate("--check", root=root)
    assert (ran.returncode, "METHODS.md is not what the docstrings say" in ran.stdout) == (1, True), ran
    assert (generate(root=root).returncode, "nobody." in page.read_text()) == (0, True)
    method.write_text(method.read_text().replace("Shipped by: nobody.", ""))
    ran = generate(root=root)
    assert (ran.returncode, ran.stdout) == (1, "masks/clip-v: its docstring lacks Shipped by\n"), ran


@pytest.mark.parametrize("room", TITLES)
def test_every_method_has_a_row_and_every_row_is_whole(room: str) -> None:
    heading, _, *rows = table(room)
    assert heading == [
        *("Name", "What it is", "Paper", "What it does to entropy, by theory", "Columns", "Defaults"),
        *("Shipped by", "Verified against"),
    ]
    assert [re.findall(r"\[(.*?)\]", row[0])[0] for row in rows] == [name for at, name in METHODS if at == room]
    for row in rows:
        assert len(row) == len(heading), row
        assert all(row[i] for i in (1, 2, 3, 4, 6, 7)) or row[0].startswith("[none]"), row


def test_a_row_says_what_the_method_says() -> None:
    row = next(row for row in table("masks") if row[0] == "[clip-v](#masks-clip_v)")
    assert row[1] == r"drop tokens whose S\* lies far below its vocabulary mean E\[S\]."
    assert row[2].endswith("Large Language Models, [arXiv 2602.03392](https://arxiv.org/abs/2602.03392)")
    assert row[4] == "`s_star`, `expected_s`, `advantages`, `loss_mask`"
    assert row[5] == "`--mu=8.5` `--variant=trinity`"
    assert row[6] == "Trinity-RFT."


@pytest.mark.parametrize(("room", "name"), METHODS)
def test_every_method_has_a_section(room: str, name: str) -> None:
    anchor = f"{room}-{registry.function_name(name)}"
    section = PAGE.partition(f'### <a id="{anchor}"></a>{name}\n')[2].partition("\n### ")[0]
    assert "```text\n" in section and (name == "none" or re.search(r"\*\*(Paper|Source)\.\*\* ", section)), name
    assert f"(#{anchor})" in PAGE


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/METHODS.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
