"""A stage whose sub-commands are methods: `entropyctl mask clip-v --mu 8.5`.

A method is a pure function in a file of its own name. Its positional parameters are the columns that it
reads; its keyword-only parameters, with their types, defaults and docstring entries, are its flags.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from entropyctl import commands, registry
from entropyctl.commands import as_help

Method = Callable[..., Any]


def run(stage: str, kind: str, body: Callable[..., object], argv: list[str]) -> int:
    """Run `entropyctl STAGE METHOD ...`.

    Args:
        stage: name of the stage.
        kind: folder (and entry-point group) of its methods.
        body: what the stage does; called with `method` (name), `function`, `params` (the method's keywords)
            and its own keyword parameters, which every method's command has as flags too.
        argv: the arguments after the stage's name.
    """
    if not argv or argv[0] in ("--help", "-h"):
        print(_help(stage, kind, body), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name = argv[0]
    known = registry.names(kind)
    if name not in known:
        print(f"entropyctl {stage}: there is no method '{name}'; known: {', '.join(known)}", file=sys.stderr)
        return 2
    function = registry.load_function(kind, name)
    return commands.run(f"{stage} {name}", _command(name, function, body), argv[1:])


def _help(stage: str, kind: str, body: Callable[..., object]) -> str:
    doc = as_help(inspect.getdoc(body) or "").replace("\b\n", "")
    lines = [f"Usage: entropyctl {stage} METHOD [OPTIONS] [INPUT]...", "", doc, "", "Methods:"]
    lines += [f"  {name:<16} {registry.summary(kind, name)}" for name in registry.names(kind)]
    lines += ["", f"`entropyctl {stage} METHOD --help` shows a method's formula, source and flags."]
    return "\n".join(lines)


def _command(name: str, function: Method, body: Callable[..., object]) -> Callable[..., object]:
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
    shared = [
        p
        for p in inspect.signature(body, eval_str=True).parameters.values()
        if p.name not in ("method", "function", "params")
    ]
    described = parameter_docs(inspect.getdoc(function) or "")

    def command(**options: Any) -> object:
        params = {p.name: options.pop(p.name) for p in own}
        return body(method=name, function=function, params=params, **options)

    flags = [p.replace(annotation=_flag(p, described.get(p.name, ""))) for p in own]
    inputs = [p for p in shared if p.name == "inputs"]
    rest = [p for p in shared if p.name != "inputs"]
    command.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in [*inputs, *flags, *rest]])  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(function)
    return command


def _flag(parameter: inspect.Parameter, text: str) -> Any:
    metavar = None
    if get_origin(parameter.annotation) is Literal:
        metavar = "|".join(str(value) for value in get_args(parameter.annotation))
    return Annotated[parameter.annotation, typer.Option(help=text, metavar=metavar)]


def parameter_docs(doc: str) -> dict[str, str]:
    """The entries of a docstring's Args section, by parameter."""
    section = doc.partition("\nArgs:\n")[2]
    section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name = match[1]
            entries[name] = match[2]
        elif line.strip() and name:
            entries[name] += " " + line.strip()
    return entries
