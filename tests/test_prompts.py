"""Prompts: whose columns they are, what a problem is called, and which step it belongs to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.errors import InputError, UsageError
from entropyctl.prompts import Problem, load_prompts, prompts_digest, step_prompts

ROOT = Path(__file__).resolve().parent.parent
HELLO = [{"role": "user", "content": "What is 2 + 2?"}]


def load(source: object, **columns: str) -> list[Problem]:
    return load_prompts(str(source), columns=columns, announce=lambda text: None)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "extra", "said"),
    [
        ({"prompt": "2+2?"}, "2+2?", None, {}, "TRL's form: prompt from 'prompt'"),
        (
            {"prompt": "2+2?", "solution": "4", "level": 3},
            "2+2?",
            "4",
            {"level": 3},
            "TRL's form: prompt from 'prompt', answer from 'solution'",
        ),
        (
            {"prompt": HELLO, "ground_truth": 4, "question": "2+2?"},
            HELLO,
            "4",
            {"question": "2+2?"},
            "TRL's form with conversations: prompt from 'prompt', answer from 'ground_truth'",
        ),
        (
            {"question": "2+2?", "answer": "It is\n#### 4"},
            "2+2?",
            "It is\n#### 4",
            {},
            "question and answer: prompt from 'question', answer from 'answer'",
        ),
        ({"problem": "2+2?"}, "2+2?", None, {}, "question and answer: prompt from 'problem'"),
        (
            {
                "extra_info": {"index": 0, "split": None},
                "reward_model": {"ground_truth": "4", "style": "rule"},
                "prompt": HELLO,
                "data_source": "math_dapo",
                "ability": "MATH",
                "answer": "a column of its own",
            },
            HELLO,
            "4",
            {
                "ability": "MATH",
                "answer": "a column of its own",
                "reward_model": {"style": "rule"},
                "index": 0,
                "split": None,
            },
            "verl's form: prompt from 'prompt', answer from 'reward_model.ground_truth', "
            "data_source from 'data_source'",
        ),
        (
            {"prompt": "2+2?", "answer": "4", "extra": '{"level": 3}'},
            "2+2?",
            "4",
            {"level": 3},
            "TRL's form: prompt from 'prompt', answer from 'answer'",
        ),
    ],
)
def test_a_form_is_recognised_and_announced_in_one_line(tmp_path, row, prompt, answer, extra, said):
    file = jsonl(tmp_path / "p.jsonl", row)
    lines: list[str] = []
    [problem] = load_prompts(str(file), announce=lines.append)
    assert (problem.prompt, problem.answer, problem.extra) == (prompt, answer, extra)
    assert (problem.completion, list(problem.stop)) == (False, [])
    unanswered = "" if answer else ", 1 of them without an answer"
    assert lines == [f"{file}: 1 problems{unanswered}; {said}"]


def test_verls_parquet_with_null_columns_any_field_order_and_a_stray_index(tmp_path):
    message = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string()), ("name", pa.null())]))
    table = pa.table(
        {
            "data_source": ["math_dapo"],
            "prompt": pa.array([[{"content": "2+2?", "role": "user", "name": None}]], message),
            "reward_model": [{"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}],
            "extra_info": pa.array(
                [{"index": 7, "split": None}], pa.struct([("index", pa.int64()), ("split", pa.null())])
            ),
            "empty": pa.nulls(1),
            "__index_level_0__": [3],
        }
    )
    pq.write_table(table, tmp_path / "aime.parquet")
    [problem] = load(tmp_path / "aime.parquet")
    assert problem.prompt == [{"role": "user", "content": "2+2?"}]
    assert (problem.answer, problem.data_source) == ("34", "math_dapo")
    assert problem.extra == {
        "reward_model": {"style": "rule-lighteval/MATH_v2"},
        "empty": None,
        "index": 7,
        "split": None,
    }


def test_columns_that_the_user_names_win_and_reach_into_structs(tmp_path):
    file = jsonl(
        tmp_path / "p.jsonl",
        {"q": "2+2?", "question": "?", "problem": "??", "gold": {"value": [4, 5]}, "solution": "a", "answer": "b"},
    )
    [problem] = load(file, prompt="q", answer="gold.value")
    assert (problem.prompt, problem.answer) == ("2+2?", "[4,5]")
    assert problem.extra == {"question": "?", "problem": "??", "gold": {}, "solution": "a", "answer": "b"}


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"question": "a", "problem": "b"},
            {},
            "question and problem could both be the prompt; choose one, as in --column prompt=question",
        ),
        (
            {"prompt": "a", "answer": "b", "ground_truth": "c"},
            {},
            "answer and ground_truth could both be the answer; choose one, as in --column answer=answer",
        ),
        ({"prompt": "a"}, {"prompt": "text"}, "has no column 'text'; it has prompt"),
        ({"prompt": "a"}, {"promt": "prompt"}, "there is no role 'promt'; known: prompt, answer"),
    ],
)
def test_ambiguity_is_a_usage_error_that_names_the_candidates(tmp_path, row, columns, message):
    with pytest.raises(UsageError) as caught:
        load(jsonl(tmp_path / "p.jsonl", row), **columns)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": 1}\n', "no column is a prompt (prompt, question or problem); it has text, label"),
        ('{"prompt": "a"}\n\n{"prompt": \n', "line 3 is not JSON"),
        ('{"prompt": "a"}\n["b"]\n', "row 2 is no JSON object"),
        ('[{"prompt": "a"}, 7]', "entry 2 is no JSON object"),
        ('{"prompt": "a"}\n{"prompt": ""}\n', "row 2: its prompt is empty"),
        ('{"prompt": 7}\n', "row 1: its prompt is neither text nor a list of messages"),
        ('{"prompt": [{"role": "user"}]}\n', "row 1: a message of its prompt lacks the text of 'role' or 'content'"),
        ("", "holds no rows"),
        ("[" * 100_000, "the array is not JSON (nested too deeply"),
    ],
)
def test_bad_data_is_named_with_its_place(tmp_path, text, message):
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_a_file_that_is_no_text_and_a_file_that_is_not_there(tmp_path):
    (tmp_path / "p.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match=r"p.bin: is neither Parquet nor UTF-8 text \(byte 0\)"):
        load(tmp_path / "p.bin")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nothing.jsonl")


def test_half_a_surrogate_and_nan_become_what_a_table_can_hold(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a\\ud800", "score": NaN}\n')
    [problem] = load(tmp_path / "p.jsonl")
    assert (problem.prompt, problem.extra) == ("a?", {"score": None})


# --- kinds of files ------------------------------------------------------------------------------------------------


def test_the_same_problems_from_every_kind_of_file(tmp_path):
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(5)]
    table = pa.Table.from_pylist(rows)
    jsonl(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=2)
    with pa.ipc.new_file(tmp_path / "d.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "e").mkdir()
    jsonl(tmp_path / "e" / "0.jsonl", *rows[:2])
    pq.write_table(table.slice(2), tmp_path / "e" / "1.parquet")
    loaded = [load(tmp_path / name) for name in ("a.jsonl", "b.json", "c.parquet", "d.arrow", "e")]
    assert [p.prompt for p in loaded[0]] == ["0 + 1?", "1 + 1?", "2 + 1?", "3 + 1?", "4 + 1?"]
    assert all(problems == loaded[0] for problems in loaded)


def test_a_stream_of_another_program_is_refused(tmp_path):
    with pa.ipc.new_stream(tmp_path / "s.arrows", pa.schema([("prompt", pa.string())])):
        pass
    with pytest.raises(InputError, match=r"s.arrows: the stream lacks entropyctl's metadata"):
        load(tmp_path / "s.arrows")


def test_data_sets_from_disk_and_by_name(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": HELLO, "answer": str(i)} for i in range(4)]
    data = datasets.Dataset.from_list(rows)
    data.select([3, 1]).save_to_disk(str(tmp_path / "one"))
    assert [p.answer for p in load(tmp_path / "one")] == ["3", "1"]
    assert load(tmp_path / "one")[0].prompt == HELLO

    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(UsageError, match=r"has the splits train, test; name one, as in .*two/train"):
        load(tmp_path / "two")
    assert len(load(tmp_path / "two" / "test")) == 1

    (tmp_path / "hub").mkdir()
    jsonl(tmp_path / "hub" / "train.jsonl", *rows)
    jsonl(tmp_path / "hub" / "test.jsonl", *rows[:1])
    assert len(load(f"hf:{tmp_path}/hub")) == 4
    assert len(load(f"hf:{tmp_path}/hub?split=test")) == 1
    with pytest.raises(UsageError, match="there is no option 'spilt'; known: split, name, revision"):
        load(f"hf:{tmp_path}/hub?spilt=test")
    with pytest.raises(InputError, match=r"cannot be loaded \(.*\); check its name"):
        load(f"hf:{tmp_path}/nowhere")


def test_without_the_package_datasets_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs the package datasets; pip install 'entropyctl\[hub\]'"):
        load("hf:openai/gsm8k")


def test_files_are_read_without_importing_datasets_torch_or_pandas(tmp_path):
    file = jsonl(tmp_path / "p.jsonl", {"prompt": "a"})
    code = (
        "import sys; from entropyctl.prompts import load_prompts; "
        f"load_prompts({str(file)!r}, announce=str); "
        "print({'datasets', 'torch', 'pandas', 'reasoning_gym', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.stdout == "set()\n", done.stderr


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **more}


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_problem_has_its_own_name_or_a_digest_of_what_it_asks(tmp_path):
    rows = [
        {"id": 17, "prompt": "a", "answer": "b"},
        {"id": None, "prompt": "a", "answer": "b"},
        {"id": None, "prompt": "a", "answer": "c"},
    ]
    named, first, second = (p.prompt_id for p in load(jsonl(tmp_path / "p.jsonl", *rows)))
    assert named == "17"
    assert first == "d53e3202a4bd35e2"  # the same on every machine and in every version
    assert second != first
    turned = load(jsonl(tmp_path / "q.jsonl", *({"answer": r["answer"], "prompt": "a"} for r in reversed(rows))))
    assert [p.prompt_id for p in turned] == [second, first, f"{first}#1"]


def test_names_that_come_again_are_numbered_in_order(tmp_path):
    rows = [{"prompt_id": name, "prompt": "a"} for name in ("x", "x#1", "x", "y", "x")]
    assert [p.prompt_id for p in load(jsonl(tmp_path / "p.jsonl", *rows))] == ["x", "x#1", "x#2", "y", "x#3"]


def test_the_digest_of_all_does_not_depend_on_their_order_but_on_every_field():
    problems = [Problem("a", "1?", "1"), Problem("b", HELLO, None, "set", {"k": [1]})]
    digest = prompts_digest(problems)
    assert digest == prompts_digest(problems[::-1])
    changed = [
        problems[0]._replace(prompt_id="c"),
        problems[0]._replace(prompt="2?"),
        problems[0]._replace(answer="2"),
        problems[0]._replace(data_source="set"),
        problems[0]._replace(extra={"k": 1}),
        problems[0]._replace(completion=True),
    ]
    assert len({digest, *(prompts_digest([problem, problems[1]]) for problem in changed)}) == 7


# --- steps ---------------------------------------------------------------------------------------------------------


def named(count: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}?") for i in range(count)]


def test_without_a_number_a_step_takes_all_in_the_order_given():
    assert step_prompts(named(3), step=5, per_step=None, seed=0) == named(3)


def test_the_order_of_a_seed_is_the_same_on_every_machine():
    steps = [[p.prompt_id for p in step_prompts(named(5), k, 2, seed=0)] for k in (1, 2, 3, 4, 5)]
    assert steps == [["p4", "p1"], ["p2", "p0"], ["p3", "p4"], ["p2", "p1"], ["p0", "p3"]]
    assert [p.prompt_id for p in step_prompts(named(5), 1, 2, seed=1)] != steps[0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_go_through_all_problems_epoch_after_epoch(data):
    count = data.draw(st.integers(1, 12), "problems")
    per_step = data.draw(st.integers(1, count), "per step")
    seed = data.draw(st.integers(0, 3), "seed")
    problems = named(count)
    shuffled = data.draw(st.permutations(problems), "order of the input")
    steps = [step_prompts(problems, k, per_step, seed) for k in range(1, 2 * count + 1)]
    assert steps == [step_prompts(shuffled, k, per_step, seed) for k in range(1, 2 * count + 1)]
    for step in steps:
        assert len({p.prompt_id for p in step}) == per_step
    flat = [problem for step in steps for problem in step]
    for epoch in range(len(flat) // count):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == sorted(problems)


def test_a_late_step_needs_no_earlier_ones():
    problems = named(101)
    assert len(step_prompts(problems, 100_000, 100, seed=0)) == 100


@pytest.mark.parametrize(
    ("step", "per_step", "message"),
    [
        (1, 4, "4 prompts per step were asked for and there are 3; choose between 1 and 3"),
        (1, 0, "0 prompts per step"),
        (0, 1, "there is no step 0"),
    ],
)
def test_a_step_that_cannot_be(step, per_step, message):
    with pytest.raises(UsageError, match=message):
        step_prompts(named(3), step, per_step, seed=0)


# --- generated tasks -----------------------------------------------------------------------------------------------

PRODUCTS = "gym:products?min_terms=2&max_terms=2&min_digits=1&max_digits=1"


def test_a_generated_problem_is_a_question_with_what_makes_it_again():
    pytest.importorskip("reasoning_gym")
    lines: list[str] = []
    problems = load_prompts(f"{PRODUCTS}&size=3&seed=42", announce=lines.append)
    assert lines == [f"{PRODUCTS}&size=3&seed=42: 3 problems; generated with seed 42"]
    question = "Solve the following multiplication: 4 * 3. Give only the result as your final answer."
    assert (problems[0].prompt, problems[0].answer, problems[0].data_source) == (question, "12", "gym:products")
    assert (problems[0].completion, list(problems[0].stop)) == (False, [])
    assert problems[2].extra["gym"] == {
        "name": "products",
        "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        "seed": 42,
        "size": 3,
        "index": 2,
        "digest": problems[2].extra["gym"]["digest"],
    }


def test_shots_are_solved_problems_of_another_seed_and_never_the_question_itself():
    pytest.importorskip("reasoning_gym")
    # One-digit numbers to count bits of: so few questions that the shots meet them.
    problems = load("gym:count_bits?min_n=1&max_n=6&shots=4&size=30")
    assert all(problem.completion and problem.stop == ["\n"] for problem in problems)
    for problem in problems:
        *shots, last = problem.prompt.split("\n\n")
        assert len(shots) == 4
        assert last.startswith("Question: ") and last.endswith("\nAnswer:")
        questions = [shot.partition("\nAnswer: ")[0] for shot in shots]
        assert all(shot.partition("\nAnswer: ")[2] for shot in shots)
        assert last.removesuffix("\nAnswer:") not in questions
    firsts = {problem.prompt.partition("\n\n")[0] for problem in problems}
    assert len(firsts) == 2  # the common first shot, and another one where that is the question itself


@pytest.mark.parametrize("task", ["isomorphic_strings", "polynomial_multiplication"])
def test_generated_problems_do_not_depend_on_the_hash_seed_of_the_process(task):
    pytest.importorskip("reasoning_gym")
    code = (
        "from entropyctl.prompts import load_prompts, prompts_digest; "
        f"print(prompts_digest(load_prompts('gym:{task}?size=6', announce=str)))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=_environment(PYTHONHASHSEED=seed)
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and digests != {""}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gym:prodcts", "there is no task 'prodcts' in reasoning-gym; near: products"),
        ("gym:products?max_digit=2", "the task has no option 'max_digit'; near: max_digits"),
        ("gym:products?max_digits=two", "option 'max_digits' cannot be 'two'; give a number, such as 5"),
        ("gym:products?allow_negation=7", "option 'allow_negation' cannot be '7'; give true or false, such as false"),
        ("gym:products?min_digits=0", "min_digits must be positive"),
        ("gym:products?size=0", "size cannot be '0'; give a whole number, such as 500"),
        ("gym:products?size", "'size' has no value; write size=VALUE"),
        ("gym:graph_color?shots=2", "has only 0 different problems with an answer of one line"),
    ],
)
def test_a_task_that_cannot_be_made(source, message):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UsageError) as caught:
        load(source)
    assert message in str(caught.value)


def test_options_take_the_type_of_their_default():
    pytest.importorskip("reasoning_gym")
    [problem] = load("gym:basic_arithmetic?operators=%2B&allow_parentheses=False&format_style=simple&size=1")
    assert problem.extra["gym"]["config"] == {
        "operators": ["+"],
        "allow_parentheses": False,
        "format_style": "simple",
    }


def test_a_task_without_answers_has_none():
    pytest.importorskip("reasoning_gym")
    lines: list[str] = []
    problems = load_prompts("gym:propositional_logic?size=2", announce=lines.append)
    assert [p.answer for p in problems] == [None, None]
    assert "2 problems, 2 of them without an answer" in lines[0]


def test_without_the_package_reasoning_gym_one_line_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"needs the package reasoning-gym .*pip install 'entropyctl\[gym\]'"):
        load("gym:products")
