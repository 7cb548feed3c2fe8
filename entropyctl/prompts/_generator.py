"""The child process that generates problems: one JSON request on stdin, one JSON reply on stdout."""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

from entropyctl.children import take_channel
from entropyctl.errors import UsageError

# The seed of the solved problems in few-shot prompts, where it does not collide with the problems' own.
SHOT_SEED = 7


def create(name: str, config: dict[str, Any], seed: int, size: int) -> Any:
    """A task of reasoning-gym.

    Args:
        name: of the task.
        config: its configuration, values as they were generated with.
        seed: of its first problem.
        size: how many problems it has; some tasks deal a fixed stock over them.

    Raises:
        UsageError: the task refuses its configuration.
    """
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **config)
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(f"{error}; change the task's options") from None


def make(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for: `items` and `shots` as pairs of question and answer, and the parsed `config`."""
    name, seed, size = request["name"], request["seed"], request["size"]
    config = _parsed_config(name, request["config"])
    task = create(name, config, seed, size)
    items = [_pair(task[index]) for index in range(size)]
    shots = _shots(name, config, seed, size, request["shots"]) if request["shots"] else []
    return {"items": items, "shots": shots, "config": config}


def _pair(item: dict[str, Any]) -> tuple[str, str | None]:
    return item["question"], None if item["answer"] is None else str(item["answer"])


def _shots(name: str, config: dict[str, Any], seed: int, size: int, shots: int) -> list[tuple[str, str]]:
    """One solved problem more than is shown, so that a problem that is itself among them has another."""
    tries = 100 * (shots + 1)
    apart = seed + size <= SHOT_SEED or SHOT_SEED + tries <= seed
    task = create(name, config, SHOT_SEED if apart else seed + size, tries)
    found: dict[str, str] = {}
    for index in range(tries):
        question, answer = _pair(task[index])
        if answer and "\n" not in answer:  # a line break ends a response, so an answer must be one line
            found.setdefault(question, answer)
        if len(found) > shots:
            return list(found.items())
    raise UsageError(f"has only {len(found)} different problems with an answer of one line; choose fewer shots")


def _parsed_config(name: str, given: dict[str, str]) -> dict[str, Any]:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UsageError(f"there is no task '{name}' in reasoning-gym; {_near(name, list(DATASETS))}")
    fields = {field.name: field for field in dataclasses.fields(DATASETS[name][1])}
    keys = [key for key in fields if key not in ("seed", "size")]
    for key in given:
        if key not in keys:
            raise UsageError(f"the task has no option '{key}'; {_near(key, keys)}")
    return {key: _parse(key, text, _default(fields[key])) for key, text in given.items()}


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=5, cutoff=0.5)
    return f"near: {', '.join(close)}" if close else f"known: {', '.join(known)}"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _parse(key: str, text: str, default: Any) -> Any:
    """A value of the type that the option's default has; without a default, of the type that it looks like."""
    if isinstance(default, list | tuple) and not text.startswith("["):
        return [_parse(key, part, default[0] if default else None) for part in text.split(",")]
    if isinstance(default, str):
        return text
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise UsageError(f"option '{key}' cannot be '{text}'; give {kind}, such as {str(default).lower()}") from None
    return _guess(text)


def _guess(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        named = {"true": True, "false": False, "none": None}
        return [_guess(part) for part in text.split(",")] if "," in text else named.get(text.lower(), text)


def main() -> None:
    """Answer one request."""
    requests, replies = take_channel(show_prints=False)
    request = json.loads(requests.read())
    try:
        import reasoning_gym  # noqa: F401

        reply = make(request)
    except ImportError as error:
        reply = {"usage": f"needs the package reasoning-gym ({error}); pip install 'entropyctl[gym]'"}
    except UsageError as error:
        reply = {"usage": str(error)}
    json.dump(reply, replies)
    replies.close()


if __name__ == "__main__":
    main()
