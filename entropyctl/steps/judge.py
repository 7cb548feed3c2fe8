"""A language model behind an OpenAI-compatible chat endpoint as a judge of steps."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from entropyctl.errors import UsageError, one_line
from entropyctl.steps._question import FAILURES, Answer, Question, fault_of, messages, read_fault, read_reply
from entropyctl.web import Address, BadReply, Reply, TooLarge, in_background, parse_address, request

ATTEMPTS = 4
# Seconds before an attempt is repeated: doubled each time, unless the server says how long to wait.
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# A judge that has answered nothing at all after so many responses is not asked about the others.
GIVE_UP = 64
KEYS = ("ENTROPYCTL_JUDGE_KEY", "OPENAI_API_KEY")


@dataclass
class Judge:
    """An endpoint that is asked for verdicts, with many requests in flight."""

    address: Address
    model: str
    timeout: float
    requests: int
    key: str | None
    tempered: bool = True  # whether the model takes a temperature; some accept none but their own
    heard: bool = False  # whether it has ever given a reply that could be one
    failed: int = 0

    def ask(self, questions: Sequence[Question], advance: Callable[[int], None] = lambda n: None) -> list[Answer]:
        """The answers to all questions, in their order. What goes wrong with one is its answer's outcome.

        Args:
            questions: none without steps.
            advance: called with 1 for each answer.
        """
        return in_background(lambda: self._ask_all(questions, advance))

    @property
    def given_up(self) -> bool:
        """Whether it has failed so often, and never answered, that there is no sense in asking on."""
        return not self.heard and self.failed >= GIVE_UP

    async def _ask_all(self, questions: Sequence[Question], advance: Callable[[int], None]) -> list[Answer]:
        waiting = iter(enumerate(questions))
        answers: dict[int, Answer] = {}

        async def work() -> None:
            for index, question in waiting:
                answer = await self._ask(question) if not self.given_up else Answer("error", why="given up, not asked")
                self.failed += answer.outcome in FAILURES
                self.heard = self.heard or answer.outcome not in FAILURES
                answers[index] = answer._replace(why=one_line(self._hide_key(answer.why)))
                advance(1)

        await asyncio.gather(*(work() for _ in range(min(self.requests, len(questions)))))
        return [answers[index] for index in range(len(questions))]

    async def _ask(self, question: Question) -> Answer:
        answer, wait = Answer("error"), 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(wait)
            answer, wait, again = await self._attempt(question, FIRST_WAIT * 2**attempt)
            if not again:
                break
        return answer

    async def _attempt(self, question: Question, wait: float) -> tuple[Answer, float, bool]:
        """An answer, whether to ask again, and after how many seconds."""
        tempered = self.tempered
        try:
            async with asyncio.timeout(self.timeout):
                reply = await request("POST", self.address, self._body(question), self._headers())
        except TimeoutError:
            return Answer("timeout", why=f"no reply within {self.timeout:g} s"), wait, True
        except TooLarge:
            return Answer("malformed", why="its reply is too large"), wait, False
        except (OSError, BadReply) as error:
            return Answer("error", why=str(error) or type(error).__name__), wait, True
        if reply.status == 200:
            return read_reply(reply.body, len(question.steps)), wait, False
        if tempered and reply.status == 400 and fault_of(reply.body).get("param") == "temperature":
            self.tempered = False
            return read_fault(reply.status, reply.body), 0.0, True
        again = reply.status in (408, 429) or 500 <= reply.status < 600
        return read_fault(reply.status, reply.body), _wait(reply, wait), again

    def _body(self, question: Question) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": messages(question)}
        if self.tempered:
            body["temperature"] = 0
        return json.dumps(body).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def _hide_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def open_judge(url: str, model: str | None, *, timeout: float, requests: int) -> Judge:
    """A judge, with the key that the environment holds. Nothing is sent yet.

    Args:
        url: base URL of the endpoint, `http://127.0.0.1:8000/v1`.
        model: its name for the model.
        timeout: seconds for one attempt, from the connection to the last byte.
        requests: how many are in flight at once.

    Raises:
        UsageError: something is missing or makes no sense, or a key that was meant for others would be sent in the
            clear.
    """
    address = parse_address("--judge", url, "/chat/completions")
    if not model:
        raise UsageError("--judge-model is missing; give the name of the model that judges")
    if not 0 < timeout < float("inf"):
        raise UsageError(f"--judge-timeout {timeout:g}: must be above 0 and finite")
    source = next((name for name in KEYS if os.environ.get(name)), None)
    key = os.environ[source].strip() if source else None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{source}: holds characters that no key has; set it again")
    if source == "OPENAI_API_KEY" and not address.secure and not address.loopback:
        raise UsageError(
            f"--judge {url}: OPENAI_API_KEY would cross the network in the clear; use https, or unset it and "
            "put a key for this server alone into ENTROPYCTL_JUDGE_KEY"
        )
    return Judge(address, model, timeout, requests, key)


def _wait(reply: Reply, wait: float) -> float:
    said = reply.headers.get("Retry-After", "")
    return min(float(said) if said.isascii() and said.isdigit() else wait, LONGEST_WAIT)
