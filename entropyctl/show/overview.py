"""The description of an input, printed for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entropyctl.show.console import print_table
from entropyctl.show.text import file_size, number, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console

Column = dict[str, Any]


def print_overview(to: Console, facts: dict[str, Any]) -> None:
    """Print what `describe` or `describe_selected` found: facts, columns, statistics."""
    to.print(visible("standard input" if facts["path"] == "-" else facts["path"]), style="bold")
    lines = _facts(facts)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        to.print(f"  {name:<{width}}  {value}", soft_wrap=True)
    to.print()
    columns: list[Column] = facts["columns"]
    cells = [[shorten(c["name"]), visible(c["type"]), c["per"], c.get("unit", ""), c.get("doc", "")] for c in columns]
    print_table(to, ["column", "type", "per", "unit", "what"], cells, left=["column", "type", "per", "unit", "what"])
    measured = [c for c in columns if c.get("count", 0) + c.get("nan", 0) and c.get("unit") != "token id"]
    per_token = [c for c in measured if c["per"] == "token"]
    _print_numbers(to, "per row", [c for c in measured if c["per"] == "row"], ["mean", "min", "max"])
    _print_numbers(to, "per token", per_token, ["mean", "min", "p1", "p50", "p99", "max"])
    if any(c.get("sampled") for c in columns):
        to.print("p1, p50 and p99 are those of a uniform sample of 200000 values")
    _print_words(to, columns)


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("table", _origin(facts))]
    if "where" in facts:
        lines.append(("where", visible(facts["where"])))
    rows = _of(facts, "rows")
    if steps := facts["steps"]:
        rows += f" in {steps['count']} step(s), {steps['first']} to {steps['last']}"
    lines.append(("rows", rows))
    if facts["tokens"] is not None:
        lines.append(("tokens", f"{_of(facts, 'tokens')} in responses"))
    if "format" in facts:
        size = [facts["format"], f"{facts['files']} file(s)", f"{facts['groups']} group(s) of rows"]
        size += [file_size(facts["bytes"])] if facts["bytes"] is not None else []
        lines.append(("stored as", ", ".join(size)))
    context = [(visible(name), shorten(str(value), 80)) for name, value in _flat(facts["context"])]
    return [*lines, *context]


def _of(facts: dict[str, Any], name: str) -> str:
    """`24`, or `3 of 24` where a condition has selected some."""
    return f"{facts[name]} of {facts['of'][name]}" if "of" in facts else str(facts[name])


def _origin(facts: dict[str, Any]) -> str:
    if facts["table"] is None:
        return "none of entropyctl's: another program wrote it"
    made = facts["provenance"][-1:] or [{}]
    stage, version, when = (shorten(str(made[0].get(key, "?"))) for key in ("stage", "version", "started"))
    return f"{facts['table']}, made by entropyctl {stage} {version} at {when}"


def _flat(context: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in context.items():
        flat += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return flat


def _print_numbers(to: Console, what: str, columns: list[Column], names: list[str]) -> None:
    if columns:
        counts = [[shorten(c["name"]), str(c["count"]), str(c["nulls"]), str(c["nan"])] for c in columns]
        cells = [[*count, *(number(c.get(name)) for name in names)] for count, c in zip(counts, columns, strict=True)]
        to.print()
        print_table(to, [what, "values", "null rows", "NaN", *names], cells, left=[what])


def _print_words(to: Console, columns: list[Column]) -> None:
    """Columns of few different words, and what is null without being a number."""
    cells = []
    for column in columns:
        if words := column.get("values"):
            counts = ", ".join(f"{shorten(word, 20)} {count}" for word, count in words.items())
            cells.append([shorten(column["name"]), str(column["nulls"]), counts])
        elif column["nulls"] and not column.get("count"):
            cells.append([shorten(column["name"]), str(column["nulls"]), ""])
    if cells:
        to.print()
        print_table(to, ["text", "null rows", "values"], cells, left=["text", "values"])
