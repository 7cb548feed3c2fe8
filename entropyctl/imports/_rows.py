"""From the responses of a dump to the rows of our tables, a step at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from entropyctl.errors import InputError, UsageError
from entropyctl.imports._dump import Dump
from entropyctl.inputs import REWARD_PREFIX
from entropyctl.table import Step
from entropyctl.table.columns import column_from, list_column, with_column
from entropyctl.table.schema import KEY, known_column, load_schema
from entropyctl.table.types import is_list

# Columns by name; `step` and `prompt_id` must be there, and a column that one response of a step has, all have.
Response = dict[str, Any]
Format = Callable[[Dump], Iterable[Response]]


class _Placed(NamedTuple):
    response: Response
    path: str


def import_rows(read: Format, dumps: Sequence[Dump]) -> Iterator[Step]:
    """The responses of a dump as rows, a step at a time; memory is that of one step.

    Args:
        read: a format, with its flags.
        dumps: its files, in order of their steps.

    Raises:
        InputError: a record is damaged; a step is there twice, as when two runs are imported as one; or a step has
            a column that those before it have not.
    """
    placed = (_Placed(response, dump.path) for dump in dumps for response in read(dump))
    seen: set[int] = set()
    names: list[str] | None = None
    for number, group in groupby(placed, lambda entry: entry.response["step"]):
        step = list(group)
        if number in seen:
            raise InputError(f"{step[0].path}: step {number} has been read before; import the files of one run alone")
        seen.add(number)
        rows = rows_of([entry.response for entry in step])
        names = names or rows.column_names
        if more := [name for name in rows.column_names if name not in names]:
            raise InputError(
                f"{step[0].path}: has '{more[0]}', which the steps before have not; import these files apart"
            )
        for name in names:
            if name not in rows.column_names:
                rows = rows.append_column(name, _column(name, [None] * rows.num_rows))
        yield Step(number, rows.select(names))


def rows_of(responses: Sequence[Response]) -> pa.Table:
    """Responses of one step as rows: those to a prompt together and numbered, in the order of the dump."""
    first: dict[str, int] = {}
    for response in responses:
        first.setdefault(response["prompt_id"], len(first))
    ordered = sorted(responses, key=lambda response: first[response["prompt_id"]])
    met: Counter[str] = Counter()
    samples = []
    for response in ordered:
        samples.append(met[response["prompt_id"]])
        met[response["prompt_id"]] += 1
    columns = {name: _column(name, [r.get(name) for r in ordered]) for name in _names(ordered) if name != "sample"}
    columns["sample"] = _column("sample", samples)
    return pa.table({name: columns[name] for name in (*KEY, *(n for n in columns if n not in KEY))})


def _names(responses: Sequence[Response]) -> list[str]:
    """The columns, in the order of the contract; those that it does not know last."""
    have = dict.fromkeys(name for response in responses for name in response)
    known = [column.name for column in load_schema("masked").columns if column.name in have]
    return [*known, *(name for name in have if name not in known)]


def _column(name: str, values: list[Any]) -> pa.Array:
    column = known_column(name)
    if column is None:
        number = name.startswith(REWARD_PREFIX) or all(not isinstance(value, str) for value in values)
        return column_from(values, pa.float32() if number else pa.string())
    if not is_list(column.arrow_type):
        return column_from(values, column.arrow_type)
    known = np.array([value is not None for value in values], bool)
    lists = [value for value in values if value is not None]
    lengths = np.zeros(len(values), np.int64)
    lengths[known] = [len(value) for value in lists]
    flat = np.concatenate(lists) if lists else np.zeros(0)
    return list_column(flat, lengths, column.arrow_type.value_type, None if known.all() else known)


def with_verdicts(rows: pa.Table, correct_from: float) -> pa.Table:
    """The rows with an outcome: correct where the reward is at least so much, wrong below, null without a reward.

    Raises:
        UsageError: there is no reward.
    """
    if "reward" not in rows.column_names:
        raise UsageError(f"--correct-from {correct_from:g}: the dump has no reward; leave it out")
    rewards = rows["reward"].to_pylist()
    verdicts = [None if reward is None else "correct" if reward >= correct_from else "wrong" for reward in rewards]
    return with_column(rows, "outcome", column_from(verdicts, pa.string()))


def table_of(rows: pa.Table) -> str:
    """The table that columns make: that of the furthest stage of a loop which would have made one of them."""
    for table in ("advantaged", "scored"):
        own = {c.name for c in load_schema(table).columns} - {c.name for c in load_schema(_BELOW[table]).columns}
        if own & set(rows.column_names):
            return table
    return "rollouts"


_BELOW = {"advantaged": "scored", "scored": "rollouts"}
