"""What a method remembers from step to step: once per step, whatever is run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entropyctl.errors import InputError, MismatchError
from entropyctl.memory import Memory


def test_a_step_starts_from_the_state_after_the_one_before(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    memory = Memory(path, "mask m", {"k": 1.0})
    assert memory.before(1) == {}
    memory.remember(1, {"integral": 0.5})
    memory.remember(4, {"integral": 0.75})
    assert memory.before(1) == {}
    assert memory.before(2) == memory.before(4) == {"integral": 0.5}
    assert Memory(path, "mask m", {"k": 1.0}).before(9) == {"integral": 0.75}


def test_running_a_step_again_replaces_what_it_left(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    for _ in range(3):
        memory = Memory(path, "mask m", {})
        memory.remember(5, {"integral": memory.before(5).get("integral", 0.0) + 0.1})
    assert Memory(path, "mask m", {}).before(6) == {"integral": 0.1}


def test_a_step_that_comes_late_says_that_later_ones_do_not_know_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory(str(tmp_path / "state.json"), "mask m", {})
    for step in (1, 4, 5):
        memory.remember(step, {"x": step / 10})
    memory.remember(4, {"x": 0.4})  # run again, and the same
    assert capsys.readouterr().err == ""
    memory.remember(2, {"x": 0.3})
    memory.remember(3, {"x": 0.3})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert "state.json: step 2 came after step 5, which started without what it left" in said[0]


def test_without_a_file_the_state_lasts_for_the_run(tmp_path: Path) -> None:
    memory = Memory(None, "mask m", {})
    memory.remember(1, {"x": 1.0})
    memory.remember(2, None)
    assert memory.before(3) == {"x": 1.0}


def test_a_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    Memory(path, "mask m", {"k": 1.0}).remember(1, {"x": 1.0})
    with pytest.raises(MismatchError, match=r'state.json: was kept for params \{"k": 1.0\}, not \{"k": 2.0\}'):
        Memory(path, "mask m", {"k": 2.0})
    with pytest.raises(MismatchError, match='was kept for stage "mask m", not "mask n"'):
        Memory(path, "mask n", {"k": 1.0})


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"steps": 3}', '{"stage": "mask m", "params": {}, "steps": {"1": {"x": "NaN"}}}', "\x00"],
)
def test_a_file_that_is_no_state_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"state.json: (is no state of a method|holds a state that is no number)"):
        Memory(str(path), "mask m", {})


def test_the_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    Memory(str(path), "mask m", {"k": None}).remember(3, {"x": 2})
    assert json.loads(path.read_text()) == {"stage": "mask m", "params": {"k": None}, "steps": {"3": {"x": 2.0}}}
