"""Dumps of other programs: what becomes of each field, what later stages make of it, and what a damaged file says."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.errors import InputError
from entropyctl.imports import Dump, import_rows, nemo_rl, open_dumps, prime_rl, trl, verl
from entropyctl.imports.verl import verdict

from .conftest import ROOT, Cli

DUMPS = ROOT / "tests" / "dumps"
Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    return list(pq.read_table(path).to_pylist())


def imported(cli: Cli, tmp_path: Path, *args: str | Path) -> list[Row]:
    ran = cli("import", *args, "-o", "out.parquet")
    assert ran.code == 0, ran
    assert cli("check", "--full", "out.parquet").code == 0
    return rows(tmp_path / "out.parquet")


def lines(path: Path, *records: Row | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def only(row: Row, *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def piped(cli: Cli, first: tuple[str | Path, ...], *others: tuple[str | Path, ...]) -> Any:
    """Each command with what the one before it wrote."""
    ran = cli(*first)
    for command in others:
        assert ran.code == 0, ran
        ran = cli(*command, stdin=ran.out)
    return ran


# verl


def test_the_rows_of_verls_older_trainer(cli: Cli, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "verl", DUMPS / "verl" / "legacy")
    assert [row["step"] for row in found] == [9] * 4 + [10] * 4  # not in the order of the files' names
    two, three = found[0]["prompt_id"], found[2]["prompt_id"]
    assert [only(row, "prompt_id", "sample") for row in found[:4]] == [(two, 0), (two, 1), (three, 0), (three, 1)]
    assert [row["prompt_id"] for row in found[4:]] == [two, two, three, three]
    assert found[2] == {
        "step": 9,
        "prompt_id": three,
        "sample": 0,
        "prompt": "user\nWhat is 3 + 4?\nassistant\n",
        "answer": "7",
        "extra": '{"overlong_reward":-0.5}',
        "response": "\\boxed{7} …",
        "reward": 0.5,
        "outcome": "wrong",
        "predicted": "7",
    }
    assert [row["outcome"] for row in found[:4]] == ["correct", "wrong", "wrong", "correct"]  # "True" and "False"


def test_a_rollout_of_verls_v1_trainer_has_no_verdict(cli: Cli, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "verl", DUMPS / "verl" / "v1")
    assert [only(row, "sample", "reward", "extra") for row in found] == [
        (0, 1.0, '{"uid":"5a0c_0_0"}'),
        (1, -0.25, '{"uid":"5a0c_1_0"}'),
        (0, 1.0, '{"uid":"5a1c_0_0"}'),
        (1, 0.0, '{"uid":"5a1c_1_0"}'),
    ]
    assert "outcome" not in found[0]


def test_verls_validation_has_the_shaped_reward_beside_the_score(cli: Cli, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "verl", DUMPS / "verl" / "validation")
    assert [row["reward"] for row in found] == [1.0, -0.25, 1.0, -0.125]
    assert json.loads(found[1]["extra"]) == {"score": 0.0, "uid": "5a0c_1_0"}
    assert [row["outcome"] for row in found] == ["correct", "wrong", "correct", None]  # acc 0.5 is no verdict
    assert [row["predicted"] for row in found] == ["4", "5", "7", None]


@pytest.mark.parametrize(
    ("acc", "says"),
    [
        *((True, "correct"), (1, "correct"), (1.0, "correct"), ("True", "correct"), ("1.0", "correct")),
        *((False, "wrong"), (0, "wrong"), (0.0, "wrong"), ("False", "wrong"), ("0.0", "wrong")),
        *((0.5, None), (-1.0, None), (None, None), ("yes", None), (math.nan, None)),
    ],
)
def test_what_acc_says(acc: Any, says: str | None) -> None:
    assert verdict(acc) == says


def test_eval_reads_what_verl_called_right(cli: Cli) -> None:
    dump = ("import", "verl", DUMPS / "verl" / "legacy", "-q")
    pooled = json.loads(piped(cli, dump, ("eval", "--json")).out)["pooled"]
    assert (pooled["avg@n"]["mean"], pooled["pass@k"]["4"]["mean"]) == (0.5, 1.0)


def test_a_dump_of_verl_is_graded_again_without_tokens(cli: Cli, tmp_path: Path) -> None:
    ran = piped(
        cli,
        ("import", "verl", DUMPS / "verl" / "v1", "-q"),
        ("score", "--reward", "exact", "-o", "again.parquet"),
    )
    assert ran.code == 0, ran
    assert [row["outcome"] for row in rows(tmp_path / "again.parquet")] == ["correct", "wrong", "correct", "wrong"]


def test_a_stage_that_misses_a_column_says_who_makes_it(cli: Cli) -> None:
    dump = ("import", "verl", DUMPS / "verl" / "v1", "-q")
    no_verdict = piped(cli, dump, ("eval",))
    assert no_verdict.line == (
        "entropyctl eval: standard input: column 'outcome' is missing; it is made by `entropyctl score --reward`"
    )
    no_tokens = piped(cli, dump, ("advantage", "grpo"))
    assert "column 'loss_mask' is missing; it is made by `entropyctl rollout`" in no_tokens.line


def test_a_reward_that_counts_as_correct_is_named_by_the_user(cli: Cli) -> None:
    dump = ("import", "verl", DUMPS / "verl" / "v1", "-q", "--correct-from", "1")
    assert json.loads(piped(cli, dump, ("eval", "--json")).out)["pooled"]["avg@n"]["mean"] == 0.5


def test_responses_without_a_score_are_counted(cli: Cli, tmp_path: Path) -> None:
    base = {"input": "q", "output": "a", "gts": None, "step": 1}
    lines(tmp_path / "1.jsonl", *(json.dumps({**base, "score": score}) for score in (0.5, None, math.nan)))
    ran = cli("import", "verl", "1.jsonl", "-o", "r.parquet")
    assert ran.code == 0 and "import verl: 2 of 3 responses have no score" in ran.err
    assert "have no score" not in cli("import", "verl", "1.jsonl", "-o", "r.parquet", "-q").err


def test_scores_of_verl_that_are_no_numbers(tmp_path: Path) -> None:
    base = {"input": "q", "output": "a", "gts": None, "step": 1}
    path = lines(tmp_path / "1.jsonl", *(json.dumps({**base, "score": s}) for s in ("0.5", math.nan, None, True)))
    (step,) = import_rows(verl, open_dumps([str(path)]))
    assert step.rows["reward"].to_pylist() == [0.5, None, None, 1.0]


# TRL


def test_the_completions_of_trl(cli: Cli, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "trl", DUMPS / "trl-text" / "completions")
    assert [row["step"] for row in found] == [1] * 8 + [2] * 8
    assert only(found[2], "prompt", "prompt_kind", "response") == ("What is 2 + 3 ?", None, "2 What <a> answer 5")
    assert only(found[2], "reward", "extra") == (1.0, '{"solution":"5"}')
    assert "outcome" not in found[0] and "tokens" not in found[0]


def test_the_groups_and_rewards_are_those_that_trl_computed_its_advantages_from(cli: Cli, tmp_path: Path) -> None:
    """A = (r - mean) / (std + 1e-4) over the four responses to a prompt, with the unbiased deviation."""
    chosen = ("--rewards", "accuracy_reward,length_reward")
    for args in (("trl", DUMPS / "trl-text"), ("trl", DUMPS / "trl-chat", *chosen)):
        found = imported(cli, tmp_path, *args)
        assert [row["sample"] for row in found] == [0, 1, 2, 3] * 4
        reward_GN = np.array([row["reward"] for row in found]).reshape(4, 4)
        spread_G1 = reward_GN.std(axis=1, ddof=1, keepdims=True) + 1e-4
        advantage_GN = (reward_GN - reward_GN.mean(axis=1, keepdims=True)) / spread_G1
        np.testing.assert_allclose([row["advantage"] for row in found], advantage_GN.reshape(-1), atol=1e-6)


def test_several_rewards_of_trl_are_named_and_weighted(cli: Cli, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "trl", DUMPS / "trl-chat", "--rewards", "accuracy_reward,length_reward=2")
    for row in found:
        parts = only(row, "reward_accuracy_reward", "reward_length_reward")
        assert row["reward"] == pytest.approx(parts[0] + 2 * (parts[1] or 0))
    unscored = [row for row in found if row["reward_length_reward"] is None]
    assert unscored and all("?" in row["response"] for row in unscored)  # where the function returned None
    assert only(found[0], "prompt", "prompt_kind") == ('[{"content":"What is 2 + 3 ?","role":"user"}]', "messages")


def test_which_column_is_the_reward_is_not_guessed(cli: Cli, tmp_path: Path) -> None:
    ran = cli("import", "trl", DUMPS / "trl-chat", "-o", "out.parquet")
    told = (
        "entropyctl: accuracy_reward, length_reward could all be rewards; without --rewards the table has no 'reward'"
    )
    assert ran.err.splitlines()[0] == told and ran.err.count("could all be") == 1, ran
    first = rows(tmp_path / "out.parquet")[0]
    assert "reward" not in first and {"accuracy_reward", "length_reward"} <= set(json.loads(first["extra"]))


def test_a_reward_that_trl_has_not_is_named(cli: Cli) -> None:
    ran = cli("import", "trl", DUMPS / "trl-text", "--rewards", "accuracy", "-o", "out.parquet")
    assert ran.code == 3
    assert "completions_00001.parquet: row 1: has no column 'accuracy' of rewards; it has step, prompt," in ran.line
    odd = cli("import", "trl", DUMPS / "trl-text", "--rewards", "a=much", "-o", "out.parquet")
    assert (odd.code, "--rewards a=much: must be NAME or NAME=WEIGHT" in odd.line) == (2, True), odd


def test_eval_reads_what_trl_rewarded(cli: Cli) -> None:
    dump = ("import", "trl", DUMPS / "trl-text", "-q", "--correct-from", "1")
    pooled = json.loads(piped(cli, dump, ("eval", "--json", "-k", "1,4")).out)["pooled"]
    assert pooled["avg@n"]["mean"] == 6 / 16 and pooled["pass@k"]["4"]["mean"] == 1.0


# NeMo-RL


def nemo_line(number: int, response: list[int], reward: float, lasting: int = 6, **more: Any) -> Row:
    """A line of train_data_stepN.jsonl: the prompt 5 6, the response, padding, each in a batch of one."""
    ids = [5, 6, *response]
    pad = [0] * (lasting - len(ids))
    mask = [0, 0] + [1] * len(response) + pad
    logprobs = [0.0, 0.0] + [-0.5 - 0.25 * i for i in range(len(response))] + [0.0] * len(pad)
    return {
        "content": [["What is 2 + 2?", f"answer {number}"]],
        "rewards": [reward],
        "input_lengths": [len(ids)],
        "token_ids": [ids + pad],
        "token_loss_mask": [mask],
        "sample_loss_mask": [1.0],
        "advantages": [[reward - 0.5] * lasting],
        "generation_logprobs": [logprobs],
        "prev_logprobs": [[x * 1.5 for x in logprobs]],
        "idx": number,
        **more,
    }


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    data = [nemo_line(0, [7, 8, 2], 1.0), nemo_line(1, [9, 2], 0.0), nemo_line(2, [7, 7, 7, 7], 0.0)]
    data[2]["sample_loss_mask"] = [0.0]  # an overlong response that the run left out
    lines(tmp_path / "exp_001" / "train_data_step10.jsonl", *data)
    return lines(tmp_path / "exp_001" / "train_data_step2.jsonl", *data).parent


def test_the_training_data_of_nemo_rl(cli: Cli, nemo: Path, tmp_path: Path) -> None:
    found = imported(cli, tmp_path, "nemo-rl", nemo)
    assert [row["step"] for row in found] == [2] * 3 + [10] * 3
    prompt_id = found[0].pop("prompt_id")
    assert found[0] == {
        "step": 2,
        "sample": 0,
        "prompt": "What is 2 + 2?",
        "prompt_kind": None,
        "extra": None,
        "prompt_tokens": [5, 6],
        "tokens": [7, 8, 2],
        "response": "answer 0",
        "rollout_logprobs": [-0.5, -0.75, -1.0],
        "loss_mask": [True, True, True],
        "reward": 1.0,
        "logprobs": [-0.75, -1.125, -1.5],
        "advantages": [0.5, 0.5, 0.5],
    }
    assert only(found[1], "prompt_id", "sample", "tokens", "advantages") == (prompt_id, 1, [9, 2], [-0.5, -0.5])
    assert only(found[2], "loss_mask", "advantages") == ([False] * 4, [0.0] * 4)
    assert found[2]["logprobs"] == [-0.75, -1.125, -1.5, -1.875]  # known all the same


def test_the_stages_of_a_loop_read_nemo_rl(cli: Cli, nemo: Path, tmp_path: Path) -> None:
    ran = piped(
        cli,
        ("import", "nemo-rl", nemo / "train_data_step2.jsonl", "-q", "--temperature", "0.5"),
        ("advantage", "grpo", "-q"),
        ("mask", "importance", "-q", "-o", "masked.parquet"),
    )
    assert ran.code == 0, ran
    first = rows(tmp_path / "masked.parquet")[0]
    np.testing.assert_allclose(first["weights"], np.exp([-0.25, -0.375, -0.5]), rtol=1e-6)  # p_trainer / p_sampler
    np.testing.assert_allclose(first["advantages"], [(1 - 1 / 3) / (math.sqrt(1 / 3) + 1e-6)] * 3, rtol=1e-5)
    context = json.loads(pq.read_metadata(tmp_path / "masked.parquet").metadata[b"entropyctl.context"])
    assert context == {"sampling": {"temperature": 0.5}}


def test_dynamic_sampling_keeps_the_rewards_of_what_it_trained_on(tmp_path: Path) -> None:
    line = nemo_line(0, [7], 0.25, rewards=[0.75], filtered_rewards=[0.25])
    (step,) = import_rows(nemo_rl, open_dumps([str(lines(tmp_path / "train_data_step1.jsonl", line))]))
    assert step.rows["reward"].to_pylist() == [0.25]


def test_training_data_of_earlier_versions_is_read_as_text(tmp_path: Path) -> None:
    line = {"content": [["Why?", "So."]], "rewards": [1.0], "generation_logprobs": [[0.0, -1.0]], "idx": 0}
    path = lines(tmp_path / "train_data_step3.jsonl", line, line | {"idx": 1})
    (step,) = import_rows(nemo_rl, open_dumps([str(path)]))
    assert step.rows.column_names == [
        *("step", "prompt_id", "sample", "prompt", "prompt_kind", "extra", "response", "reward"),
    ]
    assert step.rows["sample"].to_pylist() == [0, 1] and step.rows["response"].to_pylist() == ["So.", "So."]


def test_an_advantage_for_a_response_is_that_of_each_of_its_tokens(tmp_path: Path) -> None:
    path = lines(tmp_path / "train_data_step1.jsonl", nemo_line(0, [7, 8], 1.0, advantages=[-1.5]))
    (step,) = import_rows(nemo_rl, open_dumps([str(path)]))
    assert step.rows["advantages"].to_pylist() == [[-1.5, -1.5]]


def test_validation_of_nemo_rl_tells_the_roles_apart(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    more = [*talk, {"role": "environment", "content": "no"}, {"role": "assistant", "content": "5"}]
    path = lines(
        tmp_path / "val_data_step7.jsonl",
        {"content": [talk], "rewards": [1.0], "idx": 0},
        {"content": [more], "rewards": [0.0], "idx": 1},
    )
    (step,) = import_rows(nemo_rl, open_dumps([str(path)]))
    assert step.number == 7
    assert step.rows["prompt"].to_pylist() == ['[{"content":"2 + 2?","role":"user"}]'] * 2
    assert step.rows["response"].to_pylist() == ["4", "4\n5"]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 99), min_size=1, max_size=4),
            st.lists(st.tuples(st.integers(0, 99), st.booleans()), max_size=6),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_token_of_nemo_rl_is_lost_or_moved(
    tmp_path_factory: pytest.TempPathFactory, batch: list[tuple[list[int], list[tuple[int, bool]], int]]
) -> None:
    """Prompt and response behind one another are the tokens of the dump, and numbers stay with their token."""
    records = []
    for prompt, turns, padding in batch:
        turns = [(9, True), *turns]  # a response begins with a token of its own
        ids, mask = [*prompt, *(t for t, _ in turns)], [0] * len(prompt) + [int(own) for _, own in turns]
        length, pad = len(ids), [0] * padding
        logprobs = [-float(i) / 8 for i in range(length)] + [0.0] * padding
        records.append(
            {
                "rewards": [0.0],
                "input_lengths": [length],
                "token_ids": [ids + pad],
                "token_loss_mask": [mask + pad],
                "generation_logprobs": [logprobs],
            }
        )
    path = lines(tmp_path_factory.mktemp("nemo") / "train_data_step1.jsonl", *records)
    (step,) = import_rows(nemo_rl, open_dumps([str(path)]))
    found = sorted(
        (row["prompt_tokens"] + row["tokens"], row["loss_mask"], row["rollout_logprobs"])
        for row in step.rows.to_pylist()
    )
    wanted = []
    for record, (prompt, turns, _) in zip(records, batch, strict=True):
        begin, end = len(prompt), record["input_lengths"][0]
        own = [True, *(o for _, o in turns)]
        logprobs = record["generation_logprobs"][0][begin:end]
        kept = [x if chosen else 0.0 for x, chosen in zip(logprobs, own, strict=True)]
        wanted.append((record["token_ids"][0][:end], own, kept))
    assert found == sorted(wanted)


# prime-rl


def export_line(ids: list[int], mask: list[int], **more: Any) -> Row:
    """A line of token_exports/step_N/rank_R.jsonl, of schema 1."""
    counted = [i for i, m in enumerate(mask) if m]
    entropy = [0.5 if m else 0.25 for m in mask]
    return {
        **{"schema_version": 1, "step": 12, "export_step": 3, "rank": 0, "micro_step": 0, "micro_sequence_idx": 0},
        **{"export_sequence_idx": 0, "run_id": None, "env_name": "gsm8k", "token_ids": ids},
        "position_ids": list(range(len(ids))),
        "loss_mask": [bool(m) for m in mask],
        "advantages": [0.75 if m else 0.0 for m in mask],
        "rewards": [1.0] * len(ids),
        "inference_logprobs": [-0.25 if m else 0.0 for m in mask],
        "trainer_logprobs": [None, *(-0.5 if m else -3.0 for m in mask[1:])],
        "entropy": [None, *entropy[1:]],
        "mismatch_kl": [0.0] * len(ids),
        "is_masked": [i in counted[:0] for i in range(len(ids))],
        **more,
    }


def test_the_token_exports_of_prime_rl(cli: Cli, tmp_path: Path) -> None:
    base = tmp_path / "token_exports" / "step_3"
    lines(base / "rank_1.jsonl", export_line([1, 2, 8], [0, 0, 1], rank=1))
    lines(base / "rank_0.jsonl", export_line([1, 2, 9, 4, 5], [0, 0, 1, 0, 1]))
    (base / "STABLE").touch()
    first, second = imported(cli, tmp_path, "prime-rl", base.parent)
    prompt_id = first.pop("prompt_id")
    s_star = pytest.approx(math.exp(-0.5) * (0.5 - 0.5), abs=1e-7)
    assert first.pop("s_star") == [s_star, 0.0, s_star]
    assert first == {
        "step": 3,
        "sample": 0,
        "data_source": "gsm8k",
        "prompt_tokens": [1, 2],
        "tokens": [9, 4, 5],
        "rollout_logprobs": [-0.25, 0.0, -0.25],
        "loss_mask": [True, False, True],
        "reward": 1.0,
        "logprobs": [-0.5, 0.0, -0.5],
        "entropies": [0.5, 0.0, 0.5],
        "advantages": [0.75, 0.0, 0.75],
    }
    assert only(second, "prompt_id", "sample", "tokens") == (prompt_id, 1, [8])


def test_what_an_export_does_not_know_is_null(tmp_path: Path) -> None:
    line = export_line([1, 2, 3], [0, 1, 1], advantages=[None] * 3, entropy=[None, 0.5, None], rewards=[0, 1, 0])
    del line["export_step"]
    (step,) = import_rows(prime_rl, open_dumps([str(lines(tmp_path / "rank_0.jsonl", line))]))
    (row,) = step.rows.to_pylist()
    assert step.number == 12
    assert only(row, "advantages", "entropies", "s_star", "reward") == (None, None, None, None)
    assert row["logprobs"] == [-0.5, -0.5]


def test_masks_read_prime_rl_and_a_forecast_says_what_it_misses(cli: Cli, tmp_path: Path) -> None:
    worse = {"advantages": [-0.5] * 4, "entropy": [None, 0.0, 0.9, 0.0]}
    data = [export_line([1, 2, 9, 4], [0, 0, 1, 1], **worse), export_line([1, 2, 8], [0, 0, 1])]
    dump = ("import", "prime-rl", lines(tmp_path / "step_3" / "rank_0.jsonl", *data), "-q")
    assert piped(cli, dump, ("mask", "clip-b", "--mu", "0.5", "-q", "-o", "masked.parquet")).code == 0
    assert [row["loss_mask"] for row in rows(tmp_path / "masked.parquet")] == [[True, False], [True]]
    ran = piped(cli, dump, ("forecast", "--lr", "1e-6"))
    assert ran.code == 3
    assert "column 'expected_s' is missing; it is made by `entropyctl score --policy`" in ran.line


def test_the_traces_of_prime_rl_with_what_was_learnt_later(cli: Cli, tmp_path: Path) -> None:
    first, second = imported(cli, tmp_path, "prime-rl", DUMPS / "prime-rl" / "traces")
    asked = '[{"content":"Be brief.","role":"system"},{"content":"What is 2 + 2?","role":"user"}]'
    np.testing.assert_allclose(first.pop("s_star"), [math.exp(-0.125) * 0.375, math.exp(-0.5) * 0.5], rtol=1e-6)
    np.testing.assert_allclose(first.pop("rollout_logprobs"), [-0.1235, -0.5], rtol=1e-6)
    assert json.loads(first.pop("extra"))["id"] == "a1"
    assert first == {
        "step": 4,
        "prompt_id": "gsm8k/7",
        "sample": 0,
        "prompt": asked,
        "prompt_kind": "messages",
        "answer": "4",
        "data_source": "gsm8k-easy",
        "prompt_tokens": [1, 10, 11, 12, 2],
        "tokens": [20, 21],
        "response": "4",
        "finish_reason": "stop",
        "loss_mask": [True, True],
        "policy_version": 3,
        "reward": 1.5,
        "logprobs": [-0.125, -0.5],
        "entropies": [0.5, 1.0],
        "advantages": [0.5, 0.5],
    }
    # A tool's answer among the tokens; two versions of the policy; a stream that lacks a token; an advantage for all.
    assert only(second, "prompt_id", "sample", "tokens") == ("gsm8k/7", 1, [22, 30, 31, 2, 23])
    assert second["loss_mask"] == [True, False, False, False, True]
    assert second["rollout_logprobs"] == [-0.25, 0.0, 0.0, 0.0, -1.5]
    assert second["advantages"] == [-0.5, 0.0, 0.0, 0.0, -0.5]
    assert only(second, "policy_version", "logprobs", "entropies", "s_star") == (None, None, None, None)
    assert only(second, "response", "finish_reason", "reward") == ("Let me count.\n5", "length", 0.5)


def test_a_trace_alone_with_two_branches_is_two_rows(tmp_path: Path) -> None:
    def node(parent: int | None, role: str, text: str, ids: list[int], own: bool) -> Row:
        logprobs = {"logprobs": [-1.0] * len(ids)} if own else {}
        message = {"role": role, "content": text}
        return {
            "parent": parent,
            "message": message,
            "sampled": own,
            "token_ids": ids,
            "mask": [own] * len(ids),
        } | logprobs

    nodes = [node(None, "user", "go", [1], False), node(0, "assistant", "left", [2], True)]
    nodes += [node(0, "assistant", "right", [3, 4], True)]
    trace = {"id": "t", "task": {"idx": 1, "prompt": "go"}, "nodes": nodes, "rewards": {"r": None}, "env_name": "e"}
    path = lines(tmp_path / "rollouts" / "step_5" / "train" / "all" / "traces.jsonl", trace)
    (step,) = import_rows(prime_rl, open_dumps([str(path)]))
    found = step.rows.to_pylist()
    assert [only(row, "step", "sample", "response", "tokens") for row in found] == [
        (5, 0, "left", [2]),
        (5, 1, "right", [3, 4]),
    ]
    assert {row["reward"] for row in found} == {None} and {row["data_source"] for row in found} == {"e"}


# What all formats share.


def test_a_damaged_line_is_named(cli: Cli, tmp_path: Path) -> None:
    good = {"input": "q", "output": "a", "gts": "a", "score": 1.0, "step": 1}
    lines(tmp_path / "1.jsonl", good, '{"input": "q", "outp')
    ran = cli("import", "verl", "1.jsonl", "-o", "out.parquet")
    assert ran.line == (
        "entropyctl import verl: 1.jsonl: line 2 is not JSON (Unterminated string starting at); mend or delete the line"
    )
    assert ran.code == 3 and not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "line 1 is no JSON object"),
        ('{"input": "q", "step": "one"}', "line 1: 'step' must be a whole number"),
        ('{"input": "q", "output": 3, "step": 1}', "line 1: 'output' must be a text"),
        ('{"input": "q", "step": 1, "score": [1]}', "line 1: 'score' must be a number"),
        ('{"prompt": "q", "step": 1}', "line 1: 'input' is missing; name a file that verl dumped"),
        ("[" * 100_000, "line 1 is not JSON (nested too deeply or a number too long)"),
    ],
)
def test_a_line_of_something_else_is_one_line(cli: Cli, tmp_path: Path, line: str, says: str) -> None:
    lines(tmp_path / "1.jsonl", line)
    ran = cli("import", "verl", "1.jsonl", "-o", "out.parquet")
    assert (ran.code, says in ran.line) == (3, True), ran


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("token_ids", [[5, -1]], "'token_ids' must be a list of token ids from 0 to 2147483647"),
        ("token_ids", [["a", "b"]], "'token_ids' must be a list of numbers"),
        ("token_ids", [[1.5, 2.0]], "'token_ids' must be a list of token ids"),
        ("token_loss_mask", [[1]], "'token_loss_mask' has 1 entries for 6 tokens; the dump is damaged"),
        ("token_loss_mask", [[1, None, 1, 1, 1, 1]], "'token_loss_mask' must be a list without nulls"),
        ("input_lengths", [7], "'input_lengths' is 7 of 6 tokens; the dump is damaged"),
        ("prev_logprobs", [[0.0] * 5 + [{}]], "'prev_logprobs' must be a list of numbers"),
        ("rewards", [1.0, 2.0], "'rewards' is no batch of one"),
    ],
)
def test_numbers_that_do_not_fit_their_tokens(tmp_path: Path, field: str, value: Any, says: str) -> None:
    path = lines(tmp_path / "train_data_step1.jsonl", nemo_line(0, [7, 8], 1.0, **{field: value}))
    with pytest.raises(InputError, match=r"train_data_step1\.jsonl: line 1: ") as caught:
        list(import_rows(nemo_rl, open_dumps([str(path)])))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ({"nodes": [{"parent": 0, "sampled": True}]}, "its parent is node 0, which is not before it"),
        ({"nodes": [7]}, "entry 0 of 'nodes' must be an object"),
        ({"steps": []}, "is neither a token export nor an episode or trace"),
        ({"nodes": {}, "agent": 3}, "'agent' must be an object"),
        ({"nodes": [], "rewards": {"r": {"score": 1.0, "weight": "x"}}}, "'rewards': 'r': 'weight' must be a number"),
    ],
)
def test_a_trace_that_is_none(tmp_path: Path, trace: Row, says: str) -> None:
    path = lines(tmp_path / "traces.jsonl", trace)
    with pytest.raises(InputError, match=r"traces\.jsonl: line 1") as caught:
        list(import_rows(prime_rl, open_dumps([str(path)])))
    assert says in str(caught.value)


def test_what_was_learnt_of_a_trace_must_be_numbers(tmp_path: Path) -> None:
    path = lines(tmp_path / "traces.jsonl", {"id": "t", "nodes": []})
    learnt = {"trace_id": "t", "branches": [{"index": 0, "entropies": True}]}
    (tmp_path / "annotations").mkdir()
    lines(tmp_path / "annotations" / "trainer.jsonl", learnt)
    with pytest.raises(InputError, match=r"trainer\.jsonl: line 1: 'branches' 0: 'entropies' must be a list"):
        list(import_rows(prime_rl, open_dumps([str(path)])))


def test_two_runs_are_not_one(cli: Cli, tmp_path: Path) -> None:
    good = {"input": "q", "output": "a", "gts": "a", "score": 1.0}
    for run in ("a", "b"):
        lines(tmp_path / run / "1.jsonl", {**good, "step": 1})
        lines(tmp_path / run / "2.jsonl", {**good, "step": 2})
    ran = cli("import", "verl", "a", "b", "-o", "out.parquet")
    assert (ran.code, "b/1.jsonl: step 1 has been read before; import the files of one run alone" in ran.line) == (
        3,
        True,
    )


def test_a_column_that_comes_later_is_not_lost_in_silence(cli: Cli, tmp_path: Path) -> None:
    good = {"input": "q", "output": "a", "gts": "a", "score": 1.0}
    lines(tmp_path / "1.jsonl", {**good, "step": 1})
    lines(tmp_path / "2.jsonl", {**good, "step": 2, "acc": True})
    ran = cli("import", "verl", "1.jsonl", "2.jsonl", "-o", "out.parquet")
    assert (ran.code, "2.jsonl: has 'outcome', which the steps before have not" in ran.line) == (3, True), ran
    ran = cli("import", "verl", "2.jsonl", "-o", "out.parquet")
    assert ran.code == 0


def test_no_dump_and_an_empty_one(cli: Cli, tmp_path: Path) -> None:
    assert cli("import", "verl").code == 2
    assert "a/: no such file" in cli("import", "verl", "a/", "-o", "o.parquet").line
    lines(tmp_path / "1.jsonl")
    assert "1.jsonl: no response is in there; name files that verl wrote" in cli("import", "verl", "1.jsonl").line
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").touch()
    assert "holds no file that ends in .jsonl, .ndjson, .parquet" in cli("import", "verl", "d").line
    assert "holds no step" in cli("import", "nemo-rl", "1.jsonl").line


def test_text_of_a_model_is_text(cli: Cli, tmp_path: Path) -> None:
    hostile = "\x1b[31m\u202e\x00<script>\ud800"
    lines(tmp_path / "1.jsonl", {"input": hostile, "output": hostile, "score": 1, "step": 1, "note": hostile})
    (row,) = imported(cli, tmp_path, "verl", "1.jsonl")
    assert row["response"] == "\x1b[31m\u202e\x00<script>?"


def test_a_file_says_what_it_was_made_from(cli: Cli, tmp_path: Path) -> None:
    def record() -> Row:
        imported(cli, tmp_path, "verl", "run")
        metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
        chain = json.loads(metadata[b"entropyctl.provenance"])
        assert metadata[b"entropyctl.schema"] == b"scored/1" and [r["stage"] for r in chain] == ["import verl"]
        return dict(chain[0]["inputs"][0])

    good = {"input": "q", "output": "a", "gts": "a", "score": 1.0, "step": 1}
    lines(tmp_path / "run" / "1.jsonl", good)
    lines(tmp_path / "run" / "2.jsonl", {**good, "step": 2})
    before = record()
    assert (before["path"], before["files"], len(before["digest"])) == ("run", 2, 32)
    assert record() == before
    lines(tmp_path / "run" / "2.jsonl", {**good, "step": 2, "score": 0.0})
    assert record()["digest"] != before["digest"]


def test_a_step_is_handed_on_before_the_next_is_read(tmp_path: Path) -> None:
    good = {"input": "q", "output": "a", "gts": "a", "score": 1.0, "step": 1}
    paths = [str(lines(tmp_path / "1.jsonl", good)), str(lines(tmp_path / "2.jsonl", {**good, "step": 2}, "{"))]
    steps = import_rows(verl, open_dumps(paths))
    assert next(steps).number == 1
    with pytest.raises(InputError, match="line 2 is not JSON"):
        next(steps)


def test_a_format_of_another_package(cli: Cli, tmp_path: Path) -> None:
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[entropyctl.imports]\nnotes = other:notes\n")
    (tmp_path / "site" / "other.py").write_text(
        "def notes(dump, *, scale: float = 1.0):\n"
        '    """Notes: one word a line.\n\n    Args:\n        dump: a file.\n        scale: of the reward.\n    """\n'
        "    for record in dump.records():\n"
        '        yield {"step": 0, "prompt_id": record.text("q"), "reward": scale * record.number("r")}\n'
    )
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"}
    assert "  notes      Notes: one word a line. (from other)" in cli("import", "--help", env=env).text
    lines(tmp_path / "n.jsonl", {"q": "b", "r": 1}, {"q": "a", "r": 2}, {"q": "b", "r": 3})
    ran = cli("import", "notes", "n.jsonl", "--scale", "0.5", "-o", "out.parquet", env=env)
    assert ran.code == 0, ran
    found = rows(tmp_path / "out.parquet")
    assert [only(row, "prompt_id", "sample", "reward") for row in found] == [
        ("b", 0, 0.5),
        ("b", 1, 1.5),
        ("a", 0, 1.0),
    ]


def test_a_dump_is_a_file_of_any_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "dump.txt", {"input": "q", "step": 1})
    assert [record.value for record in Dump(str(path)).records()] == [{"input": "q", "step": 1}]
    assert [d.path for d in open_dumps([str(tmp_path / "*.txt")])] == [str(path)]
    assert next(trl(open_dumps([str(DUMPS / "trl-text")])[0]))["step"] == 1
