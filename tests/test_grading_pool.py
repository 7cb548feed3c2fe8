"""Workers that grade: hostile answers, deadlines, crashes, noise, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from entropyctl.errors import EngineError, InputError, UsageError
from entropyctl.rewards import Grade, GradeInput, Grader
from entropyctl.rewards._pool import Worker

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT, ERROR = Grade(0.0, "timeout", None), Grade(0.0, "error", None)


@pytest.fixture
def grader(tmp_path, monkeypatch) -> Callable[..., Grader]:
    """`grader("body of def score(solution_str): ...", workers=1)` as an open `python:` grader."""
    monkeypatch.chdir(tmp_path)

    def make(body: str, **options: float) -> Grader:
        source = "def score(solution_str):\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        (tmp_path / "mine.py").write_text(source + "\n")
        return Grader("python:mine:score", **{"workers": 1, **options})  # type: ignore[arg-type]

    return make


def inputs(*responses: str) -> list[GradeInput]:
    return [GradeInput(response, name=f"row {i}") for i, response in enumerate(responses)]


# --- hostile answers -----------------------------------------------------------------------------------------------

HOSTILE = [
    "__import__('os').system('touch canary')",
    r"\boxed{__import__('os').system('touch canary')}",
    r"$__import__('os').system('touch canary')$",
    r"\boxed{\text{__import__('os').system('touch canary')}}",
    "eval(compile('open(\"canary\", \"w\")', '', 'eval'))",
    r"\boxed{9^{9^9}}",
    "9**9**9**9",
    "9^9^9",
    r"\boxed{10^{10^{10}}}",
    r"\boxed{2^{1000000000}}",
    r"\boxed{99999999!}",
    "99999999!",
    r"\boxed{((9!)!)!}",
    r"\boxed{\binom{100000000}{10000000}}",
    r"\boxed{\sum_{i=1}^{10000000} i}",
    r"\boxed{(x+1)^{5000}}",
    r"\boxed{" * 20_000,
    r"\boxed{" * 20_000 + "}" * 20_000,
    "(" * 3000 + ")" * 3000,
    r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
    r"\frac{" * 300 + "1" + "}{2}" * 300,
    "7 " * 500_000,
    "a" * 1_000_000,
    r"\boxed{" + "7" * 1_000_000 + "}",
    "\x1b[31m\x1b]0;owned\x07\x1b[2J",
    "\u202e\u0000\ufeff</script>",
    "$" * 5000,
    "",
]


@pytest.mark.parametrize("spec", ["exact", "math"])
def test_hostile_answers_get_a_verdict_and_run_nothing(spec, tmp_path, monkeypatch):
    if spec == "math":
        pytest.importorskip("math_verify")
    monkeypatch.chdir(tmp_path)
    good = GradeInput(r"\boxed{7}", "7")
    hard = [GradeInput(r"\boxed{\frac{14}{2}}", "7")] if spec == "math" else []
    with Grader(spec, timeout=1.0) as grader:
        # The reference is hostile as well, so that it is parsed too and never equal.
        grades = grader.grade([*(GradeInput(text, "5") for text in HOSTILE), good, *hard])
    verdicts = {text[:60]: grade.outcome for text, grade in zip(HOSTILE, grades, strict=False)}
    assert set(verdicts.values()) <= {"wrong", "unparsable", "timeout"}, verdicts
    assert all(grade.reward == 0 for grade in grades[: len(HOSTILE)])
    assert all(grade.outcome == "correct" for grade in grades[len(HOSTILE) :])
    assert all(len(grade.predicted or "") <= 2000 for grade in grades)
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_reference_is_not_believed_either(tmp_path, monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.chdir(tmp_path)
    with Grader("math", timeout=1.0, workers=1) as grader:
        grades = grader.grade([GradeInput("It is 5.", "__import__('os').system('touch canary')")])
    assert grades[0].reward == 0
    assert list(tmp_path.iterdir()) == []


# --- deadlines and crashes -----------------------------------------------------------------------------------------


def test_a_response_that_takes_too_long_is_a_timeout_and_the_others_are_graded(grader):
    hang = "while solution_str == 'hang': pass\nreturn 1.0"
    with grader(hang, timeout=0.5) as pool:
        grades = pool.grade(inputs("a", "hang", "b", "hang", "c"))
        assert [grade.outcome for grade in grades] == ["correct", "timeout", "correct", "timeout", "correct"]
        assert grades[1] == TIMEOUT
        assert pool.grade(inputs("d")) == [Grade(1.0, "correct", None)]


def test_a_hang_in_c_code_that_no_signal_reaches_is_a_timeout(grader):
    body = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        return len(str(10 ** 10 ** 9))
    """
    with grader(body, timeout=0.5) as pool:
        assert pool.grade(inputs("a")) == [TIMEOUT]


