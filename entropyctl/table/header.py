"""What a table says of itself: which table it is, how its numbers were sampled, and how it was made.

Three metadata keys carry it, in the Arrow schema of a stream and in the footer of a Parquet file:
`entropyctl.schema` (`scored/1`), `entropyctl.context` and `entropyctl.provenance` (JSON).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from entropyctl.errors import InputError, MismatchError
from entropyctl.table.schema import check_version, load_schema
from entropyctl.table.types import type_name

SCHEMA_KEY = b"entropyctl.schema"
CONTEXT_KEY = b"entropyctl.context"
PROVENANCE_KEY = b"entropyctl.provenance"
END_KEY = b"entropyctl.end_of_stream"
STEP_KEY = b"entropyctl.end_of_step"

Context = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Header:
    """Table name, sampling context and chain of provenance (oldest record first) of one input or output."""

    table: str | None = None
    context: Context = field(default_factory=dict)
    chain: list[Record] = field(default_factory=list)

    def to_metadata(self) -> dict[bytes, bytes]:
        """The header as Arrow metadata."""
        schema_id = load_schema(self.table).id if self.table else ""
        return {
            SCHEMA_KEY: schema_id.encode(),
            CONTEXT_KEY: _json(self.context),
            PROVENANCE_KEY: _json(self.chain),
        }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_header(metadata: dict[bytes, bytes] | None, path: str) -> Header | None:
    """The header out of Arrow metadata; None when another program wrote the data.

    Raises:
        InputError: the metadata is damaged, or of a newer version.
    """
    if not metadata or SCHEMA_KEY not in metadata:
        return None
    table = check_version(metadata[SCHEMA_KEY].decode(errors="replace"), path)
    try:
        context = json.loads(metadata.get(CONTEXT_KEY, b"{}"))
        chain = json.loads(metadata.get(PROVENANCE_KEY, b"[]"))
    except ValueError as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); make the file again") from None
    return Header(table, context, chain)


def seal(header: Header, schema: pa.Schema, rows: int) -> str:
    """Digest over all that the digests of the columns do not cover: metadata, names, types, row count."""
    fields = ";".join(f"{f.name}:{type_name(f.type)}" for f in schema)
    parts = [*header.to_metadata().values(), fields.encode(), str(rows).encode()]
    return xxhash.xxh3_128_hexdigest(b"\0".join(parts))


def end_record(header: Header, schema: pa.Schema, rows: int, digest: str, columns: dict[str, str]) -> bytes:
    """The end record: written last, on success alone."""
    return _json(
        {
            "rows": rows,
            "status": "complete",
            "digest": digest,
            "columns": columns,
            "seal": seal(header, schema, rows),
        }
    )


def flat_context(context: Context, prefix: str = "") -> dict[str, Any]:
    """`{"sampling": {"top_p": 1}}` as `{"sampling.top_p": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in context.items():
        if isinstance(value, dict):
            flat |= flat_context(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge_contexts(
    named: list[tuple[str, Context]], allow: tuple[str, ...] = (), hint: str = "use files of one run"
) -> Context:
    """One context out of several inputs'; the first one's word counts where a difference is allowed.

    Args:
        named: (file, context) for each input.
        allow: names of fields that may differ, for example `sampling.temperature`.
        hint: the remedy in the message.

    Raises:
        MismatchError: two inputs disagree on a field.
    """
    merged: Context = {}
    origin: dict[str, str] = {}
    for path, context in named:
        for name, value in flat_context(context).items():
            target = merged
            *parents, leaf = name.split(".")
            for parent in parents:
                target = target.setdefault(parent, {})
            if leaf not in target:
                target[leaf], origin[name] = value, path
            elif target[leaf] != value and name not in allow:
                raise MismatchError(
                    f"{path}: {name} is {value}, but {origin[name]} has {target[leaf]}; "
                    f"{hint}, or allow it with --allow-mismatch {name}"
                )
    return merged
