"""What a table says of itself: which table it is, how its numbers were sampled, and how it was made.

Three metadata keys carry it, in the Arrow schema of a stream and in the footer of a Parquet file:
`entropyctl.schema` (`scored/1`), `entropyctl.context` and `entropyctl.provenance` (JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from entropyctl.errors import InputError, MismatchError, UsageError
from entropyctl.table.digest import table_digest
from entropyctl.table.schema import check_version, load_schema
from entropyctl.table.types import describe

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
    schema_id: str | None = None  # as the file has it, which an older version wrote differently

    def to_metadata(self) -> dict[bytes, bytes]:
        """The header as Arrow metadata."""
        schema_id = self.schema_id or (load_schema(self.table).id if self.table else "")
        return {
            SCHEMA_KEY: schema_id.encode(),
            CONTEXT_KEY: _json(self.context),
            PROVENANCE_KEY: _json(self.chain),
        }


def _json(value: object) -> bytes:
    # ASCII, because a file name in a record of provenance need not be valid UTF-8.
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_header(metadata: dict[bytes, bytes] | None, path: str) -> Header | None:
    """The header out of Arrow metadata; None when another program wrote the data.

    Raises:
        InputError: the metadata is damaged, or of a newer version.
    """
    metadata = metadata or {}
    if SCHEMA_KEY not in metadata:
        if ours := [key for key in metadata if key.startswith(b"entropyctl.")]:
            name = ours[0].decode(errors="replace")
            raise InputError(f"{path}: is damaged (it has {name} but no {SCHEMA_KEY.decode()}); make it again")
        return None
    schema_id = metadata[SCHEMA_KEY].decode(errors="replace")
    table = check_version(schema_id, path)
    context = read_json(metadata.get(CONTEXT_KEY, b"{}"), dict, path)
    return Header(table, context, read_chain(metadata.get(PROVENANCE_KEY, b"[]"), path), schema_id)


def read_json(text: bytes, kind: type, path: str) -> Any:
    """A value of the metadata, which must be of the type `kind`.

    Raises:
        InputError: it is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); make it again") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: its metadata is damaged ({text[:40]!r} is no {kind.__name__}); make it again")
    return value


def read_chain(text: bytes, path: str) -> list[Record]:
    """A chain of provenance, of which every record has an id and a stage.

    Raises:
        InputError: it has not.
    """
    chain: list[Record] = read_json(text, list, path)
    for record in chain:
        if not (
            isinstance(record, dict) and isinstance(record.get("id"), str) and isinstance(record.get("stage"), str)
        ):
            raise InputError(f"{path}: its metadata is damaged (a record without id or stage); make it again")
    return chain


def seal(header: Header, schema: pa.Schema, rows: int) -> str:
    """Digest over all that the digests of the columns do not cover: metadata, names, types, row count."""
    parts = [*header.to_metadata().values(), describe(schema).encode(), str(rows).encode()]
    return xxhash.xxh3_128_hexdigest(b"\0".join(parts))


def step_digest(number: int, columns: dict[str, str], sealed: str) -> str:
    """What proves a step of a stream: its number, every value of the stream so far, and the header."""
    text = f"{number};{table_digest(columns)};{sealed}"
    return xxhash.xxh3_128_hexdigest(text.encode())


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


def _leaves(context: Context, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """`{"sampling": {"top_p": 1}}` as `("sampling", "top_p"), 1`."""
    for key, value in context.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def merge_contexts(
    named: list[tuple[str, Context]],
    allow: tuple[str, ...] = (),
    hint: str = "use files of one run",
    allowed: list[Record] | None = None,
) -> Context:
    """One context out of several inputs'; the first one's word counts where a difference is allowed.

    Args:
        named: (file, context) for each input.
        allow: names of fields, or of groups of fields, that may differ: `sampling.temperature`, `policies`.
        hint: the remedy in the message.
        allowed: receives each difference that was allowed, for the record of provenance.

    Raises:
        MismatchError: two inputs disagree on a field.
    """
    merged: Context = {}
    origin: dict[tuple[str, ...], tuple[Any, str]] = {}
    for path, context in named:
        for keys, value in _leaves(context):
            name = ".".join(keys)
            if keys not in origin:
                origin[keys] = (value, path)
                _put(merged, keys, value)
            elif origin[keys][0] != value and not _covered(name, allow):
                raise MismatchError(
                    f"{path}: {name} is {value}, but {origin[keys][1]} has {origin[keys][0]}; "
                    f"{hint}, or allow it with --allow-mismatch {name}"
                )
            elif origin[keys][0] != value and allowed is not None:
                allowed.append({"field": name, "used": origin[keys][0], "path": path, "value": value})
    return merged


# Fields that a stage holds against the policy it is given; that an input lacks them makes them no wrong names.
HELD_AGAINST_THE_POLICY = ("policies", "tokenizer", "scoring.policies")


def check_allowed(allow: tuple[str, ...], contexts: list[Context]) -> None:
    """Stop where a difference is allowed in a field that cannot differ, because no input has it.

    Raises:
        UsageError: names the fields that there are.
    """
    known = {".".join(keys) for context in contexts for keys, _ in _leaves(context)}
    for name in allow:
        if name not in HELD_AGAINST_THE_POLICY and not any(_covered(field_name, (name,)) for field_name in known):
            fields = ", ".join(sorted(known)) or "none"
            raise UsageError(f"--allow-mismatch {name}: no input has this field; known: {fields}")


def _covered(name: str, fields: tuple[str, ...]) -> bool:
    """Whether a field is one of `fields`, or in one of them: `policies.0` is in `policies`."""
    return any(name == one or name.startswith(f"{one}.") for one in fields)


def _put(context: Context, keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        inner = context.setdefault(key, {})
        if not isinstance(inner, dict):
            return  # one input has a value where another has a group: the first one's word counts
        context = inner
    context.setdefault(keys[-1], value)


def with_facts(context: Context, facts: Context) -> Context:
    """The context with a stage's own facts in it; where both know a field, the stage's word counts."""
    merged = dict(context)
    for key, value in facts.items():
        old = merged.get(key)
        merged[key] = with_facts(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def without(context: Context, fields: Sequence[str]) -> Context:
    """The context but for some fields, or groups of fields: `scoring.policies`."""
    found: Context = {}
    for keys, value in _leaves(context):
        if not _covered(".".join(keys), tuple(fields)):
            _put(found, keys, value)
    return found


def facts_since(before: Context, after: Context) -> Context:
    """What a context says that an earlier state of it did not, so that `with_facts(before, facts)` is `after`."""
    facts: Context = {}
    for key, value in after.items():
        old = before.get(key)
        if key not in before:
            facts[key] = value
        elif old != value:
            facts[key] = facts_since(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return facts


def changed_fact(before: Context, facts: Context) -> str | None:
    """Name of a field that the facts say differently; facts that are learnt later add, they never take back."""
    known = dict(_leaves(before))
    return next((".".join(keys) for keys, value in _leaves(facts) if known.get(keys, value) != value), None)
