"""Which weights a vLLM server holds, the proof of it, and their exchange for those of another version."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from entropyctl.engines._probe import check_probe
from entropyctl.engines._server_client import Client, Passing, Refused
from entropyctl.errors import EngineError, one_line
from entropyctl.policy import Policy
from entropyctl.policy.adapter import check_whole
from entropyctl.policy.probe import read_probe

# vLLM's two routes from tokens to tokens; the first says which weights sampled, and must be switched on.
GENERATE = "/inference/v1/generate"
COMPLETIONS = "/v1/completions"
# What a server calls its weights until it is told.
UNTOLD = "default"
# What we call them while they are exchanged, and if that fails.
BETWEEN = "entropyctl: between versions"
# Not the checkpoint's own, which a server may put in where a request is silent.
NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0, "min_tokens": 0}


class Choice(NamedTuple):
    """One response as the server gives it."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    prompt_logprobs: list[float]  # of all prompt tokens but the first, where they were asked for
    weights: frozenset[str]  # names of those that sampled it, where the server says


class Server:
    """A server, and what is known of it. Whoever doubts it asks again before the next request."""

    def __init__(self, client: Client, policy: Policy, dtype: str) -> None:
        self.positions = 0
        self._client = client
        self._policy = policy
        self._dtype = dtype
        self._route = GENERATE
        self._held = UNTOLD
        self._sure = False

    def want(self, policy: Policy) -> None:
        """Name the version that the next responses must come from."""
        self._policy, self._sure = policy, False

    def doubt(self) -> None:
        """What was known may hold no longer."""
        self._sure = False

    async def be_ready(self) -> None:
        """Make sure that the server samples with the wanted version and says the right log-probabilities.

        Raises:
            Passing, Refused: what the server says instead.
            EngineError: it cannot.
        """
        if self._sure:
            return
        models = await self._client.call("GET", "/v1/models")
        try:
            model = models["data"][0]
            self.positions, root = int(model["max_model_len"]), str(model["root"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError(f"{self._client.url}: does not list its model; is this a vLLM server?") from None
        held = await self._weights_name()
        # Nothing is sampled before a load: weights whose exchange has failed may end the server.
        if not (self._claims(held, root) and await self._proved()):
            await self._exchange(held, root)
            held = self._policy.digest
        self._held = held or UNTOLD
        self._sure = True

    async def respond(self, prompt: list[int], parameters: dict[str, Any], *, largest: int) -> Choice:
        """One response of the weights that the server was last seen to hold.

        Raises:
            Passing: also where others have sampled.
            Refused, EngineError: it gives none.
        """
        choice = await self._generate(prompt, parameters, largest=largest)
        if choice.weights - {self._held}:
            raise Passing("other weights than were asked for have sampled; another program changes them")
        return choice

    async def _generate(self, prompt: list[int], parameters: dict[str, Any], *, largest: int = 1_000_000) -> Choice:
        parameters = NEUTRAL | {name: value for name, value in parameters.items() if value is not None}
        body: dict[str, Any]
        if self._route == GENERATE:
            body = {"token_ids": prompt, "sampling_params": parameters}
        else:
            parameters.pop("detokenize", None)
            body = {"prompt": prompt, "return_token_ids": True, **parameters}
        reply = await self._client.call("POST", self._route, body, largest=largest)
        try:
            return _choice(reply, prompt)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise EngineError(f"{self._client.url}: does not answer {self._route} as vLLM does") from None

    async def _find_route(self) -> None:
        """The route from tokens to tokens, by a request whose log-probabilities must be 0 if they are processed.

        Raises:
            EngineError: they are not, so they are of another distribution than sampled.
        """
        greedy = {"max_tokens": 8, "top_k": 1, "temperature": 1.0, "logprobs": 0, "ignore_eos": True, "seed": 0}
        self._route = GENERATE
        try:
            choice = await self._generate([1, 2, 3], greedy)
        except Refused as error:
            if error.status not in (403, 404, 405):
                raise
            self._route = COMPLETIONS
            choice = await self._generate([1, 2, 3], greedy)
        if not np.allclose(choice.logprobs, 0, atol=1e-5):
            raise EngineError(
                f"{self._client.url}: gives log-probabilities of another distribution than it samples from; start it "
                "with `entropyctl serve`, or with --logprobs-mode processed_logprobs"
            )

    async def _weights_name(self) -> str | None:
        """What the server calls its weights; None where it does not say."""
        try:
            return str((await self._client.call("GET", "/weight_info"))["weight_version"])
        except (Refused, KeyError, TypeError):
            return None

    def _claims(self, held: str | None, root: str) -> bool:
        """Whether the server may hold the wanted version: by name, else by directory where no probe can tell."""
        if held not in (None, UNTOLD):
            return held == self._policy.digest
        return read_probe(self._policy) is not None or Path(root).resolve() == self._policy.directory.resolve()

    async def _proved(self) -> bool:
        await self._find_route()
        try:
            await self._check_probe()
        except EngineError:
            return False
        return True

    async def _check_probe(self) -> None:
        probe = read_probe(self._policy)
        if probe is None:
            return
        choice = await self._generate(probe.tokens, {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0})
        if len(choice.prompt_logprobs) != len(probe.logprobs):
            raise EngineError("it gives no log-probabilities of a prompt")
        check_probe(self._policy, lambda _: choice.prompt_logprobs, self._dtype)

    async def _exchange(self, held: str | None, root: str) -> None:
        """Load the wanted version in the server, prove that it is in, and give it its name.

        Raises:
            EngineError: the server cannot, or the proof fails.
        """
        check_whole(self._policy, "vLLM")
        directory = str(self._policy.directory.resolve())
        remedy = f"start it again with `entropyctl serve --policy {directory}`"
        if held is None:
            reason = f"does not hold {directory} (it was started with {one_line(root)})"
            raise EngineError(f"{self._client.url}: {reason}; {remedy}")
        with self._taking(directory, remedy):
            await self._load(directory)
        await self._find_route()
        with self._taking(directory, remedy):
            await self._check_probe()
        await self._name(self._policy.digest)

    @contextmanager
    def _taking(self, directory: str, remedy: str) -> Iterator[None]:
        """Say of a fault that the version is not in, and what to do."""
        try:
            yield
        except (Passing, Refused, EngineError) as error:
            if isinstance(error, Passing) and error.status != 500:  # which is how vLLM says that a worker failed
                raise
            reason = one_line(str(error))
            raise EngineError(f"{self._client.url}: did not take {directory} ({reason}); {remedy}") from None

    async def _load(self, directory: str) -> None:
        """Put a checkpoint's weights into the server between two requests."""
        call = self._client.call
        await call("POST", "/pause?mode=wait")
        try:
            await self._name(BETWEEN)
            await call("POST", "/collective_rpc", {"method": "entropyctl_load", "args": [directory]})
            emptied = await call("POST", "/reset_prefix_cache")
        finally:
            await call("POST", "/resume")
        if isinstance(emptied, dict) and emptied.get("success") is False:
            raise EngineError("its prefix cache is not emptied")

    async def _name(self, name: str) -> None:
        await self._client.call("POST", "/update_weight_version", {"new_version": name})


def _choice(reply: Any, prompt: list[int]) -> Choice:
    """What a reply of either route says."""
    (choice,) = reply["choices"]
    tokens = [int(token) for token in choice["token_ids"]]
    said = choice.get("logprobs")
    logprobs: list[float] = []
    if said is not None:
        found = said["token_logprobs"] if "token_logprobs" in said else [x["logprob"] for x in said["content"]]
        logprobs = [float(x) for x in found]
        if len(logprobs) != len(tokens) or not all(math.isfinite(x) for x in logprobs):
            raise ValueError
    of_prompt = reply.get("prompt_logprobs") or choice.get("prompt_logprobs") or [None]
    pairs = zip(prompt[1:], of_prompt[1:], strict=False)
    prompt_logprobs = [float(of[str(token)]["logprob"]) for token, of in pairs]
    weights = frozenset(str(span["version"]) for span in choice.get("weight_versions") or ())
    return Choice(tokens, logprobs, str(choice["finish_reason"]), prompt_logprobs, weights)
