"""Problems as rows of the prompts table, and back without a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import loads
from typing import Any

import pyarrow as pa

from entropyctl.errors import InputError
from entropyctl.prompts._problem import Messages, Problem, canonical
from entropyctl.table.columns import column_from
from entropyctl.table.schema import load_schema

# The columns that tell how a prompt is to be read; without the first, a table has none of this.
KIND, STOP = "prompt_kind", "stop"
KINDS = ("text", "completion", "messages")


def as_table(problems: Sequence[Problem]) -> pa.Table:
    """The problems as a prompts table, in their order; `load_prompts` reads the same problems out of it."""
    rows = [_row(problem) for problem in problems]
    columns = load_schema("prompts").columns
    return pa.table({c.name: column_from([row[c.name] for row in rows], c.arrow_type) for c in columns})


def _row(problem: Problem) -> dict[str, Any]:
    text = isinstance(problem.prompt, str)
    return {
        "prompt_id": problem.prompt_id,
        "prompt": problem.prompt if text else canonical(problem.prompt),
        KIND: "messages" if not text else "completion" if problem.completion else "text",
        "answer": problem.answer,
        "data_source": problem.data_source,
        "extra": canonical(problem.extra),
        STOP: list(problem.stop),
    }


def read_kind(row: Mapping[str, Any], prompt: Any, where: str) -> tuple[Any, bool, Sequence[str]]:
    """A row's prompt as text or messages, whether it is to be continued as it is, and what ends a response.

    Raises:
        InputError: the row's kind is none of `KINDS`, or its messages are no JSON.
    """
    kind, stop = row.get(KIND), row.get(STOP)
    if kind is not None and kind not in KINDS:
        raise InputError(f"{where}: its prompt_kind is {kind}; it must be {', '.join(KINDS)} or null")
    if kind == "messages" and isinstance(prompt, str):
        prompt = _messages(prompt, where)
    ends = tuple(text for text in stop if isinstance(text, str)) if isinstance(stop, list) else ()
    return prompt, kind == "completion", ends


def _messages(text: str, where: str) -> Messages:
    try:
        found: Messages = loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: its prompt is no conversation in JSON, as its prompt_kind says; mend it") from None
    return found
