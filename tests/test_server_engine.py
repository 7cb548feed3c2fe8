"""The server engine against a stand-in: what it asks, what it refuses, and what it asks for again."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from entropyctl.engines import Engine, Request, Response, Sampling, uniforms
from entropyctl.engines._sampling import sample_seed
from entropyctl.engines._vllm_guard import LoopbackOnly
from entropyctl.engines._vllm_server import flags
from entropyctl.engines.server import server as make_engine
from entropyctl.errors import EngineError, Temporary, UsageError
from entropyctl.policy import Policy, find_policy

from .conftest import Cli
from .rollout_server import ROUTES, Server, running


@pytest.fixture
def server(policy: Policy) -> Iterator[Server]:
    with running() as found:
        found.root = str(policy.directory)
        yield found


@pytest.fixture
def policy(tiny_policy: Path) -> Policy:
    return find_policy(str(tiny_policy))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropyctl.engines._server_client.LONGEST_WAIT", 0.01)


def connect(policy: Policy, url: str, **arguments: str) -> Engine:
    return make_engine(policy, dtype="float32", device="auto", batch_rows=None, arguments={"url": url, **arguments})


def asked(count: int, tokens: int = 4) -> list[Request]:
    return [Request("p", i, [1, 2, 3], uniforms(0, 1, "p", i, tokens)) for i in range(count)]


def belongs(response: Response, request: Request) -> bool:
    return response.tokens[0] == sample_seed(request) % 250 + 1


def test_each_sample_is_a_request_with_its_own_seed_and_comes_back_in_order(policy: Policy, server: Server) -> None:
    requests = asked(40)
    engine = connect(policy, server.url, requests="7")
    server.together = 7
    server.enough.clear()
    answers = engine.sample(requests, Sampling(0.7, 0.9, 50, 4))
    assert all(belongs(a, r) for a, r in zip(answers, requests, strict=True))
    assert sorted(server.seeds()) == sorted(sample_seed(r) for r in requests)
    assert server.most_in_flight == 7
    body = next(body for route, body in server.asked if body.get("sampling_params", {}).get("seed"))
    assert body["token_ids"] == [1, 2, 3]
    wanted = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_tokens": 4, "logprobs": 0, "stop_token_ids": [0]}
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
    assert body["sampling_params"].items() >= (wanted | neutral).items()
    assert (answers[0].logprobs, answers[0].finish_reason) == ([-0.5] * 4, "length")


def test_a_server_without_the_first_route_is_asked_by_the_other(policy: Policy, server: Server) -> None:
    server.scale_out = False
    requests = asked(3)
    answers = connect(policy, server.url).sample(requests, Sampling(max_tokens=4))
    assert all(belongs(a, r) for a, r in zip(answers, requests, strict=True))
    route, body = server.asked[-1]
    assert route == ROUTES[1]
    assert (body["prompt"], body["return_token_ids"], body["logprobs"]) == ([1, 2, 3], True, 0)


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_may_pass_is_asked_again_and_nothing_else_is(policy: Policy, server: Server, status: int, capfd) -> None:
    engine = connect(policy, server.url)
    server.faults = [(status, "busy\x1b[31m")] * 2
    requests = asked(12)
    answers = engine.sample(requests, Sampling(max_tokens=4))
    assert all(belongs(a, r) for a, r in zip(answers, requests, strict=True))
    assert len(server.seeds()) == 14
    told = capfd.readouterr().err.splitlines()
    assert told[0] == f"entropyctl: rollout: {server.url}: {status}: busy [31m; trying again"


def test_retries_are_bounded_and_what_is_left_is_temporary(policy: Policy, server: Server) -> None:
    engine = connect(policy, server.url, retries="2", requests="1")
    server.faults = [(503, "still busy")] * 3
    with pytest.raises(Temporary, match=r"503: still busy \(3 attempts\)"):
        engine.sample(asked(2), Sampling(max_tokens=4))
    assert len(server.seeds()) == 3


def test_a_refusal_is_told_in_the_servers_words_and_not_repeated(policy: Policy, server: Server) -> None:
    engine = connect(policy, server.url, requests="1")
    server.faults = [(400, "temperature must be in [0, 2]\nTraceback\x07")]
    with pytest.raises(EngineError) as caught:
        engine.sample(asked(2), Sampling(max_tokens=4))
    assert str(caught.value) == f"{server.url}: 400: temperature must be in [0, 2] Traceback"
    assert len(server.seeds()) == 1


@pytest.mark.parametrize("reply", ["{}", '{"choices": [{"token_ids": [1]}]}', '{"choices": 3}', "[" * 100_000, "no"])
def test_a_reply_that_is_no_response_ends_it(policy: Policy, server: Server, reply: str) -> None:
    engine = connect(policy, server.url)
    server.faults = [(200, reply)]
    with pytest.raises(EngineError, match=r"does not answer|is not JSON"):
        engine.sample(asked(1), Sampling(max_tokens=4))


def test_a_response_that_somebody_cut_off_is_asked_again(policy: Policy, server: Server) -> None:
    engine = connect(policy, server.url)
    content = {"content": [{"logprob": -1.0}]}
    choice = {"token_ids": [1], "logprobs": content, "finish_reason": "abort"}
    server.faults = [(200, json.dumps({"choices": [choice]}))]
    (answer,) = engine.sample(asked(1), Sampling(max_tokens=4))
    assert answer.finish_reason == "length"


def test_log_probabilities_of_another_distribution_are_refused(policy: Policy, server: Server) -> None:
    server.raw = True
    with pytest.raises(EngineError, match="another distribution than it samples from; start it with"):
        connect(policy, server.url)


def test_a_server_of_other_weights_loads_ours(policy: Policy, server: Server) -> None:
    server.weights, server.root = "v0", "/elsewhere"
    connect(policy, server.url)
    assert server.weights == policy.digest
    routes = [route for route, _ in server.asked if route not in ROUTES]
    name = "/update_weight_version"
    assert routes == ["/pause", name, "/collective_rpc", "/reset_prefix_cache", "/resume", name]
    directory = str(policy.directory.resolve())
    assert dict(server.asked)["/collective_rpc"] == {"method": "entropyctl_load", "args": [directory]}


def test_a_server_that_holds_ours_is_left_alone(policy: Policy, server: Server) -> None:
    server.weights, server.root = policy.digest, "/elsewhere"
    connect(policy, server.url)
    server.weights, server.root, server.developing = "default", str(policy.directory), False
    connect(policy, server.url)
    assert {route for route, _ in server.asked} == {ROUTES[0]}


def test_one_that_cannot_load_ours_must_be_started_again(policy: Policy, server: Server) -> None:
    server.root, server.loads = "/elsewhere", False
    with pytest.raises(EngineError, match=r"did not take .*no attribute 'entropyctl_load'.*; start it again with"):
        connect(policy, server.url)
    assert server.weights not in ("default", policy.digest)  # what it holds now, nobody knows
    server.weights, server.developing = "default", False
    with pytest.raises(EngineError, match=r"does not hold .* \(it was started with /elsewhere\); start it again with"):
        connect(policy, server.url)


def test_what_other_weights_have_sampled_is_asked_again(policy: Policy, server: Server) -> None:
    engine = connect(policy, server.url)
    server.weights = "somebody else's"
    requests = asked(3)
    answers = engine.sample(requests, Sampling(max_tokens=4))
    assert all(belongs(a, r) for a, r in zip(answers, requests, strict=True))
    assert server.weights == policy.digest


def test_a_rollout_goes_on_when_the_server_comes_back(policy: Policy) -> None:
    requests = asked(6)
    with running() as first:
        first.root = str(policy.directory)
        port = first.server_address[1]
        engine = connect(policy, first.url, requests="1")
        answers = engine.sample(requests[:3], Sampling(max_tokens=4))
    with running(port) as second:
        second.weights = "another version"  # it starts with the newest, which need not be ours
        answers += engine.sample(requests[3:], Sampling(max_tokens=4))
        assert second.weights == policy.digest
    assert all(belongs(a, r) for a, r in zip(answers, requests, strict=True))


def test_a_prompt_without_room_is_refused_before_anything_is_asked(policy: Policy, server: Server) -> None:
    engine = connect(policy, server.url)
    with pytest.raises(UsageError, match="more than the 256 positions"):
        engine.sample(asked(1, 254), Sampling(max_tokens=254))
    assert server.seeds() == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "--url is missing; give a vLLM server's address, http://HOST:PORT"),
        ({"url": "https://127.0.0.1:1"}, "--url https://127.0.0.1:1: must be http://HOST:PORT"),
        ({"url": "ftp://127.0.0.1"}, "--url ftp://127.0.0.1: must be http://HOST:PORT"),
        ({"url": "http://127.0.0.1:x"}, "--url: is no URL"),
        ({"url": "http://me:secret@127.0.0.1"}, "--url: must hold no name or password"),
        ({"url": "http://127.0.0.1", "speed": "9"}, "known: url, requests, retries, timeout"),
        ({"url": "http://127.0.0.1", "requests": "0"}, "--engine-arg requests=0: must be a whole number of at least 1"),
        ({"url": "http://127.0.0.1", "retries": "x"}, "--engine-arg retries=x: must be a whole number of at least 0"),
        ({"url": "http://127.0.0.1", "timeout": "nan"}, "--engine-arg timeout=nan: must be seconds above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(policy: Policy, arguments: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_engine(policy, dtype="float32", device="auto", batch_rows=None, arguments=arguments)
    assert line in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_device_is_the_servers_own(policy: Policy) -> None:
    with pytest.raises(UsageError, match="--device cuda: is the server's own"):
        make_engine(policy, dtype="float32", device="cuda", batch_rows=None, arguments={"url": "http://127.0.0.1"})


def test_nobody_listens_is_one_line_and_status_75(cli: Cli, policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        flags = ["--policy", policy.directory, "--prompts", "p.jsonl", "--url", url, "--engine-arg", "retries=0"]
        ran = cli("rollout", *flags, "-o", "r.parquet", "-q")
    assert ran.code == 75, ran
    assert ran.line == f"entropyctl rollout: {url}: nobody listens (1 attempt); is `entropyctl serve` running there?"
    assert not (tmp_path / "r.parquet").exists()


def test_the_command_samples_with_a_server(cli: Cli, policy: Policy, server: Server, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "answer": "y"}\n{"prompt": "z", "answer": "y"}\n')
    flags = ["--policy", policy.directory, "--prompts", "p.jsonl", "--url", server.url, "-n", "3", "--max-tokens", "4"]
    ran = cli("rollout", *flags, "-o", "r.parquet", "-q", "--json")
    assert ran.code == 0, ran
    assert json.loads(ran.text) == {"rows": 6, "tokens": 24, "truncated": 6}


def test_a_port_that_is_taken_is_one_line(cli: Cli, policy: Policy, server: Server) -> None:
    port = server.server_address[1]
    ran = cli("serve", "--policy", policy.directory, "--port", port, env={"ENTROPYCTL_TEST": ""})
    assert ran.code == 2, ran
    assert ran.line.startswith("entropyctl serve: ")
    assert "needs vLLM" in ran.line or f"--port {port}: cannot be had" in ran.line


def test_engine_arguments_become_flags() -> None:
    options = {"block_size": 32, "enforce_eager": True, "enable_chunked_prefill": False, "seed": None, "a": [1, 2]}
    words = ["--block-size", "32", "--enforce-eager", "--no-enable-chunked-prefill", "--a", "1", "2"]
    assert flags(options | {"hf_overrides": {"x": 1}}) == [*words, "--hf-overrides", '{"x": 1}']


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({"host": "127.0.0.1:8000"}, True),
        ({"host": "localhost"}, True),
        ({"host": "[::1]:8000"}, True),
        ({"host": "127.0.0.1:8000", "origin": "http://page"}, False),
        ({"host": "rebound.example:8000"}, False),
        ({}, False),
    ],
)
def test_a_web_page_in_a_browser_reaches_nothing(headers: dict[str, str], answered: bool) -> None:
    reached, sent = [], []

    async def app(*_: object) -> None:
        reached.append(1)

    async def send(message: dict) -> None:
        sent.append(message.get("status"))

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(LoopbackOnly(app)(scope, None, send))
    assert (bool(reached), 403 in sent) == (answered, not answered)
