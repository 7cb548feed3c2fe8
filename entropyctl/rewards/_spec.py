"""From `--reward SPEC` to a grader that can be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.rewards._grade import Grade


class Loaded(NamedTuple):
    """A grader and what stands beside it in its file."""

    grade: Callable[[Mapping[str, Any]], Grade | None]
    prepare: Callable[[], None] | None
    quick: Callable[[Mapping[str, Any]], Grade | None] | None
    decisive: Callable[[str], str] | None
    reads: tuple[str, ...]  # of the inputs


def load(spec: str) -> Loaded:
    """The grader that `NAME` or `NAME:ARGUMENT` means. Imports nothing heavy.

    Raises:
        UsageError: no such grader, or an argument that it does not take, or lacks.
    """
    name, colon, argument = spec.partition(":")
    function = registry.load_function("rewards", name)
    beside = registry.load_module("rewards", name)
    given = _argument(spec, function, argument if colon else None)
    prepare, quick = getattr(beside, "prepare", None), getattr(beside, "quick", None)
    return Loaded(
        _by_name(partial(function, **given), function),
        partial(prepare, **given) if prepare else None,
        _by_name(quick, quick) if quick else None,
        getattr(beside, "decisive", None),
        tuple(registry.inputs_of(function)),
    )


def _by_name(call: Callable[..., Any], function: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    names = registry.inputs_of(function)
    return lambda inputs: call(**{name: inputs[name] for name in names})


def _argument(spec: str, function: Callable[..., Any], argument: str | None) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()
    takes = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    if argument is None:
        if takes and takes[0].default is takes[0].empty:
            raise UsageError(f"--reward {spec}: lacks its {takes[0].name}; write {spec}:{takes[0].name.upper()}")
        return {}
    if not takes:
        raise UsageError(f"--reward {spec}: takes nothing after the colon; write {spec.partition(':')[0]}")
    return {takes[0].name: argument}
