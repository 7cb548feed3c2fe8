"""The chain of provenance, as commands to paste."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from entropyctl.show.text import shorten, visible
from entropyctl.table.provenance import pipelines

if TYPE_CHECKING:
    from rich.console import Console

Record = dict[str, Any]


def print_history(to: Console, path: str, chain: list[Record]) -> None:
    """Print how a table was made, oldest first: for each pipeline a comment per record, then the command line.

    A record names what was run in a list of words. Only `entropyctl` is printed as a command; whatever else a
    file claims to have been run stands in a comment.
    """
    to.print(f"# {visible('standard input' if path == '-' else path)}", soft_wrap=True)
    for records in pipelines(chain):
        for record in records:
            to.print(f"# {_comment(record)}", soft_wrap=True)
        if records[0]["stage"] != "unknown":
            to.print(visible(_command(records)), soft_wrap=True)


def _comment(record: Record) -> str:
    if record["stage"] == "unknown":
        inputs = [str(entry.get("path")) for entry in record.get("inputs", []) if isinstance(entry, dict)]
        return shorten(f"{', '.join(inputs) or 'unknown'}: written by another program", 200)
    facts = [f"{record['stage']} {record.get('version', '?')}", str(record.get("started", "at an unknown time"))]
    facts += [f"{record[key]} {unit}" for key, unit in (("rows", "rows"), ("seconds", "s")) if key in record]
    return shorten(", ".join(facts), 200)


def _command(records: list[Record]) -> str:
    commands = [[str(word) for word in record.get("command") or ["?"]] for record in records]
    line = " | ".join(shlex.join(words) for words in commands)
    return line if all(words[0] == "entropyctl" for words in commands) else f"# {line}"
