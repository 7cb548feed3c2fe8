"""Several masks in one word: `clip-v:mu=8.5,top-entropy,clip-b+random:fraction=0.1`."""

from __future__ import annotations

import inspect
import re
import types
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.methods import interface

_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class MaskSpec(NamedTuple):
    """A mask and its parameters."""

    name: str
    params: dict[str, Any]
    reads: tuple[str, ...]


def parse_masks(flag: str, text: str) -> dict[str, tuple[MaskSpec, ...]]:
    """The masks that a word names, each under the text that named it; several that are composed, in their order.

    `,` separates masks, `+` composes them as a pipe would, `:` begins a parameter, `name=value`. A parameter that is
    not given has the method's default.

    Args:
        flag: the option that held the text, for messages.
        text: the word.

    Raises:
        UsageError: a mask, a parameter or a value is not one of those known.
    """
    # A plus before a letter begins another mask; that of 1e+5 does not.
    return {
        word: tuple(_parse(f"{flag} {word}", part) for part in re.split(r"\+(?=[A-Za-z])", word))
        for word in (word.strip() for word in text.split(","))
    }


def _parse(where: str, text: str) -> MaskSpec:
    name, *pairs = text.split(":")
    known = registry.names("masks")
    if name not in known:
        raise UsageError(f"{where}: there is no mask '{name}'; known: {', '.join(known)}")
    found = interface("masks", name)
    keywords = {parameter.name: parameter for parameter in found.keywords}
    params = {key: parameter.default for key, parameter in keywords.items()}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        parameter = keywords.get(key.replace("-", "_"))
        if not equals or parameter is None:
            raise UsageError(f"{where}: '{pair}' sets no parameter of {name}; known: {_listed(keywords)}")
        params[parameter.name] = _value(f"{where}: {key}", value, parameter.annotation)
    if lacking := next((key for key, value in params.items() if value is inspect.Parameter.empty), None):
        raise UsageError(f"{where}: lacks {lacking}; write {name}:{lacking}=VALUE")
    return MaskSpec(name, params, tuple(found.inputs))


def _listed(keywords: dict[str, inspect.Parameter]) -> str:
    return ", ".join(f"{name.replace('_', '-')}=..." for name in keywords) or "none"


def _value(where: str, text: str, kind: Any) -> Any:
    """The value that a text means for a parameter of some type.

    Raises:
        UsageError: it means no value of that type.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for one in kinds:
        if one in (None, type(None)) and text == "none":
            return None
        if get_origin(one) is Literal and (word := _chosen(text, get_args(one))) is not None:
            return word
        if one is bool and text in _TRUTH:
            return _TRUTH[text]
        if one in (int, float, str):
            try:
                return one(text)
            except ValueError:
                continue
    known = [word for one in kinds for word in _words(one)]
    raise UsageError(f"{where}: '{text}' must be {' or '.join(known)}")


def _chosen(text: str, words: tuple[Any, ...]) -> Any:
    return next((word for word in words if str(word) == text), None)


def _words(kind: Any) -> list[str]:
    if kind in (None, type(None)):
        return ["none"]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else [_KINDS[kind]]