def test_importing_does_not_count_against_the_deadline(tmp_path, monkeypatch):
    # Reads a pipe that is written only after the deadline of a response would have passed.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "slow.py").write_text("open('pipe').read()\ndef score(solution_str): return 1.0\n")
    monkeypatch.chdir(tmp_path)
    writer = subprocess.Popen(["sh", "-c", "sleep 1; echo > pipe"])
    with Grader("python:slow:score", timeout=0.3, workers=1) as pool:
        assert pool.grade(inputs("a")) == [Grade(1.0, "correct", None)]
    assert writer.wait() == 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the grading process ended with status -11"),
        ("import os; os._exit(3)", "the grading process ended with status 3"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("raise ValueError('x' * 1000)", f"ValueError: {'x' * 288}"),
        ("return bytearray(6 << 30)", "MemoryError: "),
        ("def deep(): return deep()\n    return deep()", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_a_fault_is_the_outcome_error_of_that_response_alone(grader, fault, why):
    with grader(f"if solution_str == 'bad':\n    {fault}\nreturn 1.0") as pool:
        grades = pool.grade(inputs("a", "bad", "b"))
        assert [grade.outcome for grade in grades] == ["correct", "error", "correct"]
        assert grades[1] == ERROR
        assert pool.first_error == f"row 1: {why}"


def test_a_poisoned_response_is_tried_once(grader, tmp_path):
    with grader("open('tried', 'a').write(solution_str)\nimport os; os._exit(1)", workers=2) as pool:
        assert pool.grade(inputs("a", "b", "c")) == [ERROR] * 3
    assert sorted((tmp_path / "tried").read_text()) == ["a", "b", "c"]


def test_a_worker_that_dies_while_it_starts_ends_the_command(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os; os._exit(9)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="--reward python:dies:score: its process ended with status 9"):
        Grader("python:dies:score").__enter__()


@pytest.mark.timeout(60)
def test_a_process_that_does_not_read_does_not_hold_us_up(monkeypatch):
    monkeypatch.setattr("entropyctl.rewards._pool.command", lambda *_: ["sleep", "1000"])
    worker = Worker("exact", timeout=1.0)
    worker.give(0, "x" * 10_000_000)
    worker.send()
    assert 0 < len(worker.unsent) < 10_000_001
    assert worker.kill() == -signal.SIGKILL


@pytest.mark.parametrize("spec", ["math", "python:mine:score"])
def test_files_of_the_current_directory_do_not_replace_pythons(grader, tmp_path, spec):
    for name in ("json", "random", "resource", "sympy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    pytest.importorskip("math_verify")
    grader("return 1.0")
    with Grader(spec, workers=1) as pool:
        assert pool.grade([GradeInput(r"\boxed{0.5}", "1/2")])[0].outcome == "correct"


def test_an_input_that_is_at_fault_is_named(grader):
    body = """
        from entropyctl.errors import InputError
        if solution_str == "b":
            raise InputError("has no answer; add one")
        return 1.0
    """
    with grader(body) as pool:
        with pytest.raises(InputError, match=r"^row 1: has no answer; add one$"):
            pool.grade(inputs("a", "b", "c"))
        assert pool.grade(inputs("a")) == [Grade(1.0, "correct", None)]


# --- noise ---------------------------------------------------------------------------------------------------------


def test_what_a_grader_prints_reads_or_closes_does_not_disturb_the_protocol(grader, capfd):
    noise = """
        import os, sys
        print("printed", solution_str)
        print('{"grade": [9.0, "correct", null]}', flush=True)
        os.write(1, b'{"grade": [9.0, "correct", null]}\\n')
        os.write(2, b"straight to the descriptor\\n")
        sys.stdin.read()
        os.system("echo from a program")
        if solution_str == "b":
            os.close(1), os.close(2), os.close(0)
        return 0.5
    """
    with grader(noise) as pool:
        assert pool.grade(inputs("a\x1b[31m", "b")) == [Grade(0.5, "correct", None)] * 2, pool.first_error
    out, err = capfd.readouterr()
    assert out == ""
    assert "printed a [31m\n" in err and "printed b\n" in err
    assert "\x1b" not in err


def test_a_megabyte_goes_both_ways(grader):
    with grader("return {'score': len(solution_str), 'pred': solution_str}") as pool:
        [grade] = pool.grade(inputs("é" * 1_000_000))
    assert grade == Grade(1_000_000.0, "correct", "é" * 2000)


def test_predictions_are_text_that_a_table_can_hold(grader):
    with grader("return {'score': 1, 'pred': chr(0xd800) + 'a'}") as pool:
        assert pool.grade(inputs("a")) == [Grade(1.0, "correct", "?a")]


# --- many ----------------------------------------------------------------------------------------------------------


def test_grades_come_in_the_order_of_the_responses_from_several_workers(grader):
    # The first of each step is the last to be done.
    body = """
        import os
        number = int(solution_str)
        if number % 100 == 39:
            open(f"done{number // 100}", "w").close()
        while number % 100 == 0 and not os.path.exists(f"done{number // 100}"):
            pass
        return number
    """
    with grader(body, workers=2) as pool:
        for step in (1, 2):
            numbers = [step * 100 + i for i in range(40)]
            assert [grade.reward for grade in pool.grade(inputs(*map(str, numbers)))] == numbers


def test_workers_live_from_step_to_step(grader):
    with grader("import os; return os.getpid()", workers=1) as pool:
        first, second = pool.grade(inputs("a"))[0].reward, pool.grade(inputs("a"))[0].reward
    assert first == second


def test_equal_responses_are_graded_once_by_a_pure_grader_and_each_time_by_a_function(grader, monkeypatch):
    from entropyctl.rewards._pool import Pool

    asked: list[int] = []
    run = Pool.run
    monkeypatch.setattr(Pool, "run", lambda pool, requests: asked.append(len(requests)) or run(pool, requests))
    with grader("return 1.0") as pool:
        pool.grade(inputs("a", "a", "b", "a"))
    pytest.importorskip("math_verify")
    same = [GradeInput(r"\boxed{\sqrt{8}}", answer) for answer in (r"2\sqrt{2}", r"2\sqrt{2}", r"3\sqrt{2}")]
    # What led to the answer does not decide, nor what else is known of the problem.
    same.append(GradeInput(r"It is \boxed{\sqrt 2}, no: \boxed{\sqrt{8}}.", r"2\sqrt{2}", "aime", {"index": 3}))
    with Grader("math", workers=1) as maths:
        assert [grade.outcome for grade in maths.grade(same)] == ["correct", "correct", "wrong", "correct"]
    assert asked == [4, 2]


def test_integers_are_graded_without_a_worker(monkeypatch):
    from entropyctl.rewards import _pool

    monkeypatch.setattr(_pool, "Worker", None)
    grader = Grader("math")
    grades = grader.grade([GradeInput(rf"\boxed{{{i}}}", str(i + i % 2)) for i in range(1000)])
    assert sum(grade.reward for grade in grades) == 500


@pytest.mark.parametrize(("option", "message"), [({"timeout": 0}, "--timeout 0"), ({"workers": 0}, "--workers 0")])
def test_numbers_that_make_no_sense(option, message):
    with pytest.raises(UsageError, match=message):
        Grader("exact", **option)


# --- nobody left behind --------------------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_workers_end_with_the_block_and_with_an_exception(grader):
    body = "import os; return os.getpid()"
    with grader(body) as pool:
        pid = int(pool.grade(inputs("a"))[0].reward)
        assert not gone(pid)
    assert gone(pid)
    with pytest.raises(RuntimeError), grader(body) as pool:
        pid = int(pool.grade(inputs("a"))[0].reward)
        raise RuntimeError
    assert gone(pid)


def test_workers_end_when_another_cannot_start(tmp_path, monkeypatch):
    """Without a `with` block: one worker dies once the other, which never gets ready, has said who it is."""
    (tmp_path / "half.py").write_text(
        "import os\n"
        "try:\n"
        "    os.mkdir('first')\n"
        "except FileExistsError:\n"
        "    open('pid.part', 'w').write(str(os.getpid()))\n"
        "    os.rename('pid.part', 'pid')\n"
        "    while True: pass\n"
        "while not os.path.exists('pid'): pass\n"
        "os._exit(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="ended with status 1 while it started"):
        Grader("python:half:score", workers=2).grade(inputs("a", "b"))
    assert gone(int((tmp_path / "pid").read_text()))


PARENT = """
import sys
from entropyctl import commands
from entropyctl.rewards import Grader, GradeInput

def grade() -> None:
    with Grader("python:mine:score", workers=2, timeout={timeout}) as grader:
        grader.grade([GradeInput("a"), GradeInput("b")])

sys.exit(commands.run("score", grade, []))
"""


@pytest.mark.parametrize(
    ("number", "status", "timeout"), [(signal.SIGTERM, 143, 300), (signal.SIGINT, 130, 300), (signal.SIGKILL, -9, 0.5)]
)
def test_workers_end_with_the_command_that_is_killed(tmp_path, number, status, timeout):
    """Each worker, and a program that it has started, holds a pipe open; it ends when they all have."""
    os.mkfifo(tmp_path / "alive")
    (tmp_path / "mine.py").write_text(
        "import os, subprocess, time\n"
        "def score(solution_str):\n"
        "    pipe = os.open('alive', os.O_WRONLY)\n"
        "    os.write(pipe, b'x')\n"
        f"    if solution_str == 'a' and {number != signal.SIGKILL}:\n"
        "        subprocess.run(['sleep', '1000'], pass_fds=[pipe])\n"
        "    while True: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # With SIGKILL nobody tells the workers: the kernel's own timer ends them soon after the deadline.
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(timeout=timeout)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    with open(tmp_path / "alive", "rb", buffering=0) as alive:
        begun = 0
        while begun < 2:
            begun += len(alive.read(1))
        parent.send_signal(number)
        _, err = parent.communicate()
        assert alive.read() == b""  # returns only when nobody holds the other end
    assert parent.returncode == status
    assert b"Traceback" not in err
