"""The tables of schemas/, read: which columns there are, their types, who makes and who needs them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.table.types import parse_type

KEY = ("step", "prompt_id", "sample")


@dataclass(frozen=True)
class Column:
    """One column of a table, as its TOML entry describes it."""

    name: str
    type: str
    per: str  # "row" or "token"
    made_by: str
    needed_by: tuple[str, ...]
    since: int
    doc: str
    unit: str = ""
    nullable: bool = False
    key: bool = False

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type that the column is written with."""
        return parse_type(self.type)


@dataclass(frozen=True)
class TableSchema:
    """One table: its columns, those of the table that it extends first."""

    table: str
    version: int
    doc: str
    columns: tuple[Column, ...]
    extends: str | None = None

    @property
    def id(self) -> str:
        """What a file of this table says of itself in `entropyctl.schema`."""
        return f"{self.table}/{self.version}"

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


def _folder() -> Path:
    """Where the schemas lie, in a checkout or installed; importlib.resources would cost every start 4 ms."""
    return Path(import_module("entropyctl.schemas").__path__[0])


def table_names() -> list[str]:
    """Every table that has a schema."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


@cache
def load_schema(table: str) -> TableSchema:
    """The schema of a table.

    Raises:
        UsageError: there is no such table.
    """
    if table not in table_names():
        raise UsageError(f"there is no table '{table}'; known: {', '.join(table_names())}")
    data = tomllib.loads((_folder() / f"{table}.toml").read_text(encoding="utf-8"))
    own = {entry["name"]: _column(entry) for entry in data["column"]}
    base = load_schema(data["extends"]).columns if "extends" in data else ()
    inherited = [own.pop(column.name, column) for column in base]
    # The key stands first in every table, then the columns in the order in which the stages add them.
    columns = sorted([*inherited, *own.values()], key=lambda c: KEY.index(c.name) if c.name in KEY else len(KEY))
    return TableSchema(data["table"], data["version"], data["doc"], tuple(columns), data.get("extends"))


def _column(entry: dict[str, Any]) -> Column:
    return replace(Column(**entry), needed_by=tuple(entry["needed_by"]))


@cache
def known_column(name: str) -> Column | None:
    """The column of that name in the tables of responses (rollouts to masked), or None when no stage makes it."""
    return load_schema("masked").column(name)


@cache
def column_of(table: str | None, name: str) -> Column | None:
    """What the contract says of a column; metrics, evals and laws have their own, all other tables share theirs."""
    shared: str | None = "masked"
    while shared is not None and shared != table:
        shared = load_schema(shared).extends
    return known_column(name) if table is None or shared == table else load_schema(table).column(name)


def check_version(schema_id: str, path: str) -> str:
    """The table's name out of `name/version`.

    Raises:
        InputError: the file was written by a newer entropyctl, or names an unknown table.
    """
    table, _, version = schema_id.partition("/")
    if table not in table_names() or not version.isdigit():
        raise InputError(f"{path}: holds a table '{schema_id}' that this entropyctl does not know; upgrade entropyctl")
    if int(version) > load_schema(table).version:
        known = load_schema(table).id
        raise InputError(f"{path}: was written as {schema_id}, this entropyctl reads up to {known}; upgrade entropyctl")
    return table
