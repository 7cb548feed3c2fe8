"""Graders: the rule of each, on responses written out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from entropyctl import registry
from entropyctl.errors import InputError, UsageError
from entropyctl.prompts import load_prompts
from entropyctl.rewards import Grade, GradeInput, Grader
from entropyctl.rewards._evaluation import Refused, is_arithmetic, nothing_evaluated
from entropyctl.rewards.exact import exact
from entropyctl.rewards.gym import gym
from entropyctl.rewards.math import quick

CORRECT, WRONG, UNPARSABLE = "correct", "wrong", "unparsable"


def test_every_grader_says_in_its_first_line_what_it_does():
    assert registry.names("rewards")[:5] == ["exact", "gym", "math", "none", "python"]
    for name in registry.names("rewards"):
        assert registry.summary("rewards", name).endswith((".", ")", "FUNCTION."))


# --- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "answer", "outcome", "predicted"),
    [
        (r"so \boxed{7}", "7", CORRECT, "7"),
        (r"\boxed{3} or rather \boxed{ 7 }", "7", CORRECT, "7"),
        (r"\boxed{7} or rather \boxed{3}", "7", WRONG, "3"),
        (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}", CORRECT, r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}", CORRECT, r"\{1\}"),
        (r"\boxed{\boxed{7}}", "7", CORRECT, "7"),
        ("7 * 6 is\n#### 42\nI think", "42", CORRECT, "42"),
        ("The answer:\n 42 \n\n", "42", CORRECT, "42"),
        ("The answer is 42", "42", WRONG, "The answer is 42"),
        (" 42", "#### 42", CORRECT, "42"),
        ("42", "6 * 7 = 42\n#### 42", CORRECT, "42"),
        ("42", r"Hence $\boxed{42}$.", CORRECT, "42"),
        ("1,000", "1000.0", CORRECT, "1,000"),
        ("0.50", "1/2", CORRECT, "0.50"),
        ("-2/4", "-0.5", CORRECT, "-2/4"),
        ("+007", "7", CORRECT, "+007"),
        ("0.3333333333", "1/3", WRONG, "0.3333333333"),
        ("1,00", "100", WRONG, "1,00"),
        ("1/0", "1/0", CORRECT, "1/0"),
        ("1/0", "0", WRONG, "1/0"),
        ("٤٢", "42", WRONG, "٤٢"),
        ("2*21", "42", WRONG, "2*21"),
        ("Paris", "paris", WRONG, "Paris"),
        ("a b\nc d", "a b\nc d", CORRECT, "a b\nc d"),
        ("", "42", UNPARSABLE, None),
        (" \n ", "42", UNPARSABLE, None),
        (r"\boxed{42", "42", UNPARSABLE, None),
        (r"\boxed{42} hm \boxed{", "42", UNPARSABLE, None),
        (r"\boxed{}", "42", UNPARSABLE, None),
    ],
)
def test_exact(response, answer, outcome, predicted):
    assert exact(response, answer) == Grade(1.0 if outcome == CORRECT else 0.0, outcome, predicted)


# --- math ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maths() -> Iterator[Grader]:
    pytest.importorskip("math_verify")
    with Grader("math", workers=1) as grader:
        yield grader


@pytest.mark.parametrize(
    ("response", "answer", "outcome", "predicted"),
    [
        (r"\boxed{\frac12}", "0.5", CORRECT, r"\frac12"),
        (r"\boxed{1+x^2}", "x^2+1", CORRECT, "1+x^2"),
        (r"\boxed{0.333333}", r"\frac{1}{3}", CORRECT, "0.333333"),
        (r"\boxed{(2,1)}", "(1,2)", WRONG, "(2,1)"),
        (r"\boxed{2\sqrt{3}}", r"Thus $\boxed{\sqrt{12}}$.", CORRECT, r"2\sqrt{3}"),
        (r"\boxed{2^{2^3}}", "256", CORRECT, "2^{2^3}"),
        ("The answer is 42.", "42", CORRECT, "42"),
        ("so\n#### 1,234", "1234", CORRECT, "1,234"),
        (r"\boxed{1} and \boxed{2}", "2", CORRECT, "2"),
        (r"\boxed{7", "7", UNPARSABLE, None),
        ("I do not know", "7", UNPARSABLE, None),
        (r"\boxed{9^{9^9}}", "7", UNPARSABLE, None),
        (r"\boxed{99999999!}", "7", UNPARSABLE, None),
        (r"\boxed{" + "1+" * 1500 + "1}", "1501", UNPARSABLE, None),
    ],
)
def test_math(maths, response, answer, outcome, predicted):
    [grade] = maths.grade([GradeInput(response, answer)])
    assert grade == Grade(1.0 if outcome == CORRECT else 0.0, outcome, predicted)


@pytest.mark.parametrize(
    ("response", "answer", "grade"),
    [
        (r"\boxed{7}", "7", Grade(1.0, CORRECT, "7")),
        (r"\boxed{007}", "+7", Grade(1.0, CORRECT, "007")),
        (r"\boxed{8}", "7", Grade(0.0, WRONG, "8")),
        (r"\boxed{x^y}", "x^y", Grade(1.0, CORRECT, "x^y")),
        (" 12", "12", Grade(1.0, CORRECT, "12")),
        ("", "12", Grade(0.0, UNPARSABLE, None)),
        (r"\boxed{x^2}", "x*x", None),
        ("It is 12.", "12", None),
        (r"\boxed{7.0}", "7", Grade(1.0, CORRECT, "7.0")),
        (r"\boxed{\frac{1}{2}}", "0.51", Grade(0.0, WRONG, r"\frac{1}{2}")),
        (r"\boxed{(1, 3)}", "(1, 2)", Grade(0.0, WRONG, "(1, 3)")),
        (r"\boxed{0.333333}", "1/3", None),
        ("7.0", "7", None),
    ],
)
def test_math_decides_the_same_text_and_plain_numbers_without_algebra(response, answer, grade):
    assert quick(response, answer) == grade


@pytest.mark.parametrize("spec", ["exact", "math"])
def test_a_problem_without_an_answer_is_named_and_ends_the_batch(spec):
    items = [GradeInput("7", "7"), GradeInput("7", None, name="p.parquet: row step 1, prompt p7, sample 0")]
    message = "row step 1, prompt p7, sample 0: has no answer to grade against; add an answer column"
    with pytest.raises(InputError, match=message):
        Grader(spec).grade(items)


# --- gym -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gymnast() -> Iterator[Grader]:
    pytest.importorskip("reasoning_gym")
    with Grader("gym", workers=1, timeout=20) as grader:
        yield grader


def answers_of(source: str, *responses: str) -> list[GradeInput]:
    """The first problem with each response; `{}` stands for its answer."""
    problem = load_prompts(source, announce=lambda text: None)[0]
    return [
        GradeInput(response.replace("{}", str(problem.answer)), problem.answer, problem.data_source, problem.extra)
        for response in responses
    ]


def test_gym_scores_the_very_problem_that_was_asked(gymnast):
    source = "gym:products?min_digits=1&max_digits=1&size=2&shots=4"
    responses = (" {}", "<answer>1</answer> no: <answer>{}</answer>", "{}.5", "", "<answer> </answer>")
    grades = gymnast.grade(answers_of(source, *responses))
    assert [grade.outcome for grade in grades] == [CORRECT, CORRECT, WRONG, UNPARSABLE, UNPARSABLE]
    assert [grade.predicted for grade in grades] == ["12", "12", "12.5", None, None]
    assert [grade.reward for grade in grades] == [1.0, 1.0, grades[2].reward, 0.0, 0.0]
    assert grades[2].reward < 0.99


def test_gym_takes_any_solution_of_a_problem_that_has_no_single_answer(gymnast):
    # Four points, of which the task states the edges: its answer is None.
    [item] = answers_of("gym:graph_color?min_num_vertices=2&max_num_vertices=2&num_colors=2&size=1", '{"0": 1, "1": 2}')
    assert item.answer is None
    assert gymnast.grade([item]) == [Grade(1.0, CORRECT, '{"0": 1, "1": 2}')]


def test_gym_makes_problems_again_that_depend_on_the_hash_seed(gymnast):
    assert gymnast.grade(answers_of("gym:isomorphic_strings?size=2", "{}"))[0].outcome == CORRECT


def test_gym_notices_a_problem_that_is_not_the_one_that_was_asked(gymnast):
    [item] = answers_of("gym:products?size=1", "{}")
    other = {"gym": {**item.extra["gym"], "seed": 43}}
    assert gymnast.grade([item._replace(extra=other)]) == [Grade(0.0, "error", None)]
    assert "another problem of this number" in str(gymnast.first_error)


def test_gym_needs_problems_that_it_made():
    with pytest.raises(InputError, match="was not generated by gym:NAME, which --reward gym needs"):
        gym("12", {})


@pytest.mark.parametrize(
    "source",
    [
        "gym:string_insertion?size=1",
        "gym:binary_matrix?size=1",
        "gym:n_queens?size=1",
        "gym:spiral_matrix?size=1",
        "gym:countdown?size=1",
        "gym:puzzle24?size=1",
        "gym:polynomial_multiplication?size=1",
        "gym:simple_integration?size=1",
    ],
)
def test_scorers_that_evaluate_answers_take_solutions_and_run_no_code(gymnast, source, tmp_path):
    canary = tmp_path / "canary"
    attacks = [
        f"__import__('os').system('touch {canary}')",
        f"[__import__('pathlib').Path('{canary}').touch()]",
        f"open('{canary}', 'w')",
        f"(1).__class__.__base__.__subclasses__()[0]('{canary}')",
        f"sympify(\"open('{canary}', 'w')\")",
    ]
    solution, *attacked = gymnast.grade(answers_of(source, "{}", *attacks))
    assert solution.outcome == CORRECT
    assert {grade.outcome for grade in attacked} <= {WRONG, "error"}
    assert not canary.exists()


# --- nothing that a model wrote is evaluated -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1 + 2*3",
        "-x**2",
        "Integer (2 )*Symbol ('x' )",
        "[[0, 1], [1, 0]]",
        "sin(x)",
        "f",
        "['a b', '-']",
        "Float ('2.5e-3')*Rational('1/2')",
        "Function ('f')(x)",
    ],
)
def test_arithmetic(text):
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "f(1)",
        "x.y",
        "x[0]",
        "open('f')",
        "eval('1')",
        "lambda: 1",
        "f'{x}'",
        "[x for x in y]",
        "x := 1",
        "1;2",
        "Function('(lambda *a: print(1))')(x)",
        "Symbol('x y')",
        "sqrt(b'x')",
        "['a b'] * x",
        "(",
        "1" * 10_001,
    ],
)
def test_not_arithmetic(text):
    assert not is_arithmetic(text)


def test_the_block_stops_eval_exec_and_programs_and_ends():
    for attack in ("eval('print(1)')", "exec('import os')", "compile('x.y', '<string>', 'eval')"):
        code = compile(attack, "attack.py", "exec")
        with pytest.raises(Refused), nothing_evaluated():
            exec(code)
    import os

    with pytest.raises(Refused), nothing_evaluated():
        os.system("true")
    with nothing_evaluated():
        assert eval("2 + 3") == 5
    assert eval("'a'.upper()") == "A"


def test_the_block_takes_no_name_for_a_file_and_changes_no_file(tmp_path):
    import ctypes
    import os

    kept = tmp_path / "kept"
    kept.write_text("kept")
    attacks = [
        lambda: compile("import os", "<lambdifygenerated-1>", "exec"),
        lambda: compile("import os", str(kept), "exec"),
        lambda: compile("import os", str(tmp_path / "no.py"), "exec"),
        lambda: kept.open("w"),
        lambda: kept.open("a"),
        lambda: os.open(tmp_path / "new", os.O_CREAT),
        lambda: os.remove(kept),
        lambda: os.rename(kept, tmp_path / "moved"),
        lambda: os.truncate(kept, 0),
        lambda: ctypes.CDLL("libc.so.6"),
        lambda: ctypes.CDLL(None).system,
    ]
    for attack in attacks:
        with pytest.raises(Refused), nothing_evaluated():
            attack()
    assert [p.name for p in tmp_path.iterdir()] == ["kept"] and kept.read_text() == "kept"


def test_in_the_block_modules_may_still_be_imported_and_files_read(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n")
    monkeypatch.syspath_prepend(tmp_path)
    written = sys.dont_write_bytecode
    with nothing_evaluated():
        import imported_late

        assert imported_late.A(7).x == 7 and (tmp_path / "imported_late.py").read_text()
    assert sys.dont_write_bytecode == written


# --- python: -------------------------------------------------------------------------------------------------------


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str = "graders.py") -> None:
    """A user's module in the directory where the command is run."""
    (folder / name).write_text(source)
    monkeypatch.chdir(folder)


