"""`entropyctl eval` by cron and systemd: the shipped files, run as those run them, in an empty environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from entropyctl.evaluation.history import RESPONSES
from entropyctl.table.rows import read_rows

from .conftest import ROOT, tiny_llama

CRONTAB = (ROOT / "examples" / "crontab").read_text(encoding="utf-8")
UNITS = ROOT / "examples" / "systemd"


@pytest.fixture
def place(tmp_path: Path, policy_root: Path) -> Path:
    """A run with a policy, prompts, a grader that calls everything correct while a file is there, and entropyctl."""
    (tmp_path / "goodness.py").write_text(
        "import os\ndef score(solution_str):\n    return float(os.path.exists('good'))\n"
    )
    (tmp_path / "good").touch()
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    command = tmp_path / "bin" / "entropyctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec "{sys.executable}" -m entropyctl "$@"\n')
    command.chmod(0o755)
    return tmp_path


def variables(place: Path) -> dict[str, str]:
    """What a user edits."""
    return {
        "PATH": f"{place / 'bin'}:/usr/bin:/bin",
        "RUN": str(place),
        "PROMPTS": str(place / "prompts.jsonl"),
        "REWARD": "python:goodness:score",
        "N": "2",
    }


def in_an_empty_environment(command: list[str], env: dict[str, str], cwd: Path) -> tuple[int, str, str]:
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return ran.returncode, ran.stdout, ran.stderr


def job_of_cron(place: Path, which: int = 0, **edited: str) -> tuple[list[str], dict[str, str]]:
    """A line of the crontab as cron runs it: /bin/sh, HOME, and what the file itself sets, with further edits."""
    lines = [line for line in CRONTAB.splitlines() if line and not line.startswith("#")]
    settings = [line for line in lines if re.match(r"\w+=", line)]
    assert {line.partition("=")[0] for line in settings} == set(variables(place))
    jobs = [line.split(None, 5)[5] for line in lines if line not in settings]
    assert not any("%" in job for job in jobs)  # a line feed to cron
    job = jobs[which].replace("--temperature 0.6", "--temperature 0.6 --max-tokens 6")
    env = {"HOME": str(place / "nobody"), "LOGNAME": "somebody", "SHELL": "/bin/sh", **variables(place), **edited}
    return ["/bin/sh", "-c", job], env


def by_cron(place: Path, which: int = 0) -> tuple[int, str, str]:
    return in_an_empty_environment(*job_of_cron(place, which), Path("/"))


def publish(place: Path, version: int) -> None:
    """Another checkpoint as the next version."""
    tiny_llama(place / "policy" / f"v{version:06d}", hidden_size=32 + 8 * version)
    (place / "policy" / "latest").unlink()
    (place / "policy" / "latest").symlink_to(f"v{version:06d}")


def versions(place: Path) -> list[int]:
    """What stands in the history, in the order in which it came there."""
    return [
        read_rows(str(path)).rows["policy_version"][0].as_py() for path in sorted((place / "evals").glob("*.parquet"))
    ]


def test_the_nights_of_a_crontab(place: Path) -> None:
    """A version, nothing new, two versions of which the first is worse, nothing new."""
    assert by_cron(place) == (0, "", "")
    assert by_cron(place) == (0, "", "")
    assert versions(place) == [0]
    publish(place, 1)
    publish(place, 2)
    (place / "good").unlink()
    status, out, err = by_cron(place)
    assert (status, out) == (10, "") and versions(place) == [0, 1, 2]
    assert re.fullmatch(
        r"entropyctl eval: pass@1 < previous - 2se: pass@1 is 0 at policy version 1, previous 1 at version 0, se 0\n",
        err,
    )
    assert by_cron(place) == (0, "", "")
    # Monday morning: three versions, and performances that no law explains are said in one line.
    status, out, err = by_cron(place, 1)
    assert (status, out, err.count("\n")) == (3, "", 1) and err.startswith("entropyctl fit-law: "), err


def test_a_night_that_is_not_over(place: Path) -> None:
    """Another process is at the version: status 11 and a line, and the first goes on undisturbed."""
    command, env = job_of_cron(place, N="100")  # long enough to be met while it samples
    with subprocess.Popen(
        command, cwd="/", env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        journals = (place / "evals" / RESPONSES).glob
        while first.poll() is None and not any(journal.stat().st_size for journal in journals(".*.part")):
            time.sleep(0.001)
        os.killpg(first.pid, signal.SIGSTOP)
        try:
            status, out, err = in_an_empty_environment(command, env, Path("/"))
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        assert (status, out, err.count("\n")) == (11, "", 1) and "another rollout is making it" in err
        assert first.wait() == 0 and versions(place) == [0], first.stderr
    assert in_an_empty_environment(command, env, Path("/")) == (0, "", "")


def test_a_night_that_ends_in_an_error_has_said_its_alerts(place: Path) -> None:
    publish(place, 1)
    [weights] = (place / "policy" / "v000001").glob("*.safetensors")
    weights.write_bytes(b"damaged")
    command, env = job_of_cron(place)
    status, out, err = in_an_empty_environment([*command[:2], f"{command[2]} --alert 'pass@1 > 0.5'"], env, Path("/"))
    alert, error = err.splitlines()
    assert (status, out) == (3, "") and versions(place) == [0]
    assert alert == "entropyctl: eval: pass@1 > 0.5: pass@1 is 1 at policy version 0" and "v000001" in error


def test_a_version_that_is_deleted_meanwhile_is_left_out(place: Path) -> None:
    (place / "goodness.py").write_text(
        "import shutil\n"
        "def score(solution_str):\n"
        "    shutil.rmtree('policy/v000001', ignore_errors=True)\n"
        "    return 1.0\n"
    )
    publish(place, 1)
    publish(place, 2)
    assert by_cron(place) == (0, "", "")
    assert versions(place) == [0, 2]


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit file; one may stand there several times."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_of_systemd(place: Path) -> None:
    service = unit("entropyctl-eval.service")
    set_here = {word.partition("=")[0] for line in service["Environment"] for word in shlex.split(line)}
    env = variables(place)
    assert set_here == set(env)
    # systemd replaces ${NAME} by one word, knows no shell, and looks for a program without a slash in directories that
    # were fixed when it was built, whatever PATH says.
    [line] = service["ExecStart"]
    words = [re.sub(r"\$\{(\w+)\}", lambda name: env[name[1]], word) for word in shlex.split(line)]
    assert Path(words[0]).is_absolute()
    (place / "goodness.py").rename(place / "bin" / "goodness.py")  # the grader of these tests is looked for in the cwd
    command = [*words, "--max-tokens", "6"]
    (place / "bin" / "good").touch()
    assert in_an_empty_environment(command, env, place / "bin") == (0, "", "")
    assert versions(place) == [0] and service["SuccessExitStatus"] == ["11"]
    assert unit("entropyctl-eval.timer")["OnCalendar"] == ["*-*-* 02:30:00"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_units() -> None:
    ran = subprocess.run(["systemd-analyze", "verify", *map(str, UNITS.iterdir())], capture_output=True, text=True)
    assert "entropyctl-eval" not in ran.stderr, ran.stderr
