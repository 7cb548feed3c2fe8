"""A problem, its name, and the digest of a set of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash

Messages = list[dict[str, Any]]


class Problem(NamedTuple):
    """One problem to be sampled.

    Attributes:
        prompt_id: its name; unique among the problems that were loaded together.
        prompt: text, or a conversation as messages of `role` and `content`.
        answer: the reference answer; None when there is none.
        data_source: the data set that it comes from; None when unknown.
        extra: whatever else a grader may need, ready for JSON.
        completion: the prompt is a text to be continued, never to be put into a chat template.
        stop: strings that end a response, as the source suggests.
    """

    prompt_id: str
    prompt: str | Messages
    answer: str | None = None
    data_source: str | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    completion: bool = False
    stop: Sequence[str] = ()


def canonical(value: Any) -> str:
    """One text for one value: JSON with sorted keys and no spaces."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def problem_id(prompt: str | Messages, answer: str | None, data_source: str | None) -> str:
    """The name of a problem that has none: a digest of what it asks, 16 hexadecimal digits."""
    text = canonical([prompt, answer, data_source])
    return xxhash.xxh3_64_hexdigest(text.encode())


def with_unique_ids(problems: Iterable[Problem]) -> list[Problem]:
    """The problems with `#1`, `#2`, ... behind names that came before."""
    seen: dict[str, int] = {}
    found = []
    for problem in problems:
        name = problem.prompt_id
        while name in seen:
            name = f"{problem.prompt_id}#{seen[problem.prompt_id]}"
            seen[problem.prompt_id] += 1
        seen[name] = 1
        found.append(problem if name == problem.prompt_id else problem._replace(prompt_id=name))
    return found


def prompts_digest(problems: Sequence[Problem]) -> str:
    """A digest of all problems that does not depend on their order, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    for problem in sorted(problems, key=lambda p: p.prompt_id):
        digest.update(canonical([*problem[:5], problem.completion]).encode())
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """A value out of Arrow or a data set as JSON can hold it: dates and the like as text, NaN as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a surrogate pair is no text
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return plain(value.tolist())
    return str(value)


def as_text(value: Any) -> str | None:
    """A reference answer or a name as text; what is no text, as JSON."""
    value = plain(value)
    return value if value is None or isinstance(value, str) else canonical(value)
