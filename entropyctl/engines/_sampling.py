"""What an engine is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from entropyctl.errors import UsageError
from entropyctl.policy import Policy

BATCH_ROWS = 64


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: softmax(logits / temperature), cut to the top k, then to the top p, renormalised."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    max_tokens: int = 512
    stop: tuple[str, ...] = field(default=())
    # Take the most probable token; its log-probability is still that of the distribution above.
    greedy: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled.

        Raises:
            UsageError: names the option.
        """
        if not self.temperature > 0:
            raise UsageError("--temperature: must be above 0; for greedy decoding use --top-k 1")
        if not 0 < self.top_p <= 1:
            raise UsageError("--top-p: must be in (0, 1]; 1 keeps every token")
        if self.top_k < 0 or self.max_tokens < 1:
            raise UsageError("--top-k must be at least 0 and --max-tokens at least 1")

    @property
    def truncates(self) -> bool:
        """Whether some tokens can never be drawn, which makes log-probabilities differ from the full softmax's."""
        return self.top_p < 1 or self.top_k > 0

    def context(self) -> dict[str, object]:
        """What the file says of the distribution that sampled."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            # "processed": after temperature and truncation, the distribution that the token was drawn from
            "logprob_kind": "processed",
        }


class Request(NamedTuple):
    """One response to sample."""

    prompt_id: str
    sample: int
    prompt_tokens: list[int]
    uniforms: npt.NDArray[np.float64]  # [max_tokens] one number in [0, 1) for each token
    stop: tuple[str, ...] = ()


class Response(NamedTuple):
    """One sampled response."""

    tokens: list[int]
    logprobs: list[float]  # nats, of the distribution that sampled
    finish_reason: str  # stop, length or abort
    text: str


# Told of each response as it finishes, with its place among the requests.
Done = Callable[[int, Response], None]


def ignore(place: int, response: Response) -> None:
    """Nobody asks for responses before all are there."""


class Sampler(Protocol):
    """Responses in the order of the requests."""

    def __call__(self, requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]: ...


class Engine(NamedTuple):
    """A way to generate, ready to sample."""

    sample: Sampler
    tokenizer: Any
    load: Callable[[Policy], None]  # take the weights of another version, which the next sample is drawn with
    close: Callable[[], None]  # give up processes and memory
    model: Any = None  # the transformers model, where it lives in this process; a scorer may share it


def batches(requests: Sequence[Request], rows: int) -> list[list[int]]:
    """Requests that are sampled side by side where an engine of ours forms the batches, as their places.

    Prompts of similar length together: little padding, and samples of a prompt share its prefill.
    """
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_tokens), requests[i].prompt_id))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def check_room(requests: Sequence[Request], max_tokens: int, positions: int) -> None:
    """Stop where a prompt leaves no room for its response.

    Raises:
        UsageError: names the prompt.
    """
    longest = max(requests, key=lambda r: len(r.prompt_tokens), default=None)
    if longest is not None and len(longest.prompt_tokens) + max_tokens > positions:
        raise UsageError(
            f"prompt {longest.prompt_id}: {len(longest.prompt_tokens)} tokens and --max-tokens {max_tokens} are more "
            f"than the {positions} positions of the model; lower --max-tokens, or shorten or leave out the prompt"
        )


def sample_seed(request: Request) -> int:
    """A seed for engines that draw their own numbers, out of those that belong to the request's key."""
    return int(request.uniforms[0] * 2**53)


def uniforms(seed: int, step: int, prompt_id: str, sample: int, count: int) -> npt.NDArray[np.float64]:
    """The random numbers of one response, which depend on nothing but its key and the seed.

    So the same command draws the same responses in any order of prompts and with any batch size, up to what the
    order of floating-point sums can change in the model's probabilities.
    """
    key = xxhash.xxh3_128_intdigest(f"{seed}\0{step}\0{prompt_id}\0{sample}".encode())
    return np.random.Generator(np.random.Philox(key=key)).random(count)
