"""Whose columns these are: verl's, TRL's, or a question with its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from entropyctl.errors import InputError, UsageError
from entropyctl.prompts._problem import Messages, Problem, as_text, plain, problem_id
from entropyctl.prompts._table import KIND, STOP, read_kind

ROLES = ("prompt", "answer", "data_source", "prompt_id")
QUESTIONS = ("question", "problem")
ANSWERS = ("answer", "solution", "ground_truth")
VERL_ANSWER = "reward_model.ground_truth"
# Their entries become entries of `extra`, as verl's graders expect of `extra_info`.
UNPACKED = ("extra", "extra_info")


class Form(NamedTuple):
    """For each role the column that plays it; a dot reaches into a struct."""

    name: str
    columns: dict[str, str]

    @property
    def description(self) -> str:
        """One line for people."""
        found = [f"{role} from '{self.columns[role]}'" for role in ROLES if role in self.columns]
        return f"{self.name}: {', '.join(found)}"

    def problem(self, row: Mapping[str, Any], where: str) -> Problem:
        """The problem that a row states.

        Raises:
            InputError: the row has no usable prompt.
        """
        given = _reach(row, self.columns["prompt"])
        used, completion, stop = set(self.columns.values()), False, Problem._field_defaults["stop"]
        if KIND in row:
            given, completion, stop = read_kind(row, given, where)
            used |= {KIND, STOP}
        prompt = _prompt(given, where)
        answer = self._text(row, "answer")
        data_source = self._text(row, "data_source")
        name = self._text(row, "prompt_id") or problem_id(prompt, answer, data_source)
        return Problem(name, prompt, answer, data_source, _extra(row, used), completion, stop)

    def _text(self, row: Mapping[str, Any], role: str) -> str | None:
        return as_text(_reach(row, self.columns[role])) if role in self.columns else None


def recognise(rows: Sequence[Mapping[str, Any]], source: str, given: Mapping[str, str]) -> Form:
    """The form of a table, by the names of its columns.

    Args:
        rows: all rows.
        source: for messages.
        given: columns that the user named, by role.

    Raises:
        UsageError: two columns could be meant, or a column was named that is not there.
        InputError: no column could be the prompt.
    """
    have = list(dict.fromkeys(name for row in rows for name in row))
    _check_given(rows, have, source, given)
    found: dict[str, str] = {}
    if "prompt" in have:
        is_text = isinstance(_first(rows, "prompt"), str)
        name = "TRL's form" if is_text else "TRL's form with conversations"
        name = "prompts table" if KIND in have else name
        found["prompt"] = "prompt"
    else:
        name = "question and answer"
        candidates = [column for column in QUESTIONS if column in have]
        if "prompt" not in given:
            found["prompt"] = _only(candidates, "prompt", source, have)
    if "ground_truth" in (_first(rows, "reward_model") or ()):
        name = "verl's form"
        found["answer"] = VERL_ANSWER
    elif "answer" not in given and (candidates := [column for column in ANSWERS if column in have]):
        found["answer"] = _only(candidates, "answer", source, have)
    if "data_source" in have:
        found["data_source"] = "data_source"
    if names := [column for column in ("prompt_id", "id") if column in have]:
        found["prompt_id"] = names[0]
    return Form("columns as given" if "prompt" in given else name, {**found, **given})


def _check_given(rows: Sequence[Mapping[str, Any]], have: Sequence[str], source: str, given: Mapping[str, str]) -> None:
    for role, column in given.items():
        if role not in ROLES:
            raise UsageError(f"--column {role}={column}: there is no role '{role}'; known: {', '.join(ROLES)}")
        if column not in have and all(_reach(row, column) is None for row in rows):
            raise UsageError(f"{source}: has no column '{column}'; it has {', '.join(have)}")


def _only(candidates: Sequence[str], role: str, source: str, have: Sequence[str]) -> str:
    if not candidates:
        raise InputError(
            f"{source}: no column is a prompt (prompt, question or problem); it has {', '.join(have)}; "
            "name one with --column prompt=NAME"
        )
    if len(candidates) > 1:
        raise UsageError(
            f"{source}: {' and '.join(candidates)} could both be the {role}; "
            f"choose one, as in --column {role}={candidates[0]}"
        )
    return candidates[0]


def _first(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    return next((row[column] for row in rows if row.get(column) is not None), None)


def _reach(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _prompt(value: Any, where: str) -> str | Messages:
    value = plain(value)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        return [_message(entry, where) for entry in value]
    what = "is empty" if not value else "is neither text nor a list of messages"
    raise InputError(f"{where}: its prompt {what}; mend the row or leave it out")


def _message(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("role", "content")):
        raise InputError(f"{where}: a message of its prompt lacks the text of 'role' or 'content'; mend the row")
    # In Arrow every message has the keys of all; those that are null were not there.
    rest = {key: item for key, item in entry.items() if item is not None}
    return {"role": rest.pop("role"), "content": rest.pop("content"), **rest}


def _extra(row: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    for name, value in row.items():
        if name in used or name in UNPACKED or name.startswith("__index_level_"):
            continue
        inner = {part.partition(".")[2] for part in used if part.startswith(f"{name}.")}
        if inner and isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if key not in inner}
        extra[name] = plain(value)
    for name in UNPACKED:
        value = _json_object(row.get(name))
        extra.update(plain(value) if isinstance(value, Mapping) else {name: plain(value)} if value is not None else {})
    return extra


def _json_object(value: Any) -> Any:
    """A JSON object in a string, as the contract keeps `extra`; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, Mapping) else value