def test_python_calls_a_function_with_verls_signature(tmp_path, monkeypatch):
    module(
        tmp_path,
        monkeypatch,
        """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    given = (data_source, solution_str, ground_truth, extra_info)
    return {
        "bool": True,
        "float": 0.25,
        "negative": -1,
        "acc": {"score": -0.5, "acc": True, "pred": 7},
        "no acc": {"score": 0.5, "acc": 0.0},
        "given": {"score": 1, "pred": repr(given)},
        "nan": float("nan"),
        "text": "1.0",
        "none": None,
        "empty": {},
    }[solution_str]
""",
    )
    names = ["bool", "float", "negative", "acc", "no acc", "given", "nan", "text", "none", "empty", "missing"]
    with Grader("python:graders:compute_score", workers=1) as grader:
        grades = grader.grade([GradeInput(name, "4", "gsm8k", {"split": "test"}, f"row {name}") for name in names])
    assert grades == [
        Grade(1.0, CORRECT, None),
        Grade(0.25, CORRECT, None),
        Grade(-1.0, WRONG, None),
        Grade(-0.5, CORRECT, "7"),
        Grade(0.5, WRONG, None),
        Grade(1.0, CORRECT, "('gsm8k', 'given', '4', {'split': 'test'})"),
        *[Grade(0.0, "error", None)] * 5,
    ]
    assert grader.first_error == "row nan: ValueError: a score must be a finite number, not nan"


