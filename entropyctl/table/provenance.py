"""How a file was made: a chain of records, one for each program that worked on it, oldest first.

The chain is handed to the writer explicitly, never taken from "whatever the table carries": joining,
grouping and a trip through another library all drop Arrow metadata.
"""

from __future__ import annotations

import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from entropyctl.table.header import Header, Record
from entropyctl.version import __version__

# When the stage began, on the clock that only goes forward; it means nothing to another process and is not written.
_BEGAN = "_began"


def new_record(stage: str, params: dict[str, Any], **facts: Any) -> Record:
    """A record for a run of a stage that begins now; the writer adds inputs, rows and duration at the end.

    Args:
        stage: name of the stage, with the method where there is one: `mask clip-v`.
        params: every parameter with the value that was used, defaults included.
        facts: what else is worth knowing: `policy` (digest), `seed`, ...
    """
    return {
        "id": _new_id(),
        "stage": stage,
        "version": __version__,
        "command": ["entropyctl", *sys.argv[1:]],
        "params": params,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        _BEGAN: time.monotonic(),
        **facts,
    }


def again(record: Record, **facts: Any) -> Record:
    """The record of one more file of the same run: an id names one file, and what was made from which file."""
    return {**record, "id": _new_id(), **facts}


def written(record: Record) -> Record:
    """A record as files have it."""
    return {name: value for name, value in record.items() if name != _BEGAN}


def _new_id() -> str:
    return uuid.uuid4().hex[:16]


def unknown_record(path: str) -> Record:
    """The beginning of a chain whose file another program wrote."""
    return {"id": _new_id(), "stage": "unknown", "command": [], "inputs": [{"path": path}]}


def merge_chains(chains: list[list[Record]]) -> list[Record]:
    """One chain out of several inputs': every record once, those of the first input first."""
    merged: dict[str, Record] = {}
    for chain in chains:
        for record in chain:
            # A stream's chain is completed at its end; the later, fuller copy of a record wins.
            merged[record["id"]] = {**merged.get(record["id"], {}), **record}
    return list(merged.values())


def finished(record: Record, inputs: list[dict[str, Any]], rows: int, summary: dict[str, Any]) -> Record:
    """The record of a run that has succeeded; `seconds` is the time since the stage began, its loading included."""
    rows_in = [entry["rows"] for entry in inputs if entry.get("rows") is not None]
    done = {**record, "inputs": inputs, "rows": rows, "seconds": round(time.monotonic() - record[_BEGAN], 3)}
    if rows_in:
        done["rows_in"] = rows_in[0]
    if summary:
        done["summary"] = summary
    return done


def narrowed(header: Header) -> bool:
    """Whether a stage in this chain leaves rows out on purpose (`advantage --keep-groups`).

    Such a stage says so when it begins (`narrows`): a stream must be understood before its end.
    """
    return any(record.get("narrows") or record.get("rows_in", 0) > record.get("rows", 0) for record in header.chain)


def related(a: Header, b: Header) -> bool:
    """Whether two tables were made from the same rollouts; True where one of them does not know its origin."""
    ids_a = {record["id"] for record in a.chain if record["stage"] != "unknown"}
    ids_b = {record["id"] for record in b.chain if record["stage"] != "unknown"}
    return not ids_a or not ids_b or not ids_a.isdisjoint(ids_b)


def pipelines(chain: list[Record]) -> list[list[Record]]:
    """The chain as command lines: records that were joined by pipes stand in one list, in their order."""
    lines: list[list[Record]] = []
    for record in chain:
        producer = _producer(record)
        line = next((line for line in lines if producer == line[-1]["id"] and line[-1]["stage"] != "unknown"), None)
        if line is None:
            lines.append([record])
        else:
            line.append(record)
    return lines


def _producer(record: Record) -> str | None:
    """The record whose output this one read from standard input."""
    for entry in record.get("inputs") or []:
        if isinstance(entry, dict) and entry.get("path") == "-" and entry.get("records"):
            return str(entry["records"][-1])
    return None
