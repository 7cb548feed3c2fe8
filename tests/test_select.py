"""`entropyctl select`: prompts by pass rate and semantic entropy, and a selection that rollout reads."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.prompts import Measured, Problem, as_table, load_prompts, select
from entropyctl.table import new_record, write
from entropyctl.table.columns import column_from
from entropyctl.table.rows import read_rows
from entropyctl.table.schema import load_schema

from .conftest import Cli

# Of 16 responses each: c of them correct, and the entropy of the answers in nats.
EVALUATED = {"p0": (0, 2.0), "p1": (1, 1.5), "p2": (2, 0.9), "p8": (8, 0.6), "p14": (14, 0.3), "p15": (15, 0.2)}
EVALUATED |= {"p16": (16, 0.0)}
NAMES = [*EVALUATED, "new"]


def write_evals(path: Path, evaluated: dict[str, tuple[int, float | None]], version: int = 0, **replace: Any) -> Path:
    """An evals table of one version."""
    rows = [
        {
            **{c.name: None for c in load_schema("evals").columns},
            **{"policy_version": version, "prompt_id": name, "n": 16, "c": c, "semantic_entropy": entropy},
            **{"predictions": [], "unparsable": 0, "timeout": 0, "error": 0, "tokens": 0},
            "semantic_entropy_of": None if entropy is None else "counts",
            **replace,
        }
        for name, (c, entropy) in evaluated.items()
    ]
    columns = load_schema("evals").columns
    with write(str(path), "evals", new_record("eval", {})) as sink:
        sink.put(0, pa.table({c.name: column_from([row[c.name] for row in rows], c.arrow_type) for c in columns}))
    return path


@pytest.fixture
def task(tmp_path: Path) -> tuple[str, ...]:
    """Eight prompts, seven of them evaluated."""
    lines = [json.dumps({"id": name, "question": f"{name}?", "answer": name, "level": 3}) for name in NAMES]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    write_evals(tmp_path / "evals.parquet", EVALUATED)
    return ("prompts.jsonl", "--evals", "evals.parquet", "-o", "out.parquet")


def chosen(tmp_path: Path) -> list[str]:
    problems = load_prompts(str(tmp_path / "out.parquet"), announce=str)
    assert all(p.prompt == f"{p.prompt_id}?" and p.answer == p.prompt_id and p.extra == {"level": 3} for p in problems)
    return [problem.prompt_id for problem in problems]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), ["p0", "p1", "p2", "p8", "p14", "p15", "p16"]),
        # The paper drops 1/16 and 15/16 themselves.
        (("--min-pass", "1/16", "--max-pass", "15/16"), ["p2", "p8", "p14"]),
        (("--min-pass", "0.0625", "--max-pass", "0.9375"), ["p2", "p8", "p14"]),
        (("--max-pass", "1/2"), ["p0", "p1", "p2"]),
        (("--informative",), ["p1", "p2", "p8", "p14", "p15"]),
        (("--min-pass", "0", "--max-pass", "1"), ["p1", "p2", "p8", "p14", "p15"]),
        (("--order", "pass-rate", "--descending"), ["p16", "p15", "p14", "p8", "p2", "p1", "p0"]),
        (("--order", "semantic-entropy", "-n", "3"), ["p16", "p15", "p14"]),
        (("--count", "2"), ["p0", "p1"]),
        # Seven prompts in three stages: two, two and three, from low to high entropy.
        (("--stages", "3", "--stage", "1"), ["p16", "p15"]),
        (("--stages", "3", "--stage", "2"), ["p14", "p8"]),
        (("--stages", "3", "--stage", "3"), ["p2", "p1", "p0"]),
        (("--informative", "--stages", "2", "--stage", "2", "-n", "2"), ["p8", "p2"]),
        (("--stages", "2", "--stage", "1", "--order", "pass-rate"), ["p0", "p1", "p2"]),
    ],
)
def test_what_is_chosen_and_in_which_order(
    cli: Cli, task: tuple[str, ...], tmp_path: Path, flags: tuple[str, ...], expected: list[str]
) -> None:
    ran = cli("select", *task, *flags, "-q")
    assert (ran.code, ran.out, ran.err) == (0, b"", ""), ran
    assert chosen(tmp_path) == expected


def test_what_was_dropped_is_counted_by_reason(cli: Cli, task: tuple[str, ...], tmp_path: Path) -> None:
    flags = ("--min-pass", "1/16", "--max-pass", "15/16", "--stages", "2", "--stage", "2", "-n", "1")
    ran = cli("select", *task, *flags, "--json", "-q")
    assert json.loads(ran.out) == {
        **{"prompts": 8, "selected": 1, "policy_version": 0, "not_evaluated": 1, "low_pass_rate": 2},
        **{"high_pass_rate": 2, "uninformative": 0, "no_semantic_entropy": 0, "other_stages": 1, "beyond_count": 1},
    }
    assert chosen(tmp_path) == ["p8"]
    record = read_rows(str(tmp_path / "out.parquet")).header.chain[-1]
    assert (record["stage"], record["rows"], record["summary"]["low_pass_rate"]) == ("select", 1, 2)
    assert [entry["path"] for entry in record["inputs"]] == ["prompts.jsonl", "evals.parquet"]
    said = cli("select", *task)
    assert "prompts 8, selected 7, policy_version 0, not_evaluated 1" in said.err


def test_a_prompt_without_semantic_entropy_has_no_place_in_its_order(
    cli: Cli, task: tuple[str, ...], tmp_path: Path
) -> None:
    write_evals(tmp_path / "evals.parquet", {"p2": (2, None), "p1": (1, 1.0)})
    ran = cli("select", *task, "--order", "semantic-entropy", "--json", "-q")
    assert (chosen(tmp_path), json.loads(ran.out)["no_semantic_entropy"]) == (["p1"], 1)
    assert cli("select", *task, "--order", "pass-rate", "-q").code == 0
    assert chosen(tmp_path) == ["p1", "p2"]


def test_the_newest_version_counts_unless_another_is_named(cli: Cli, task: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    write_evals(tmp_path / "evals" / "0.parquet", {"p0": (3, 1.0), "p1": (0, 1.0)})
    write_evals(tmp_path / "evals" / "5.parquet", {"p0": (0, 1.0), "p1": (3, 1.0)}, version=5)
    prompts, _, _, *out = task
    ran = cli("select", prompts, "--evals", "evals", *out, "--informative", "--json", "-q")
    assert (chosen(tmp_path), json.loads(ran.out)["policy_version"]) == (["p1"], 5)
    assert cli("select", prompts, "--evals", "evals", *out, "--informative", "--version", 0, "-q").code == 0
    assert chosen(tmp_path) == ["p0"]
    ran = cli("select", prompts, "--evals", "evals", *out, "--version", 3, "-q")
    assert (ran.code, "--version 3: evals has the versions 0, 5" in ran.line) == (2, True), ran


def test_nothing_left_is_an_empty_file_and_a_word(cli: Cli, task: tuple[str, ...], tmp_path: Path) -> None:
    ran = cli("select", *task, "--min-pass", "15/16", "--max-pass", "1")
    assert ran.code == 0 and "no prompt is left" in ran.err, ran
    assert read_rows(str(tmp_path / "out.parquet")).rows.num_rows == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min-pass", "2"), "--min-pass 2: must be a number or a fraction from 0 to 1, such as 1/16"),
        (("--max-pass", "nan"), "--max-pass nan: must be"),
        (("--max-pass", "1/0"), "--max-pass 1/0: must be"),
        (("--min-pass", "0.5", "--max-pass", "1/2"), "--min-pass 0.5: must be below --max-pass 1/2"),
        (("--stages", "2"), "--stages and --stage belong together"),
        (("--stages", "2", "--stage", "3"), "--stage 3: must be at most --stages 2"),
        (("--stages", "0", "--stage", "1"), "--stages"),
        (("--descending",), "--descending: needs --order"),
        (("--order", "length"), "'length' is not one of"),
        (("-n", "0"), "'--count' / '-n': 0 is not in the range"),
    ],
)
def test_flags_that_make_no_sense(cli: Cli, task: tuple[str, ...], flags: tuple[str, ...], words: str) -> None:
    ran = cli("select", *task, *flags)
    assert (ran.code, words in ran.line.replace('"', "'")) == (2, True), ran


def test_inputs_that_cannot_be_used(cli: Cli, task: tuple[str, ...], tmp_path: Path) -> None:
    assert cli("select", "prompts.jsonl", "-o", "out.parquet").line.endswith("--evals is missing; give it a value")
    assert "PROMPTS is missing" in cli("select", *task[1:]).line
    ran = cli("select", "prompts.jsonl", "--evals", "prompts.jsonl", "-o", "out.parquet", "-q")
    assert (ran.code, "has no column 'c'; make it with `entropyctl eval -o`" in ran.line) == (3, True), ran
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        write_evals(tmp_path / "two" / f"{name}.parquet", {"p1": (1, 1.0)})
    ran = cli("select", "prompts.jsonl", "--evals", "two", "-o", "out.parquet", "-q")
    assert (ran.code, "two: problem p1 is there twice" in ran.line) == (3, True), ran
    write_evals(tmp_path / "two" / "b.parquet", {"p2": (1, 1.0)}, semantic_entropy_of="logprobs")
    ran = cli("select", "prompts.jsonl", "--evals", "two", "-o", "out.parquet", "-q")
    assert (ran.code, "were made of counts and logprobs" in ran.line) == (3, True), ran
    assert not (tmp_path / "out.parquet").exists()


KINDS = [
    Problem("a", "2+2?", "4", "sums", {"level": 3, "nested": {"x": [1, None]}}),
    Problem("b", [{"role": "user", "content": "2+2?", "name": "Eve"}], None, None),
    Problem("c", "Question: 2+2?\nAnswer:", "4", "gym:sums", {}, True, ("\n",)),
    Problem("a#1", '[{"role": "user", "content": "a text that looks like messages"}]'),
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_selection_is_read_back_as_the_same_problems(cli: Cli, tmp_path: Path, stream: bool) -> None:
    """Conversations, texts that are to be continued, and stops among them."""
    with write(str(tmp_path / "in.parquet"), "prompts", new_record("select", {})) as sink:
        sink.put(0, as_table(KINDS))
    assert load_prompts(str(tmp_path / "in.parquet"), announce=str) == KINDS
    write_evals(tmp_path / "evals.parquet", {p.prompt_id: (1, 1.0) for p in KINDS})
    ran = cli("select", "in.parquet", "--evals", "evals.parquet", "-q", *(() if stream else ("-o", "out")))
    if stream:
        (tmp_path / "out").write_bytes(ran.out)
    assert load_prompts(str(tmp_path / "out"), announce=str) == KINDS
    assert cli("check", "--full", "out").code == 0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "prompt_kind": "song"}, "row 1: its prompt_kind is song; it must be text, completion"),
        ({"prompt": "x", "prompt_kind": "messages"}, "row 1: its prompt is no conversation in JSON"),
        ({"prompt": "{}", "prompt_kind": "messages"}, "row 1: its prompt is empty"),
    ],
)
def test_a_prompts_table_with_a_mistake(cli: Cli, tmp_path: Path, row: dict[str, str], words: str) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    write_evals(tmp_path / "evals.parquet", EVALUATED)
    ran = cli("select", "p.jsonl", "--evals", "evals.parquet", "-o", "out.parquet", "-q")
    assert (ran.code, words in ran.line) == (3, True), ran


PROBLEMS = [Problem(f"q{i}", "?") for i in range(12)]
MEASURED = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])), min_size=12, max_size=12)


@given(MEASURED, st.integers(1, 5), st.sampled_from(["semantic-entropy", "pass-rate"]), st.booleans(), st.randoms())
def test_stages_part_the_order_evenly_whatever_the_order_of_the_prompts(
    found: list[tuple[int, float]], stages: int, order: Any, descending: bool, rng: random.Random
) -> None:
    measured = {p.prompt_id: Measured(4, c, e) for p, (c, e) in zip(PROBLEMS, found, strict=True)}
    mixed = rng.sample(PROBLEMS, len(PROBLEMS))
    flags: dict[str, Any] = {"order": order, "descending": descending, "informative": True}
    whole = select(PROBLEMS, measured, **flags)
    parts = [select(mixed, measured, **flags, stages=stages, stage=i + 1).problems for i in range(stages)]
    assert [p for part in parts for p in part] == whole.problems
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    values = [measured[p.prompt_id][2 if order == "semantic-entropy" else 1] for p in whole.problems]
    assert values == sorted(values, reverse=descending)
    assert len(whole.problems) + sum(whole.dropped.values()) == 12
    strict = select(PROBLEMS, measured, min_pass=Fraction(0), max_pass=Fraction(1))
    assert {p.prompt_id for p in strict.problems} == {p.prompt_id for p in whole.problems}


def test_from_rollouts_to_the_next_stage_of_a_curriculum(cli: Cli, policy_root: Path, tmp_path: Path) -> None:
    """rollout | score | eval, select, and rollout of the selection under the same names."""
    (tmp_path / "grader.py").write_text(
        "def score(solution_str, ground_truth):\n"
        "    return {'score': len(solution_str) % 2, 'pred': str(len(solution_str) % 3)}\n"
    )
    lines = [json.dumps({"question": f"say {i}", "answer": "x"}) for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    options = ("--policy", policy_root, "--max-tokens", 6)
    rolled = cli("rollout", *options, "--prompts", "prompts.jsonl", "-n", 4, "-q")
    scored = cli("score", "--policy", policy_root, "--reward", "python:grader:score", "-q", stdin=rolled.out)
    assert cli("eval", "-q", "-o", "evals.parquet", stdin=scored.out).code == 0
    evals = {row["prompt_id"]: row for row in read_rows(str(tmp_path / "evals.parquet")).rows.to_pylist()}
    assert {row["semantic_entropy_of"] for row in evals.values()} == {"logprobs"}
    assert len({row["semantic_entropy"] for row in evals.values()}) > 2
    stages = []
    for i in (1, 2):
        flags = ("--stages", 2, "--stage", i)
        selected = cli("select", "prompts.jsonl", "--evals", "evals.parquet", *flags, "-q")
        again = cli("rollout", *options, "--prompts", "-", "-n", 1, "-q", "-o", "r.parquet", stdin=selected.out)
        assert again.code == 0, (selected, again)
        stages.append(read_rows(str(tmp_path / "r.parquet")).rows["prompt_id"].to_pylist())
    low, high = ([evals[name]["semantic_entropy"] for name in names] for names in stages)
    assert len(low) == len(high) == 3 and low == sorted(low) and max(low) <= min(high)
    assert set(stages[0]) | set(stages[1]) == set(evals)
