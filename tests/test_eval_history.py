"""A directory of evaluations: added to by many at once, looked up by digests, watched by rules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from entropyctl.errors import InputError, UsageError
from entropyctl.evaluation.alerts import Alert, look, parse_rule
from entropyctl.evaluation.evaluation import Evaluation
from entropyctl.evaluation.history import History
from entropyctl.evaluation.recording import parse_threshold, remember
from entropyctl.laws.evaluate import evaluate
from entropyctl.laws.summary import summarise
from entropyctl.table import new_record
from entropyctl.table.rows import read_rows

from .conftest import CONTEXT, ROOT, Cli, write_scored

PROBLEMS, N = 20, 8


def graded(c: list[int], version: int = 0, n: int = N) -> pa.Table:
    """n responses to each problem, the first c of them correct."""
    count = len(c)
    outcome = ["correct" if i < right else "wrong" for right in c for i in range(n)]
    return pa.table(
        {
            "step": pa.array([1] * count * n, pa.int64()),
            "prompt_id": [f"p{i}" for i in range(count) for _ in range(n)],
            "sample": pa.array([i for _ in range(count) for i in range(n)], pa.int32()),
            "policy_version": pa.array([version] * count * n, pa.int64()),
            "outcome": outcome,
            "predicted": ["1" if right == "correct" else "2" for right in outcome],
        }
    )


def an_evaluation(c: list[int], version: int, n: int = N) -> Evaluation:
    facts = {"series": "s" * 16, "key": f"{version:016d}", "n": n, "policy_version": version}
    return Evaluation(evaluate([graded(c, version, n)]), "x", {}, [], [], facts)


def held_against(directory: Path, rules: list[str], series: list[list[int]], n: int = N) -> list[list[str]]:
    """What is said of each evaluation of a series, one after the other."""
    history, parsed = History(str(directory)), [parse_rule(rule) for rule in rules]
    found = [an_evaluation(c, version, n) for version, c in enumerate(series)]
    return [remember(history, one, new_record("eval", {}), parsed) for one in found]


def test_a_rule_speaks_once_and_again_when_it_has_been_untrue_meanwhile(tmp_path: Path) -> None:
    good, bad = [4] * PROBLEMS, [1] * PROBLEMS
    said = held_against(tmp_path, ["pass@1 < 0.3"], [good, bad, bad, good, bad])
    assert [bool(lines) for lines in said] == [False, True, False, False, True]
    assert said[1] == ["pass@1 < 0.3: pass@1 is 0.125 at policy version 1"]


def test_a_rule_over_the_evaluation_before_says_which_that_was(tmp_path: Path) -> None:
    said = held_against(tmp_path, ["pass@1 < previous - 0.1"], [[4] * PROBLEMS, [3] * PROBLEMS, [3] * PROBLEMS])
    line = "pass@1 < previous - 0.1: pass@1 is 0.375 at policy version 1, previous 0.5 at version 0"
    assert said == [[], [line], []]


def test_a_standard_error_is_that_of_the_difference_paired_by_problem(tmp_path: Path) -> None:
    # Differences of -1/8 at half of 20 problems and 0 at the others: mean -0.0625, deviation 0.0641, se 0.01434.
    before, after = [2, 6] * 10, [1, 6] * 10
    assert held_against(tmp_path / "a", ["pass@1 < previous - 4se"], [before, after])[1] == [
        "pass@1 < previous - 4se: pass@1 is 0.4375 at policy version 1, previous 0.5 at version 0, se 0.014"
    ]
    assert held_against(tmp_path / "b", ["pass@1 < previous - 5se"], [before, after])[1] == []
    # One problem alone has none, and a rule that needs it does not hold.
    assert held_against(tmp_path / "c", ["pass@1 < previous - 1se"], [[8], [0]])[1] == []


@pytest.mark.parametrize(
    ("rule", "series", "speaks"),
    [
        ("pass@8 < first", [[1, 0], [1, 1], [0, 0]], [False, False, True]),
        ("pass@1 < 0.5*best", [[4, 4], [6, 6], [2, 2]], [False, False, True]),
        ("cons@n < previous", [[8, 8], [8, 8], [8, 3]], [False, False, True]),
        ("avg@n >= previous + 0.2", [[2, 2], [2, 2], [6, 6]], [False, False, True]),
        ("all_wrong > 1", [[1, 1], [0, 1], [0, 0]], [False, False, True]),
        ("entropy < 0.1*first", [[4, 4], [4, 4]], [False, False]),  # not known of these responses
    ],
)
def test_what_rules_can_say(tmp_path: Path, rule: str, series: list[list[int]], speaks: list[bool]) -> None:
    assert [bool(lines) for lines in held_against(tmp_path, [rule], series)] == speaks


def test_more_samples_of_the_same_policy_are_not_the_evaluation_before(tmp_path: Path) -> None:
    history, rules = History(str(tmp_path)), [parse_rule("pass@1 < previous")]
    for version, c in ((0, [4, 4]), (1, [5, 5])):
        assert remember(history, an_evaluation(c, version), new_record("eval", {}), rules) == []
    again = an_evaluation([3, 3], 1)
    [line] = remember(history, again, new_record("eval", {}), rules)
    assert line.endswith("pass@1 is 0.375 at policy version 1, previous 0.5 at version 0")


def test_a_rule_that_was_not_watched_before_speaks_at_once(tmp_path: Path) -> None:
    held_against(tmp_path, [], [[1] * 3])
    history = History(str(tmp_path))
    assert remember(history, an_evaluation([1] * 3, 1), new_record("eval", {}), [parse_rule("pass@1 < 0.5")])


def test_evaluations_of_fewer_samples_do_not_know_a_larger_k(tmp_path: Path) -> None:
    history, rules = History(str(tmp_path)), [parse_rule("pass@8 < previous"), parse_rule("pass@8 < first")]
    asked = ((0, [2, 2], 4), (1, [4, 4], 8), (2, [1, 1], 4), (3, [0, 4], 8))
    said = []
    for version, c, n in asked:
        known = rules if n == 8 else []
        said.append(remember(history, an_evaluation(c, version, n), new_record("eval", {}), known))
    assert said[:3] == [[], [], []]
    assert said[3] == [
        f"pass@8 < {of}: pass@8 is 0.5 at policy version 3, {of} 1 at version 1" for of in ("previous", "first")
    ]


def test_a_rule_that_nobody_asked_meanwhile_does_not_speak_again(tmp_path: Path) -> None:
    history, rules = History(str(tmp_path)), [parse_rule("pass@1 < 0.5")]
    asked = [rules, [], rules]
    said = [remember(history, an_evaluation([1] * 3, v), new_record("eval", {}), r) for v, r in enumerate(asked)]
    assert [len(lines) for lines in said] == [1, 0, 0]


def test_a_file_that_only_has_the_name_of_an_evaluation_is_named(tmp_path: Path) -> None:
    held_against(tmp_path, [], [[4, 4]])
    [path] = tmp_path.glob("*.parquet")
    stranger = write_scored(tmp_path / f"2000{path.name[4:]}", graded([1]))
    with pytest.raises(InputError, match=f"{stranger.name}: is no evaluation, but is named like one; move it out"):
        held_against(tmp_path, ["pass@1 < first"], [[4, 4]])


def test_a_history_lies_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--history s3://bucket/evals: must be a local directory"):
        History("s3://bucket/evals")
    assert History(f"file://{tmp_path}/evals").directory == tmp_path / "evals"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("pass@32", "is no rule; write 'pass@32 < previous - 2se'"),
        ("pass@32 < __import__('os')", "is no rule"),
        ("reward < 1", "there is no 'reward'; known: pass@K, cons@n, avg@n, entropy"),
        ("cons@3 < 1", "there is no 'cons@3'"),
        ("entropy < previous - 2se", "only pass@K, avg@n and cons@n have a standard error"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"--alert '.*': .*{words.replace('(', '.')}".replace("*'", "*")):
        parse_rule(rule)


def test_a_k_above_n_is_refused() -> None:
    evals = evaluate([graded([1, 2])])
    with pytest.raises(UsageError, match="pass@32 needs k <= n, and n is 8"):
        look(parse_rule("pass@32 < 0.5"), evals, summarise(evals), "k", [])


@pytest.mark.parametrize(
    ("text", "found"), [("pass@8=0.3", ("pass@8", 0.3)), ("0.3", ("avg@n", 0.3)), ("cons@n=1", ("cons@n", 1.0))]
)
def test_thresholds(text: str, found: tuple[str, float]) -> None:
    assert parse_threshold(text) == found


def test_no_rule_holds_that_nothing_is_known_of() -> None:
    evals = evaluate([graded([1, 2])])
    assert look(parse_rule("pass@1 < previous"), evals, summarise(evals), "k", []) == Alert(False, False, "")


def test_the_command_adds_and_ends_with_10_once(cli: Cli, tmp_path: Path) -> None:
    for name, c in (("a", [4] * 6), ("b", [0, 1, 2] * 2), ("c", [0, 1, 2] * 2)):
        write_scored(tmp_path / f"{name}.parquet", graded(c))
    watch = ("--history", "h", "--alert", "pass@4 < previous - 2se", "--alert", "avg@n < 0.2", "-q")
    ran = [cli("eval", f"{name}.parquet", *watch) for name in ("a", "b", "c")]
    assert [(one.code, one.out) for one in ran] == [(0, b""), (10, b""), (0, b"")], ran
    assert [one.err for one in (ran[0], ran[2])] == ["", ""]
    assert ran[1].line == (
        "entropyctl eval: pass@4 < previous - 2se: pass@4 is 0.4286 at policy version 0, previous 0.9857 at version 0, "
        "se 0.15; avg@n < 0.2: avg@n is 0.125 at policy version 0"
    )
    # The history is a table: three evaluations of six problems.
    assert read_rows(str(tmp_path / "h")).rows["c"].to_pylist() == [4] * 6 + [0, 1, 2] * 4


def test_what_cannot_be_finished_is_not_added_and_loses_no_alert(cli: Cli, tmp_path: Path) -> None:
    write_scored(tmp_path / "s.parquet", graded([1] * 6))
    command = ("eval", "s.parquet", "--history", "h", "--alert", "pass@1 < 0.5", "-q")
    for fault in (("--against", "missing.parquet"), ("--export", "lm-eval=no/r.json"), ("--fail-under", "pass@99=1")):
        assert cli(*command, *fault).code in (2, 3, 6)
    assert list((tmp_path / "h").glob("*.parquet")) == []
    assert cli(*command).code == 10


def test_a_history_is_evaluated_with_each_problem_counted_once(cli: Cli, tmp_path: Path) -> None:
    """Version 0 with 8 responses and again with 16, and version 1."""
    for name, rows in (("a", graded([4] * 6)), ("b", graded([12] * 6, n=16)), ("c", graded([2] * 6, 1))):
        assert cli("eval", write_scored(tmp_path / f"{name}.parquet", rows), "--history", "h", "-q").code == 0
    ran = cli("eval", "h", "--json", "-o", "e.parquet")
    assert ran.line == "entropyctl: h: left out 6 earlier counts of problems that were evaluated again"
    found = [
        (one["policy_version"], one["responses"], one["avg@n"]["mean"]) for one in json.loads(ran.out)["by_policy"]
    ]
    assert found == [(0, 96, 0.75), (1, 48, 0.25)]
    assert read_rows(str(tmp_path / "e.parquet")).rows["n"].to_pylist() == [16] * 6 + [8] * 6


def test_thresholds_of_the_command(cli: Cli, tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", graded([4, 0]))
    ran = cli("eval", path, "-q", "--fail-under", "pass@8=0.6", "--fail-under", "cons@n=0.2", "--fail-under", "0.3")
    assert ran.code == 10, ran
    assert ran.line == (
        "entropyctl eval: pass@8 is 0.5000, below --fail-under 0.6; avg@n is 0.2500, below --fail-under 0.3"
    )
    assert cli("eval", path, "-q", "--fail-under", "pass@8=0.5").code == 0
    assert "there is no 'x'" in cli("eval", path, "-q", "--fail-under", "x=1").line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--alert", "pass@1 < 1"), "--alert: needs --history"),
        (("--skip-if-done",), "--skip-if-done: needs --history"),
        (("--add-samples", "2"), "--add-samples: belongs to --policy"),
        (("--new-only", "p"), "--new-only: needs --history"),
        (("--export", "csv"), "--export csv: there is no format 'csv'; known: passk-jsonl, lm-eval"),
    ],
)
def test_options_that_do_not_go_together(cli: Cli, scored: Path, args: tuple[str, ...], words: str) -> None:
    ran = cli("eval", scored, *args)
    assert ran.code == 2 and words in ran.line, ran


def test_twenty_at_once_lose_none_and_one_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """Twenty evaluations of as many files, and three more that are killed at any instant."""
    paths = [write_scored(tmp_path / f"{i:02d}.parquet", graded([i % 9] * 3, i)) for i in range(23)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "entropyctl", "eval", str(path), "--history", "h", "-q"]
        return subprocess.Popen(
            [*command, "--alert", "pass@1 > 2"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
        )

    running = [start(path) for path in paths]
    rng = np.random.default_rng(0)
    for process in running[20:]:
        time.sleep(float(rng.uniform(0, 1)))
        process.send_signal(signal.SIGKILL)
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running[:20]] == [0] * 20, said
    files = sorted((tmp_path / "h").glob("*.parquet"))
    versions = [set(read_rows(str(path)).rows["policy_version"].to_pylist()) for path in files]
    assert all(len(found) == 1 for found in versions)
    found = sorted(next(iter(one)) for one in versions)
    assert [version for version in found if version < 20] == list(range(20))
    assert len(set(found)) == len(found)


def test_exports(cli: Cli, tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", graded([4, 0], 3), context=CONTEXT)
    ran = cli("eval", path, "--export", "passk-jsonl", "--export", "lm-eval=r.json", "-q")
    assert [json.loads(line) for line in ran.text.splitlines()] == [
        {"id": "p0", "c": 4, "n": 8},
        {"id": "p1", "c": 0, "n": 8},
    ]
    result: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    pooled = result["results"]["pooled"]
    assert pooled["alias"] == "pooled" and pooled["pass@8,none"] == 0.5 and pooled["avg@8,none"] == 0.25
    assert pooled["pass@8_stderr,none"] == pytest.approx(0.5)  # deviation sqrt(1/2) over sqrt(2)
    assert result["n-samples"]["pooled"] == {"original": 2, "effective": 2}
    assert result["configs"]["pooled"]["generation_kwargs"]["temperature"] == 1.0
    assert result["higher_is_better"]["pooled"]["pass@1"] is True
    two = write_scored(tmp_path / "two.parquet", graded([4, 0], 3), graded([4, 0], 4).set_column(0, "step", [[2] * 16]))
    refused = cli("eval", two, "--export", "passk-jsonl", "-q")
    assert refused.code == 2 and "holds the policy versions 3, 4; export files of one version each" in refused.line


def test_problems_without_a_data_source_are_exported_too(cli: Cli, tmp_path: Path) -> None:
    rows = graded([4, 0]).append_column("data_source", [["aime"] * 8 + [None] * 8])
    text = cli("eval", write_scored(tmp_path / "s.parquet", rows), "--export", "lm-eval", "-q").text
    assert {name: one["avg@8,none"] for name, one in json.loads(text)["results"].items()} == {
        "aime": 0.5,
        "pooled": 0.25,
    }


def test_an_export_that_does_not_fit_on_the_disk_is_named(cli: Cli, tmp_path: Path) -> None:
    rows = graded([4, 0])
    path = write_scored(
        tmp_path / "s.parquet", rows.set_column(1, "prompt_id", [[f"{i // N}" * 9000 for i in range(16)]])
    )
    ran = cli("eval", path, "--export", "passk-jsonl=/dev/full", "-q")
    assert ran.code == 6 and ran.line.startswith("entropyctl eval: /dev/full: the disk is full"), ran


def test_against_another_evaluation(cli: Cli, tmp_path: Path) -> None:
    base = write_scored(tmp_path / "base.parquet", graded([1, 2, 1, 2, 1, 2, 1, 2]))
    new = write_scored(tmp_path / "new.parquet", graded([8, 8, 8, 8, 0, 0, 0, 1], 1)[:56])
    assert cli("eval", base, "-q", "-o", "base-evals.parquet").code == 0
    ran = cli("eval", new, "--against", "base-evals.parquet")
    assert ran.code == 0, ran
    text = " ".join(ran.text.split())
    assert "against base-evals.parquet, 7 problems that both have:" in text
    assert "pass rates: rose 4 (4 beyond noise), fell 3 (0 beyond noise), same 0" in text
    assert "left out: 1 problems that are only there" in text
    found = json.loads(cli("eval", new, "--against", base, "--json").out)["comparison"]
    assert found["difference"][0] == pytest.approx(4 / 7 - (1 + 2 + 1 + 2 + 1 + 2 + 1) / 56)
    assert len(found["low"]) == 8
    assert found["movement"]["from_to"]["mixed"] == {"all_wrong": 3, "mixed": 0, "all_right": 4}


def test_evaluations_of_unlike_sampling_are_not_compared(cli: Cli, tmp_path: Path) -> None:
    hot = {**CONTEXT, "sampling": {**CONTEXT["sampling"], "temperature": 0.6}}
    base = write_scored(tmp_path / "base.parquet", graded([1, 2]), context=hot)
    new = write_scored(tmp_path / "new.parquet", graded([1, 2]))
    ran = cli("eval", new, "--against", base, "-q")
    assert ran.code == 5 and "sampling.temperature is 0.6" in ran.line, ran
    assert cli("eval", new, "--against", base, "-q", "--allow-mismatch", "sampling.temperature").code == 0
    by_math = new_record("score", {"reward": "math"})
    other = write_scored(tmp_path / "math.parquet", graded([1, 2]), record=by_math)
    exact = write_scored(tmp_path / "exact.parquet", graded([1, 2]), record=new_record("score", {"reward": "exact"}))
    ran = cli("eval", other, "--against", exact, "-q")
    assert ran.code == 5 and "grading.reward is exact" in ran.line, ran