def test_python_gives_a_function_the_parameters_that_it_has(tmp_path, monkeypatch):
    module(
        tmp_path,
        monkeypatch,
        "def three(data_source, solution_str, ground_truth):\n    return solution_str == ground_truth\n"
        "def any(**given):\n    return len(given)\n",
    )
    for name, reward in (("three", 1.0), ("any", 4.0)):
        with Grader(f"python:graders:{name}", workers=1) as grader:
            assert grader.grade([GradeInput("4", "4")]) == [Grade(reward, CORRECT, None)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:nowhere:score", "cannot import 'nowhere' (ModuleNotFoundError: No module named 'nowhere')"),
        ("python:graders:nothing", "'graders' has no function 'nothing'"),
        ("python:graders:number", "'graders' has no function 'number'"),
        ("python:graders:odd", "takes 'completions', which nobody gives; known: data_source, solution_str"),
        ("python:broken:score", "cannot import 'broken' (ZeroDivisionError: division by zero)"),
        ("python:graders", "write python:PACKAGE.MODULE:FUNCTION"),
    ],
)
def test_python_names_what_cannot_be_imported_before_anything_is_graded(tmp_path, monkeypatch, spec, message):
    module(tmp_path, monkeypatch, "1 / 0\n", "broken.py")
    module(tmp_path, monkeypatch, "number = 7\ndef odd(completions): pass\n")
    with pytest.raises(UsageError) as caught, Grader(spec):
        pass
    assert message in str(caught.value)


