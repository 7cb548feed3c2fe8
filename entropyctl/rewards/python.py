"""A function of your own, with verl's signature: python:PACKAGE.MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from entropyctl.errors import UsageError
from entropyctl.rewards._grade import LARGEST, Grade


def python(response: str, answer: str | None, data_source: str | None, extra: dict[str, Any], *, target: str) -> Grade:
    """A function of your own, with verl's signature: python:PACKAGE.MODULE:FUNCTION.

    FUNCTION(data_source=..., solution_str=..., ground_truth=..., extra_info=...) is called with these names (those
    that it has) and returns a number, or a dict with `score` and, if it likes, `acc` and `pred`. The module is
    looked for in the current directory first. It runs in a worker process of its own; what it prints goes to
    standard error. A reference answer that was no string is given as JSON.

    reward: the number, or `score`. correct: `acc` is true (above 0), or, without `acc`, the reward is above 0.
    wrong: otherwise. error (0): it raised an exception or returned something else. predicted: `pred`.

    Args:
        response: what the model wrote; `solution_str`.
        answer: the reference; `ground_truth`.
        data_source: the data set's name.
        extra: the prompt's other columns; `extra_info`.
        target: `PACKAGE.MODULE:FUNCTION`.
    """
    function, names = _load(target)
    given = {"data_source": data_source, "solution_str": response, "ground_truth": answer, "extra_info": extra}
    result = function(**{name: given[name] for name in names})
    details = result if isinstance(result, dict) else {"score": result}
    reward = _number(details["score"])
    correct = _number(details.get("acc", reward)) > 0
    predicted = details.get("pred")
    return Grade(reward, "correct" if correct else "wrong", None if predicted is None else str(predicted))


def prepare(target: str) -> None:
    """Import the module before the clock runs.

    Raises:
        UsageError: there is no such module or function, or it cannot be called as verl does.
    """
    _load(target)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, str) or not abs(number) <= LARGEST:
        raise ValueError(f"a score must be a finite number, not {value!r}")
    return number


@cache
def _load(target: str) -> tuple[Callable[..., Any], list[str]]:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"--reward python:{target}: write python:PACKAGE.MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"--reward python:{target}: cannot import '{module_name}' ({reason}); mend it") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"--reward python:{target}: '{module_name}' has no function '{name}'; check the name")
    return function, _accepted(function, target)


def _accepted(function: Callable[..., Any], target: str) -> list[str]:
    """Which of verl's parameters a function takes."""
    names = ["data_source", "solution_str", "ground_truth", "extra_info"]
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin that does not tell
        return names
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    unknown = [
        p.name for p in parameters if p.name not in names and p.default is p.empty and p.kind != p.VAR_POSITIONAL
    ]
    if unknown:
        known = ", ".join(names)
        raise UsageError(f"--reward python:{target}: takes '{unknown[0]}', which nobody gives; known: {known}")
    return [p.name for p in parameters if p.name in names]
