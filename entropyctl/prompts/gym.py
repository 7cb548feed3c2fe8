"""Generated problems: `gym:NAME?key=value&...`, tasks of the package reasoning-gym."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from urllib.parse import unquote

import xxhash

from entropyctl.children import command, environment
from entropyctl.errors import EngineError, UsageError
from entropyctl.prompts._problem import Problem, problem_id

SCHEME = "gym:"
NUMBERS = {"seed": 42, "size": 500, "shots": 0}


def generate(source: str) -> tuple[list[Problem], str]:
    """The problems of a generated source, and a description of them.

    `seed` (default 42), `size` (500) and `shots` (0) are ours; every other key belongs to the task's configuration.
    With `shots=4` a prompt is a text to be continued: four solved problems of another seed, then the question,
    ending in `Answer:`; a line break ends the response. A prompt's own question is never among its shots.

    Problem i of seed s is, for most tasks, problem 0 of seed s + i: seeds of training and test problems should lie
    `size` apart.

    Raises:
        UsageError: there is no such task or key, or the package is not installed.
    """
    request = _parse(source)
    made = _generate_elsewhere(request)
    shots = made["shots"]
    gym = {"name": request["name"], "config": made["config"], "seed": request["seed"], "size": request["size"]}
    problems = []
    for index, (question, answer) in enumerate(made["items"]):
        extra = {"gym": {**gym, "index": index, "digest": item_digest(question, answer)}}
        prompt = few_shot(question, shots, request["shots"]) if shots else question
        name = problem_id(prompt, answer, f"{SCHEME}{request['name']}")
        few: dict[str, Any] = {"completion": True, "stop": ["\n"]} if shots else {}
        problems.append(Problem(name, prompt, answer, f"{SCHEME}{request['name']}", extra, **few))
    text = f"generated with seed {request['seed']}"
    return problems, f"{text}, each after {request['shots']} solved ones" if shots else text


def item_digest(question: str, answer: str | None) -> str:
    """What proves, when a response is graded, that the problem made again is the one that was asked."""
    return xxhash.xxh3_64_hexdigest(json.dumps([question, answer]).encode())


def few_shot(question: str, solved: list[tuple[str, str]], shots: int) -> str:
    """A prompt to be continued: `shots` solved problems, none of them the question itself, then the question."""
    others = [(q, a) for q, a in solved if q != question][:shots]
    parts = [f"Question: {q}\nAnswer: {a}" for q, a in others]
    return "\n\n".join([*parts, f"Question: {question}\nAnswer:"])


def _parse(source: str) -> dict[str, Any]:
    name, _, query = source.removeprefix(SCHEME).partition("?")
    request: dict[str, Any] = {"name": name, "config": {}, **NUMBERS}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{source}: '{pair}' has no value; write {pair}=VALUE")
        value = unquote(value)
        if key not in NUMBERS:
            request["config"][key] = value
        elif value.isascii() and value.isdigit() and len(value) < 10 and (value.strip("0") or key != "size"):
            request[key] = int(value)
        else:
            raise UsageError(f"{source}: {key} cannot be '{value}'; give a whole number, such as {NUMBERS[key]}")
    return request


def _generate_elsewhere(request: dict[str, Any]) -> dict[str, Any]:
    """Generate in a child process: with a fixed hash seed, and where nothing can print into our output."""
    try:
        child = subprocess.run(
            command("entropyctl.prompts._generator"),
            input=json.dumps(request).encode(),
            capture_output=True,
            env=environment(),
        )
        made = json.loads(child.stdout)
    except ValueError:
        reason = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise EngineError(
            f"gym:{request['name']}: the generator ended with status {child.returncode} ({reason}); try a smaller size"
        ) from None
    if "usage" in made:
        raise UsageError(f"gym:{request['name']}: {made['usage']}")
    return made
