"""`entropyctl schema` prints the contract, and the contract is in order."""

from __future__ import annotations

import json

import pytest

from entropyctl import registry
from entropyctl.table.schema import load_schema, table_names

from .conftest import Cli

STAGES = {"rollout", "score", "advantage", "mask", "update", "eval", "fit-law"}


def test_without_a_name_every_table_has_a_line(cli: Cli) -> None:
    ran = cli("schema")
    assert ran.code == 0, ran
    assert [line.split()[0] for line in ran.text.splitlines()] == [
        "advantaged/1",
        "evals/1",
        "laws/1",
        "masked/1",
        "metrics/1",
        "prompts/1",
        "rollouts/1",
        "scored/1",
    ]


def test_a_table_shows_its_columns_and_those_it_extends(cli: Cli) -> None:
    text = cli("schema", "masked").text
    assert text.startswith("masked/1, extends advantaged: ")
    for name in ("step", "prompt_id", "sample", "tokens", "s_star", "advantages", "weights"):
        assert f"\n{name}  " in text, name
    assert "s_star  list<float32>, per token, nat\n" in text
    assert "made by score --policy, needed by mask, update; since version 1" in text


def test_json_holds_all_that_the_toml_files_say(cli: Cli) -> None:
    tables = json.loads(cli("schema", "--json").out)
    assert set(tables) == set(table_names())
    weights = next(column for column in tables["masked"]["columns"] if column["name"] == "weights")
    assert (weights["type"], weights["per"], weights["made_by"], weights["since"]) == (
        "list<float32>",
        "token",
        "mask",
        1,
    )
    assert list(json.loads(cli("schema", "laws", "--json").out)) == ["laws"]


def test_an_unknown_table_is_a_usage_error_that_lists_the_known_ones(cli: Cli) -> None:
    ran = cli("schema", "scord")
    assert ran.code == 2, ran
    assert "no table 'scord'; known: advantaged, evals" in ran.line


@pytest.mark.parametrize("table", table_names())
def test_every_column_says_what_it_is_in_words_and_in_arrow(table: str) -> None:
    schema = load_schema(table)
    assert schema.doc.endswith(".")
    for column in schema.columns:
        assert column.doc.endswith(".") and column.per in ("row", "token"), column
        assert column.arrow_type is not None
        assert 1 <= column.since <= schema.version, column
        assert column.per == "row" or column.type.startswith("list<"), column
        assert {column.made_by.split()[0], *column.needed_by} <= STAGES | {"user"}, column


def test_the_stages_that_columns_name_exist() -> None:
    made = {column.made_by.split()[0] for table in table_names() for column in load_schema(table).columns}
    assert made - {"user"} <= set(registry.names("stages"))
