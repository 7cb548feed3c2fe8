"""Defaults of a command's options: from the file that --config or ENTROPYCTL_CONFIG names, a table for each stage."""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from typing import Any

from entropyctl.errors import EntropyctlError, InputError, UsageError
from entropyctl.registry import names


def value_of(stage: str, option: str, argv: list[str]) -> str | None:
    """The value of an option on which a command's other flags depend, before there is a command to parse it."""
    value = _word_after(f"--{option}", argv) or os.environ.get(f"ENTROPYCTL_{stage}_{option}".upper())
    if value is None:
        with suppress(EntropyctlError):  # said again, as the one message, when the command runs
            table = _configuration(argv)[1].get(stage)
            value = table.get(option) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None


def _word_after(flag: str, argv: list[str]) -> str | None:
    found = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            found = argv[i + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def _configuration(argv: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The configuration file's path and its tables."""
    path = _word_after("--config", argv) or os.environ.get("ENTROPYCTL_CONFIG")
    if path is None:
        return None, {}
    try:
        with open(path, "rb") as file:
            return path, tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not TOML ({error}); mend it") from None


def defaults_of(stage: str, argv: list[str], known: set[str]) -> dict[str, Any]:
    """The stage's table of the configuration file, as typer wants it.

    `mask clip-v` reads [mask.clip-v], and what it knows of [mask], which all masks share.
    """
    path, tables = _configuration(argv)
    if path is None:
        return {}
    stages = names("stages")
    if odd := next((n for n, value in tables.items() if isinstance(value, dict) and n not in stages), None):
        raise UsageError(f"{path}: [{odd}] is no stage; known: {', '.join(stages)}")
    *parents, own = stage.split()
    table, shared = tables, dict[str, Any]()
    for name in parents:
        table = _table(table, name, path)
        shared |= {k: v for k, v in _options(table).items() if k in known}
    options = _options(_table(table, own, path))
    if unknown := sorted(options.keys() - known):
        options_known = ", ".join(sorted(known - {"config", "debug"}))
        raise UsageError(f"{path}: [{'.'.join(stage.split())}] has no option '{unknown[0]}'; known: {options_known}")
    return shared | options


def _table(table: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: '{name}' must be a table; write [{name}]")
    return found


def _options(table: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in table.items() if not isinstance(value, dict)}
