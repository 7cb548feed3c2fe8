"""Print the tables of the contract: columns, types, who makes and who needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropyctl import commands

if TYPE_CHECKING:
    from entropyctl.table.schema import TableSchema

Name = Annotated[str | None, typer.Argument(metavar="[TABLE]", help="One table; all of them when not given.")]
SchemaJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Format = Annotated[bool, typer.Option("--format", help="Print the specification of the format, in Markdown.")]


def run(argv: list[str]) -> int:
    """The `entropyctl schema` command."""
    return commands.run("schema", schema, argv)


def schema(table: Name = None, json: SchemaJson = False, format: Format = False) -> None:
    """Print the tables that the stages exchange.

    Without a name: every table in one line. With a name: its columns, those of the table that it extends
    included. Columns that no table names pass through every stage unharmed.
    """
    from importlib.resources import files
    from json import dumps

    from entropyctl.table.schema import load_schema, table_names

    if format:
        print(files("entropyctl.schemas").joinpath("README.md").read_text(encoding="utf-8"), end="")
    elif json:
        names = [table] if table else table_names()
        print(dumps({name: as_dict(load_schema(name)) for name in names}, indent=2, ensure_ascii=False))
    elif table:
        print("\n".join(_describe(load_schema(table))))
    else:
        schemas = [load_schema(name) for name in table_names()]
        print("\n".join(f"{s.id:<14} {len(s.columns):>3} columns  {s.doc}" for s in schemas))


def as_dict(schema: TableSchema) -> dict[str, Any]:
    """A table's schema as plain values."""
    from dataclasses import asdict

    return asdict(schema)


def _describe(schema: TableSchema) -> list[str]:
    from textwrap import wrap

    extends = f", extends {schema.extends}" if schema.extends else ""
    lines = [f"{schema.id}{extends}: {schema.doc}"]
    for column in schema.columns:
        facts = [column.type, f"per {column.per}"]
        facts += [word for word, holds in (("key", column.key), ("nullable", column.nullable)) if holds]
        facts += [column.unit] if column.unit else []
        needed = f", needed by {', '.join(column.needed_by)}" if column.needed_by else ""
        lines += ["", f"{column.name}  {', '.join(facts)}"]
        lines += wrap(column.doc, 100, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"    made by {column.made_by}{needed}; since version {column.since}")
    return lines
