"""Completion: stages first, methods after a stage that has some, and files by the shell itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from entropyctl import registry

from .conftest import Cli


@pytest.fixture
def complete(cli: Cli, tmp_path: Path):
    """What a real bash offers for the last of these words."""
    script = tmp_path / "completion.bash"
    script.write_bytes(cli("completion", "bash").out)

    def offered(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        program = f"""
            set -eu
            source '{script}'
            COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
            _entropyctl
            printf '%s\\n' ${{COMPREPLY[@]+"${{COMPREPLY[@]}}"}}
        """
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return offered


def test_bash_offers_the_stages(complete) -> None:
    assert complete("entropyctl", "ma") == ["mask"]
    assert set(complete("entropyctl", "")) == {*registry.names("stages"), "--help", "--version"}


def test_bash_offers_the_methods_of_a_stage(complete) -> None:
    assert complete("entropyctl", "mask", "clip") == ["clip-b", "clip-cov", "clip-v"]
    assert complete("entropyctl", "objective", "gm") == ["gmpo"]
    assert complete("entropyctl", "advantage", "gr") == ["grpo", "grpo-passk"]
    assert complete("entropyctl", "completion", "") == ["bash", "zsh", "fish"]


def test_bash_leaves_everything_else_to_its_file_names(complete, cli: Cli) -> None:
    assert complete("entropyctl", "mask", "clip-v", "") == []
    assert complete("entropyctl", "inspect", "") == []
    assert b"complete -o bashdefault -o default -F _entropyctl entropyctl" in cli("completion", "bash").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_names_every_stage_and_method(cli: Cli, shell: str) -> None:
    ran = cli("completion", shell)
    assert ran.code == 0, ran
    for name in (name for room in ("stages", "masks", "advantages", "objectives") for name in registry.names(room)):
        assert name in re.findall(r"[\w@+-]+", ran.text), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_itself_accepts_its_script(cli: Cli, shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_bytes(cli("completion", shell).out)
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["tcsh"], "entropyctl completion: 'tcsh' is no shell; known: bash, zsh, fish"),
        ([], "entropyctl completion: no shell is named; known: bash, zsh, fish"),
    ],
)
def test_an_unknown_shell_is_a_usage_error(cli: Cli, args: list[str], line: str) -> None:
    ran = cli("completion", *args)
    assert (ran.code, ran.line) == (2, line), ran
