"""Sampling: reproducible by key, from the distribution that the file says, and stopped where it should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from entropyctl.engines import Sampling, encode_prompt, rollout_step, uniforms
from entropyctl.engines.transformers import draw, sampler
from entropyctl.errors import EngineError, InputError, UsageError
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model, load_tokenizer
from entropyctl.prompts import Problem, load_prompts, prompts_digest
from entropyctl.table import read

from .conftest import Cli


@pytest.fixture(scope="module")
def loaded(tiny_policy: Path):
    policy = find_policy(str(tiny_policy))
    return load_model(policy, torch.float32, torch.device("cpu")), load_tokenizer(policy)


PROBLEMS = [Problem(f"p{i}", "ask " * (i + 1), str(i)) for i in range(5)]


def roll(loaded, problems=PROBLEMS, sampling=None, batch_rows=64, **options) -> pa.Table:
    model, tokenizer = loaded
    options = {"step": 1, "n": 3, "seed": 0, "policy_version": 0} | options
    return rollout_step(
        problems, sampler(model, tokenizer, batch_rows), tokenizer, sampling or Sampling(max_tokens=12), **options
    )


def by_key(rows: pa.Table, column: str) -> dict:
    keys = zip(rows["prompt_id"].to_pylist(), rows["sample"].to_pylist(), strict=True)
    return dict(zip(keys, rows[column].to_pylist(), strict=True))


def test_rows_do_not_depend_on_order_or_batch_size(loaded) -> None:
    once = roll(loaded)
    again = roll(loaded, problems=PROBLEMS[::-1], batch_rows=4)
    assert by_key(once, "tokens") == by_key(again, "tokens")
    a, b = by_key(once, "rollout_logprobs"), by_key(again, "rollout_logprobs")
    largest = max(abs(x - y) for key in a for x, y in zip(a[key], b[key], strict=True))
    print(f"largest difference of a log-probability between batch sizes 64 and 4: {largest:.2e}")
    assert largest < 1e-4


def test_seed_step_prompt_and_sample_each_change_the_numbers() -> None:
    base = uniforms(0, 1, "p", 0, 8)
    assert (base == uniforms(0, 1, "p", 0, 8)).all()
    assert (base[:4] == uniforms(0, 1, "p", 0, 4)).all()
    for other in (
        uniforms(1, 1, "p", 0, 8),
        uniforms(0, 2, "p", 0, 8),
        uniforms(0, 1, "q", 0, 8),
        uniforms(0, 1, "p", 1, 8),
    ):
        assert (base != other).all()


def test_samples_of_a_prompt_differ(loaded) -> None:
    assert len({tuple(t) for t in roll(loaded, n=8)["tokens"].to_pylist()}) > 20


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_log_probabilities_are_of_the_tempered_distribution(loaded, temperature: float) -> None:
    model, _ = loaded
    rows = roll(loaded, sampling=Sampling(temperature=temperature, max_tokens=9))
    columns = (rows[c].to_pylist() for c in ("prompt_tokens", "tokens", "rollout_logprobs"))
    for prompt, tokens, logprobs in zip(*columns, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
        truth = (logits / temperature).log_softmax(dim=1)[range(len(tokens)), tokens]
        np.testing.assert_allclose(logprobs, truth, atol=1e-5)


def test_drawn_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).repeat(20_000, 1)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # every quantile once
    tokens, logprobs = draw(logits, u, Sampling(temperature=2.0))
    p = torch.tensor([0.0, 0.5, 1.0]).softmax(dim=0)
    frequency = torch.bincount(tokens, minlength=4) / 20_000
    np.testing.assert_allclose(frequency, [*p.tolist(), 0.0], atol=1e-4)
    np.testing.assert_allclose(logprobs.exp(), p.double()[tokens], atol=1e-6)


def test_top_k_and_top_p_renormalise_what_they_keep() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]])).repeat(1000, 1)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens, logprobs = draw(logits, u, Sampling(top_k=2))
    assert set(tokens.tolist()) == {0, 1}
    assert sorted({round(x, 6) for x in logprobs.exp().tolist()}) == [0.333333, 0.666667]
    tokens, _ = draw(logits, u, Sampling(top_p=0.76))
    assert set(tokens.tolist()) == {0, 1, 2}  # 0.5 + 0.25 is not yet 0.76
    tokens, logprobs = draw(logits, u, Sampling(top_k=1))
    assert set(tokens.tolist()) == {0} and logprobs.abs().max() == 0


def test_the_largest_uniform_never_draws_an_impossible_token() -> None:
    logits = torch.tensor([[1.0, -torch.inf, -torch.inf]])
    token, logprob = draw(logits, torch.tensor([np.nextafter(1.0, 0)]), Sampling())
    assert token.item() == 0 and logprob.item() == 0


def test_logits_that_are_not_numbers_are_reported() -> None:
    with pytest.raises(EngineError, match="not numbers"):
        draw(torch.tensor([[0.0, torch.nan]]), torch.tensor([0.5], dtype=torch.float64), Sampling())


def test_a_stop_string_ends_the_response_and_leaves_the_text(loaded) -> None:
    _, tokenizer = loaded
    rows = roll(loaded, sampling=Sampling(max_tokens=30))
    free, tokens = by_key(rows, "response"), by_key(rows, "tokens")
    key, stop = next((k, c) for k, text in free.items() for c in text[2:-2] if c.isascii() and c.isprintable())
    stopped = roll(loaded, sampling=Sampling(max_tokens=30, stop=(stop,)))
    kept = by_key(stopped, "tokens")[key]
    assert by_key(stopped, "response")[key] == free[key][: free[key].index(stop)]
    assert by_key(stopped, "finish_reason")[key] == "stop"
    assert kept == tokens[key][: len(kept)]
    assert tokenizer.decode(kept[-1:]) == stop  # the token that completed the stop string stays


def test_length_ends_a_response(loaded) -> None:
    rows = roll(loaded, sampling=Sampling(max_tokens=2))
    lengths = [len(t) for t in rows["tokens"].to_pylist()]
    reasons = rows["finish_reason"].to_pylist()
    assert max(lengths) == 2
    assert all(reason == "stop" or length == 2 for reason, length in zip(reasons, lengths, strict=True))
    assert "length" in reasons


@pytest.mark.parametrize(
    "bad", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_tokens": 0}]
)
def test_impossible_sampling_is_a_usage_error(bad: dict) -> None:
    with pytest.raises(UsageError, match="--"):
        Sampling(**bad)


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("problem", "chat", "expected"),
    [
        (Problem("p", "hi"), True, "<user>hi<bot>"),
        (Problem("p", "hi"), False, "hi"),
        (Problem("p", "hi", completion=True), True, "hi"),
        (Problem("p", TALK), True, "<system>be brief<user>hi<bot>"),
        (Problem("p", TALK), False, "<system>be brief<user>hi<bot>"),
    ],
)
def test_the_chat_template_is_applied_where_there_is_one(
    tiny_policy: Path, problem: Problem, chat: bool, expected: str
) -> None:
    tokenizer = load_tokenizer(find_policy(str(tiny_policy)))
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(encode_prompt(problem, tokenizer, chat=chat)) == expected


def test_without_a_template_text_stays_and_a_conversation_is_refused(loaded) -> None:
    _, tokenizer = loaded
    assert tokenizer.decode(encode_prompt(Problem("p", "hi"), tokenizer)) == "hi"
    with pytest.raises(InputError, match="prompt p: is a conversation, but the tokenizer has no chat template"):
        encode_prompt(Problem("p", TALK), tokenizer)
    with pytest.raises(InputError, match="prompt p: has no tokens"):
        encode_prompt(Problem("p", ""), tokenizer)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{i}+{i}?", "answer": str(2 * i), "level": i}) + "\n" for i in range(6))
    )
    return path


def test_the_command_writes_the_contract(cli: Cli, tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    options = ["--policy", tiny_policy, "--prompts", prompts, "--n", 2, "--max-tokens", 5, "--temperature", 0.8]
    ran = cli("rollout", *options, "--steps", 2, "--prompts-per-step", 3, "-o", "r.parquet")
    assert ran.code == 0, ran
    with read([str(tmp_path / "r.parquet")]) as source:
        steps = list(source)
        assert source.table == "rollouts"
        assert source.context["sampling"] == {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}
        assert list(source.context["policies"]) == ["0"]
        problems = load_prompts(str(prompts), announce=str)
        assert source.chain[0]["inputs"] == [{"path": str(prompts), "digest": prompts_digest(problems)}]
    assert [s.number for s in steps] == [1, 2]
    first, second = (set(s.rows["prompt_id"].to_pylist()) for s in steps)
    assert len(first) == 3 and first.isdisjoint(second)  # an epoch meets every prompt once
    assert json.loads(steps[0].rows["extra"][0].as_py())["level"] in range(6)
    # the same command again gives the same rows
    assert cli("rollout", *options, "--step", 2, "--prompts-per-step", 3, "-o", "again.parquet").code == 0
    with read([str(tmp_path / "again.parquet")]) as source:
        assert next(iter(source)).rows.equals(steps[1].rows)


def test_faults_are_one_line(cli: Cli, tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    def fails(code: int, words: str, *args: str | Path) -> None:
        ran = cli("rollout", "-o", "r.parquet", *args)
        assert ran.code == code and words in ran.err.strip().splitlines()[-1], ran
        assert not (tmp_path / "r.parquet").exists()

    (tmp_path / "empty").mkdir()
    fails(2, "--policy is missing", "--prompts", prompts)
    fails(3, "no such directory", "--policy", "nowhere", "--prompts", prompts)
    fails(3, "is not a checkpoint (no config.json)", "--policy", "empty", "--prompts", prompts)
    (tmp_path / "empty" / "config.json").write_text("{}")
    fails(3, "has no *.safetensors", "--policy", "empty", "--prompts", prompts)
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"garbage")
    fails(3, "cannot be loaded", "--policy", "empty", "--prompts", prompts)
    fails(
        2,
        "there is no 'warp' in engines; known: server, transformers, vllm",
        "--policy",
        tiny_policy,
        "--prompts",
        prompts,
        "--engine",
        "warp",
    )
    fails(2, "--dtype: there is no 'float8'", "--policy", tiny_policy, "--prompts", prompts, "--dtype", "float8")
    for option in ("--n", "--steps", "--batch-rows"):
        fails(2, "is not in the range x>=1", "--policy", tiny_policy, "--prompts", prompts, option, "0")
    fails(2, "-1 is not in the range x>=1", "--policy", tiny_policy, "--prompts", prompts, "--n", "-1")
    fails(3, "no such file", "--policy", tiny_policy, "--prompts", "none.jsonl")


def test_a_prompt_without_room_for_its_response_is_refused_before_anything_is_sampled(
    cli: Cli, tiny_policy: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"question": "7?", "answer": "7"})
        + "\n"
        + json.dumps({"question": "x" * 500, "answer": "7", "prompt_id": "long"})
    )
    ran = cli("rollout", "-q", "--policy", tiny_policy, "--prompts", "p.jsonl", "--max-tokens", 13, "-o", "r.parquet")
    assert ran.code == 2, ran
    assert "prompt long: 500 tokens and --max-tokens 13 are more than the 512 positions of the model" in ran.line
    fits = cli(
        *("rollout", "-q", "--policy", tiny_policy, "--prompts", "p.jsonl", "--max-tokens", 12, "-n", 1),
        *("-o", "r.parquet"),
    )
    assert fits.code == 0, fits


def test_a_greedy_row_follows_the_samples_of_its_prompt_and_leaves_them_as_they_are(
    cli: Cli, tiny_policy: Path, prompts: Path, tmp_path: Path
) -> None:
    options = ["--policy", tiny_policy, "--prompts", prompts, "--n", 3, "--max-tokens", 8, "--temperature", 0.8, "-q"]
    assert cli("rollout", *options, "-o", "plain.parquet").code == 0
    ran = cli("rollout", *options, "--greedy-baseline", "-o", "both.parquet")
    assert ran.code == 0, ran
    with read([str(tmp_path / "plain.parquet")]) as source:
        plain = next(iter(source)).rows
    with read([str(tmp_path / "both.parquet")]) as source:
        both = next(iter(source)).rows
    assert "greedy" not in plain.column_names
    assert both["sample"].to_pylist() == [0, 1, 2, 3] * 6
    assert both["greedy"].to_pylist() == [False, False, False, True] * 6
    sampled = both.filter(pa.array([not g for g in both["greedy"].to_pylist()])).drop_columns(["greedy"])
    assert sampled.equals(plain)  # to the last bit of every log-probability
    model = load_model(find_policy(str(tiny_policy)), torch.float32, torch.device("cpu"))
    for row in both.to_pylist()[3::4]:
        assert row["loss_mask"] == [False] * len(row["tokens"])
        with torch.no_grad():
            logits = model(torch.tensor([row["prompt_tokens"] + row["tokens"]])).logits[0]
        logits = logits[len(row["prompt_tokens"]) - 1 : -1].double()
        assert row["tokens"] == logits.argmax(dim=1).tolist()
        # the log-probability is of the distribution that the other rows were drawn from
        truth = (logits / 0.8).log_softmax(dim=1).amax(dim=1)
        np.testing.assert_allclose(row["rollout_logprobs"], truth, atol=1e-5)


def test_an_evaluation_leaves_greedy_rows_out_and_says_so(
    cli: Cli, tiny_policy: Path, prompts: Path, tmp_path: Path
) -> None:
    options = ["--policy", tiny_policy, "--prompts", prompts, "--n", 2, "--max-tokens", 4, "--steps", 2, "-q"]
    assert cli("rollout", *options, "--greedy-baseline", "-o", "r.parquet").code == 0
    assert cli("score", "-q", "--reward", "exact", "r.parquet", "-o", "s.parquet").code == 0
    ran = cli("eval", "--json", "s.parquet")
    assert ran.code == 0, ran
    assert json.loads(ran.text)["pooled"]["responses"] == 24
    assert ran.line == "entropyctl: s.parquet: left out 12 greedy baseline responses"
    assert cli("eval", "--json", "-q", "s.parquet").err == ""
