"""Sampling with a vLLM server, over HTTP: tokens in, tokens out, many requests in flight."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from entropyctl.engines._sampling import Done, Engine, Request, Response, Sampling, check_room, ignore
from entropyctl.engines._server_client import Client, Passing
from entropyctl.engines._server_weights import Server
from entropyctl.engines._stopping import StopStrings
from entropyctl.engines._vllm_request import check_greedy, sampling_parameters, stop_strings
from entropyctl.errors import EngineError, UsageError
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import load_tokenizer, stated_ends
from entropyctl.web import in_background, parse_address

# Bytes of a reply for each token: its id, its log-probability, and what the server says beside them.
PER_TOKEN = 2_000


def server(policy: Policy, *, dtype: str, device: str, batch_rows: int | None, arguments: dict[str, str]) -> Engine:
    """Sampling with a vLLM server, over HTTP.

    Args:
        policy: the checkpoint, which the server must hold, or be able to load from the same directory.
        dtype: number type that the server computes in.
        device: `auto`; it is the server's own.
        batch_rows: requests in flight, where `requests` is not given.
        arguments: `url`; `requests`, `retries` and `timeout` as text.

    Raises:
        UsageError: an argument is missing, unknown or makes no sense.
        EngineError: the server cannot give what a rollout needs.
        Temporary: it does not answer.
    """
    if device != "auto":
        raise UsageError(f"--device {device}: is the server's own; leave it out")
    requests, client = _client(arguments, batch_rows)
    running = _Running(policy, client, dtype, requests)
    return Engine(running.sample, running.tokenizer, running.load, lambda: None)


def _client(arguments: dict[str, str], batch_rows: int | None) -> tuple[int, Client]:
    known = {"url": "", "requests": str(batch_rows or 64), "retries": "8", "timeout": "600"}
    if unknown := sorted(arguments.keys() - known):
        raise UsageError(
            f"--engine-arg {unknown[0]}: the server engine has no such argument; known: {', '.join(known)}"
        )
    given = known | arguments
    form = "http://HOST:PORT"
    if not given["url"]:
        raise UsageError(f"--url is missing; give a vLLM server's address, {form}")
    address = parse_address("--url", given["url"], "", form=form)
    if address.secure:
        raise UsageError(f"--url {given['url']}: must be {form}; reach a server elsewhere through a tunnel")
    address = address._replace(path=address.path.removesuffix("/v1"))
    requests, retries = (_number(name, given[name], low) for name, low in (("requests", 1), ("retries", 0)))
    client = Client(given["url"], address, _number("timeout", given["timeout"], 0.001), int(retries))
    return int(requests), client


def _number(name: str, text: str, low: float) -> float:
    try:
        value = float(text) if name == "timeout" else int(text)
    except ValueError:
        value = math.nan
    if not low <= value < math.inf:
        kind = "seconds above 0" if name == "timeout" else f"a whole number of at least {low}"
        raise UsageError(f"--engine-arg {name}={text}: must be {kind}")
    return value


class _Running:
    """A server that is asked for the responses of one version at a time."""

    def __init__(self, policy: Policy, client: Client, dtype: str, requests: int) -> None:
        self.tokenizer = load_tokenizer(policy)
        self._ends = stated_ends(policy, self.tokenizer)
        self._client = client
        self._requests = requests
        self._server = Server(client, policy, dtype)
        self._told = False  # whether the user knows of the trouble that there is
        in_background(self._ready)

    async def _ready(self) -> None:
        await self._client.persist(self._server.be_ready, self._failed)

    def load(self, policy: Policy) -> None:
        """Make sure that the server holds another version, by loading it there if need be."""
        self._server.want(policy)
        in_background(self._ready)

    def sample(self, requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
        """Answer the requests in their order; each sample is a request of its own, with its own seed."""
        check_greedy(sampling)
        check_room(requests, sampling.max_tokens, self._server.positions)
        found: list[Response] = in_background(lambda: self._sample(requests, sampling, done))
        return found

    async def _sample(self, requests: Sequence[Request], sampling: Sampling, done: Done) -> list[Response]:
        waiting = iter(enumerate(requests))
        answers: dict[int, Response] = {}
        one = asyncio.Lock()

        async def work() -> None:
            for index, request in waiting:

                async def attempt(request: Request = request) -> Response:
                    async with one:  # makes sure that the server holds the version; the others wait
                        await self._ready()
                    return await self._answer(request, sampling)

                answers[index] = await self._client.persist(attempt, self._failed)
                done(index, answers[index])
                self._told = False

        await asyncio.gather(*(work() for _ in range(min(self._requests, len(requests)))))
        return [answers[index] for index in range(len(requests))]

    def _failed(self) -> bool:
        """After a failure the server may be another process, with other weights; whether the user is told of it."""
        self._server.doubt()
        tell, self._told = not self._told, True
        return tell

    async def _answer(self, request: Request, sampling: Sampling) -> Response:
        parameters = sampling_parameters(request, sampling, self._ends)
        largest = 1_000_000 + PER_TOKEN * sampling.max_tokens
        choice = await self._server.respond(request.prompt_tokens, parameters, largest=largest)
        if choice.finish_reason not in ("stop", "length"):
            raise Passing(f"a response ended by '{choice.finish_reason}'")
        if len(choice.tokens) > sampling.max_tokens:
            raise EngineError(f"{self._client.url}: answers with more tokens than it was asked for")
        text = StopStrings(stop_strings(request, sampling), self.tokenizer).text(choice.tokens)
        return Response(choice.tokens, choice.logprobs, choice.finish_reason, text)
