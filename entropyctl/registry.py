"""Finding stages and methods by name. Standard library only: `entropyctl --help` runs through here.

A stage is a file in `stages/`; a method is a file in `masks/`, `advantages/`, ... that holds a function
of the file's own name. Adding the file is the whole registration. Other packages add theirs through
entry points (`entropyctl.masks`, `entropyctl.stages`, ...); they never replace a built-in name.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from entropyctl.errors import UsageError


def command_name(module_name: str) -> str:
    """A module's name as a user types it: `clip-v` for clip_v, `reinforce++` for reinforce_plus_plus, `pass@k` too."""
    return module_name.replace("_plus_plus", "++").replace("_at_", "@").replace("_", "-")


def function_name(name: str) -> str:
    """The Python name of a method: the inverse of `command_name`."""
    return name.replace("++", "_plus_plus").replace("@", "_at_").replace("-", "_")


@cache
def _folder(kind: str) -> Path:
    spec = importlib.util.find_spec(f"entropyctl.{kind}")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"entropyctl.{kind}")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _files(kind: str) -> dict[str, Path]:
    """The files of a kind, by command name. A file that begins with `_` is no method but a shared part."""
    paths = sorted(_folder(kind).glob("*.py"))
    return {command_name(path.stem): path for path in paths if not path.stem.startswith("_")}


@cache
def _entry_points(kind: str) -> dict[str, Any]:
    # Imported here: importlib.metadata doubles the time of `entropyctl --help`, and the built-in names need none.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"entropyctl.{kind}")}


def names(kind: str) -> list[str]:
    """Every name of a kind: the built-in ones, then those of other packages."""
    builtin = _files(kind)
    return [*builtin, *sorted(set(_entry_points(kind)) - set(builtin))]


def is_known(kind: str, name: str) -> bool:
    """Whether a kind has that name; other packages are looked through only where no built-in has it."""
    return name in _files(kind) or name in _entry_points(kind)


def summary(kind: str, name: str) -> str:
    """The first line of a docstring, read without importing the file; another package's says where it is from."""
    path = _files(kind).get(name)
    if path is None:
        point = _entry_points(kind)[name]
        function = "" if kind == "stages" else point.attr
        return f"{_first_line(_source_of(point.module), function)} (from {point.module})".lstrip()
    return _first_line(path, "")


def _first_line(path: Path | None, function: str) -> str:
    """Of the docstring of a file's function, or of the file; nothing where there is none."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):  # said when it is called, not when it is listed
        return ""
    own = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function), None)
    return ((own and ast.get_docstring(own)) or ast.get_docstring(tree) or "").partition("\n")[0]


def _source_of(module: str) -> Path | None:
    """The file of another package's module; only the package is looked up, so that nothing of it runs."""
    root, *rest = module.split(".")
    spec = importlib.util.find_spec(root)
    if spec is None or not rest:
        return Path(spec.origin) if spec and spec.origin else None
    inside = [Path(folder).joinpath(*rest) for folder in spec.submodule_search_locations or []]
    files = [file for path in inside for file in (path.with_name(f"{path.name}.py"), path / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


def source_file(kind: str, name: str) -> Path | None:
    """The file of a built-in name; None for one of another package."""
    return _files(kind).get(name)


class _Room(ModuleType):
    """A package whose methods stand in it as functions.

    Importing a method's file makes Python set the package's attribute to that module, in whatever order things are
    imported; the function takes its place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and not name.startswith("_"):
            value = getattr(value, name, value)
        super().__setattr__(name, value)


def open_room(package: str, parts: dict[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package of methods, each imported when it is first asked for.

    Args:
        package: the package's `__name__`.
        parts: its other public names, and the modules in it that hold them.
    """
    room = sys.modules[package]
    room.__class__ = _Room
    methods = {path.stem: path.stem for path in _files(package.rpartition(".")[2]).values()}

    def getter(name: str) -> Any:
        if name not in methods and name not in parts:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{package}.{(parts | methods)[name]}"), name)
        setattr(room, name, found)
        return found

    return getter, [*parts, *methods]


def load_module(kind: str, name: str) -> Any:
    """The module behind a name: a built-in file, else what an entry point names; None when there is neither."""
    path = _files(kind).get(name)
    if path is not None:
        return importlib.import_module(f"entropyctl.{kind}.{path.stem}")
    point = _entry_points(kind).get(name)
    return None if point is None else point.load()


def load_function(kind: str, name: str) -> Callable[..., Any]:
    """The function behind a method's name.

    Raises:
        UsageError: no such name (the message lists the known ones), or its module lacks the function.
    """
    found = load_module(kind, name)
    if found is None:
        raise UsageError(f"there is no '{name}' in {kind}; known: {', '.join(names(kind))}")
    if callable(found):
        return found
    function = getattr(found, function_name(name), None)
    if not callable(function):
        raise UsageError(f"{kind} '{name}': its module {found.__name__} has no function {function_name(name)}; add it")
    return function


def inputs_of(function: Callable[..., Any]) -> list[str]:
    """What a method reads: the names of its positional parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
