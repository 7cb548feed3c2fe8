"""A stage whose sub-commands are methods: `entropyctl mask clip-v --mu 8.5`.

A method is a pure function in a file of its own name. Its positional parameters are the columns that it
reads; its keyword-only parameters, with their types, defaults and docstring entries, are its flags.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer

from entropyctl import commands, configuration, registry
from entropyctl.commands import as_help

Method = Callable[..., Any]

# Flags of a stage that only methods with an input of that name have.
FROM_OUTSIDE = ("state", "history")


def run(stage: str, kind: str, body: Callable[..., object], argv: list[str], word: str = "method") -> int:
    """Run `entropyctl STAGE METHOD ...`.

    Args:
        stage: name of the stage.
        kind: folder (and entry-point group) of its methods.
        body: what the stage does; called with `method` (name), `function`, `params` (the method's keywords)
            and its own keyword parameters, which every method's command has as flags too.
        argv: the arguments after the stage's name.
        word: what the stage calls a method.
    """
    if not argv or argv[0] in ("--help", "-h"):
        print(_help(stage, kind, body, word), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name = argv[0]
    if not registry.is_known(kind, name):
        known = ", ".join(registry.names(kind))
        print(f"entropyctl {stage}: there is no {word} '{name}'; known: {known}", file=sys.stderr)
        return 2
    return commands.run(f"{stage} {name}", _command(kind, name, body), argv[1:])


def run_with(stage: str, kind: str, option: str, default: str, body: Callable[..., object], argv: list[str]) -> int:
    """Run `entropyctl STAGE --OPTION NAME ...`, a stage that works with one method of a kind and has its flags.

    Args:
        stage: name of the stage.
        kind: folder (and entry-point group) of the methods.
        option: the flag that names one.
        default: the method without that flag.
        body: what the stage does; called as in `run`.
        argv: the arguments after the stage's name.
    """
    name = configuration.value_of(stage, option, argv) or default
    if not registry.is_known(kind, name):
        known = ", ".join(registry.names(kind))
        print(f"entropyctl {stage}: --{option}: there is no '{name}'; known: {known}", file=sys.stderr)
        return 2
    command = _command(kind, name, body)
    doc = inspect.getdoc(body) or ""
    command.__doc__ = f"{doc}\n\n--{option} {name}:\n\n{command.__doc__}"
    return commands.run(stage, command, argv)


def _help(stage: str, kind: str, body: Callable[..., object], word: str) -> str:
    doc = as_help(inspect.getdoc(body) or "").replace("\b\n", "")
    lines = [f"Usage: entropyctl {stage} {word.upper()} [OPTIONS] [INPUT]...", "", doc, "", f"{word.capitalize()}s:"]
    names = registry.names(kind)
    width = max(map(len, names)) + 2
    shows = "formula, source" if word == "method" else "fields"
    lines += [f"  {name:<{width}} {registry.summary(kind, name)}" for name in names]
    lines += ["", f"`entropyctl {stage} {word.upper()} --help` shows a {word}'s {shows} and flags."]
    return "\n".join(lines)


class Interface(NamedTuple):
    """What a method's command is made of: its docstring, its keyword-only parameters, and what it reads."""

    doc: str
    keywords: list[inspect.Parameter]
    inputs: list[str]


def interface(kind: str, name: str) -> Interface:
    """A method's interface, read from its source where that is ours, so that help and a wrong flag import no numpy."""
    path = registry.source_file(kind, name)
    found = None if path is None else _of_source(path)
    return found or of_function(registry.load_function(kind, name))


def of_function(function: Method) -> Interface:
    """The interface of an imported function."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return Interface(inspect.getdoc(function) or "", keywords, registry.inputs_of(function))


def _of_source(path: Path) -> Interface | None:
    """The interface as it is written; None where a type or a default is more than a literal, which takes an import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == path.stem), None)
    if node is None:
        return None
    keywords = []
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        try:
            value = inspect.Parameter.empty if default is None else ast.literal_eval(default)
            kind = _type(argument.annotation)
        except ValueError:
            return None
        keywords.append(inspect.Parameter(argument.arg, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind))
    return Interface(ast.get_docstring(node) or "", keywords, [argument.arg for argument in node.args.args])


def _type(node: ast.expr | None) -> Any:
    """The type that an annotation names: float, int, bool, str, a Literal, None, or a union of such.

    Raises:
        ValueError: it is another.
    """
    match node:
        case ast.Name(id="float" | "int" | "bool" | "str" as name):
            return {"float": float, "int": int, "bool": bool, "str": str}[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007, for a None on the left
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            return Literal[ast.literal_eval(values)]
    raise ValueError("no simple type")


def _command(kind: str, name: str, body: Callable[..., object]) -> Callable[..., object]:
    doc, own, reads = interface(kind, name)
    # A method that remembers has a flag for where; one that does not has none that would do nothing.
    without = {"method", "function", "params", *(set(FROM_OUTSIDE) - set(reads))}
    shared = [p for p in inspect.signature(body, eval_str=True).parameters.values() if p.name not in without]
    described = parameter_docs(doc)

    def command(**options: Any) -> object:
        params = {p.name: options.pop(p.name) for p in own}
        return body(method=name, function=registry.load_function(kind, name), params=params, **options)

    flags = [p.replace(annotation=_flag(p, described.get(p.name, ""))) for p in own]
    inputs = [p for p in shared if p.name == "inputs"]
    rest = [p for p in shared if p.name != "inputs"]
    command.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in [*inputs, *flags, *rest]])  # type: ignore[attr-defined]
    command.__doc__ = doc
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