# --- names ---------------------------------------------------------------------------------------------------------


def test_none_gives_no_grades():
    with Grader("none") as grader:
        assert grader.grade([GradeInput("7", "7")]) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("maths", "there is no 'maths' in rewards; known: exact, gym, math, none, python"),
        ("exact:7", "--reward exact:7: takes nothing after the colon; write exact"),
        ("python", "--reward python: lacks its target; write python:TARGET"),
    ],
)
def test_a_grader_that_does_not_exist(spec, message):
    with pytest.raises(UsageError) as caught:
        Grader(spec)
    assert message in str(caught.value)


def test_a_grader_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[entropyctl.rewards]\nlength = theirs:length\n"
    )
    (tmp_path / "theirs.py").write_text(
        "from entropyctl.rewards import Grade\n"
        "def length(response, extra, *, unit='characters'):\n"
        "    return Grade(float(len(response) + extra['more']), 'correct', unit)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        for spec, unit in (("length", "characters"), ("length:letters", "letters")):
            with Grader(spec, workers=1) as grader:
                assert grader.grade([GradeInput("abc", extra={"more": 1})]) == [Grade(4.0, CORRECT, unit)]
    finally:
        registry._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("package", "spec", "extra"), [("math_verify", "math", "math"), ("reasoning_gym", "gym", "gym")]
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, package, spec, extra):
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"--reward {spec} needs the package .*'entropyctl\[{extra}\]'"), Grader(spec):
        pass


def test_finding_a_grader_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys; from entropyctl.rewards import Grader; [Grader(s) for s in ('exact', 'math', 'gym')]; "
        "print({'math_verify', 'sympy', 'reasoning_gym', 'pyarrow', 'numpy', 'torch', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "set()\n", done.stderr
