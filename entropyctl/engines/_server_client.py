"""Talking to a vLLM server: JSON in and out, what its refusals mean, and trying again what may pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from entropyctl.errors import EngineError, Temporary, one_line
from entropyctl.table import notice
from entropyctl.web import Address, BadReply, TooLarge, request

LONGEST_WAIT = 30.0
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}

Found = TypeVar("Found")


class Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


class Refused(Exception):
    """A request that the server understood and will not answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Client(NamedTuple):
    """A server, and how patient we are with it."""

    url: str  # as the user wrote it
    address: Address  # its path is what stands before every route
    timeout: float  # seconds for one attempt, from the connection to the last byte
    retries: int

    async def call(self, method: str, route: str, body: Any = None, *, largest: int = 1_000_000) -> Any:
        """One request, and what the server answered as JSON; None where it answered nothing.

        Raises:
            Passing: it may answer when it is asked again.
            Refused: it will not.
            EngineError: what it answers is not HTTP or not JSON.
        """
        where = self.address._replace(path=self.address.path + route)
        data = b"" if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(self.timeout):
                reply = await request(method, where, data, HEADERS, largest=largest)
        except TimeoutError:
            raise Passing(f"no reply within {self.timeout:g} s") from None
        except TooLarge:
            raise EngineError(f"{self.url}: its reply to {route} is too large; is this a vLLM server?") from None
        except (OSError, BadReply) as error:
            raise Passing(_reason(error)) from None
        if reply.status in (408, 429) or reply.status >= 500:
            raise Passing(f"{reply.status}: {_words(reply.body)}", reply.status)
        if reply.status != 200:
            raise Refused(reply.status, f"{reply.status}: {_words(reply.body)}")
        try:
            return json.loads(reply.body) if reply.body else None
        except (ValueError, RecursionError):
            raise EngineError(f"{self.url}: its reply to {route} is not JSON; is this a vLLM server?") from None

    async def persist(self, attempt: Callable[[], Awaitable[Found]], failed: Callable[[], bool]) -> Found:
        """The outcome of an attempt that is repeated, with doubled waits, while what stops it may pass.

        Args:
            attempt: one try.
            failed: called after each failure; whether this one is to be told.

        Raises:
            Temporary: all tries failed.
            EngineError: the server refuses.
        """
        for count in range(self.retries + 1):
            try:
                return await attempt()
            except Refused as error:
                raise EngineError(f"{self.url}: {one_line(str(error))}") from None
            except Passing as error:
                reason = one_line(str(error))
            if count == self.retries:
                break
            if failed():
                notice(f"rollout: {self.url}: {reason}; trying again")
            await asyncio.sleep(min(2.0**count, LONGEST_WAIT))
        tries = "1 attempt" if self.retries == 0 else f"{self.retries + 1} attempts"
        raise Temporary(f"{self.url}: {reason} ({tries}); is `entropyctl serve` running there?")


def _reason(error: OSError | BadReply) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens"
    return str(error) or type(error).__name__


def _words(body: bytes) -> str:
    """What a server says of a fault, cut to a line's length."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
        error = said.get("error", said.get("detail", text))
        text = str(error.get("message", text) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return one_line(text)[:300]
