"""`entropyctl schema` prints the contract, and the contract is in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from entropyctl import errors, registry
from entropyctl.table.digest import TableDigest, table_digest
from entropyctl.table.rows import read_rows
from entropyctl.table.schema import load_schema, table_names

from .conftest import ROOT, Cli

STAGES = {"rollout", "score", "advantage", "mask", "update", "eval", "fit-law", "select", "objective", "forecast"}


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


README = (ROOT / "schemas" / "README.md").read_text()


def table_after(title: str) -> list[list[str]]:
    """The rows of the first Markdown table below a line that begins with `title`."""
    lines = README[README.index(f"\n{title}") :].splitlines()[1:]
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" `") for cell in line.strip("|").split(" | ")])
    return rows[2:]


def test_the_specification_can_be_printed_anywhere(cli: Cli) -> None:
    assert cli("schema", "--format").text == README


def test_the_specification_names_every_table_and_what_it_extends() -> None:
    said = {row[0]: row[2].rstrip("| `") or None for row in table_after("## Tables")}
    assert said == {name: load_schema(name).extends for name in table_names()}


def test_the_specification_names_every_metadata_key() -> None:
    from entropyctl.table import header

    keys = {value.decode() for name, value in vars(header).items() if name.endswith("_KEY")}
    assert {row[0] for row in table_after("## Metadata")} == keys


def test_the_specification_has_the_exit_codes_of_the_errors() -> None:
    said = {int(code): meaning for code, meaning in table_after("## Manners of a stage") if code.isdecimal()}
    known = {e.exit_code: e.__name__ for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    assert set(known) <= set(said), known
    assert said[4] == "the stream ended early"


def test_the_specification_shows_digests_that_the_code_computes() -> None:
    rows = pa.table(
        {
            "a": pa.array([1, None, 3], pa.int32()),
            "b": pa.array(["a", None, "bc"]),
            "c": pa.array([[0.5], None, []], pa.list_(pa.float32())),
        }
    )
    digest = TableDigest()
    digest.update(rows)
    columns = digest.columns()
    assert [row[1] for row in table_after("## Digests")] == [*columns.values(), table_digest(columns)]


def test_digests_follow_from_the_specification_alone() -> None:
    def combined(**parts: bytes) -> str:
        paths = {"own": "", "nulls": "?", "lengths": "#", "entries": "[]"}
        hashes = sorted((paths[name], xxhash.xxh3_128_hexdigest(data)) for name, data in parts.items())
        return xxhash.xxh3_128_hexdigest("".join(f"{path}={h};" for path, h in hashes).encode())

    second = np.array([1], "<i8").tobytes()
    said = [row[1] for row in table_after("## Digests")]
    assert said[0] == combined(own=np.array([1, 0, 3], "<i4").tobytes(), nulls=second)
    assert said[1] == combined(own=b"abc", lengths=np.array([1, 0, 2], "<i8").tobytes(), nulls=second)
    half, lengths = np.array([0.5], "<f4").tobytes(), np.array([1, 0, 0], "<i8").tobytes()
    assert said[2] == combined(entries=half, lengths=lengths, nulls=second)
    table = ";".join(f"{name}={digest}" for name, digest in zip("abc", said, strict=False))
    assert said[3] == xxhash.xxh3_128_hexdigest(table.encode())


def test_the_producer_of_the_specification_needs_nothing_of_ours_and_feeds_a_stage(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "producer.py").write_text(README.rpartition("```python\n")[2].partition("```")[0])
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # -I leaves the checkout out of the path; an installed entropyctl would be found, so its import is forbidden.
    forbid = "import sys, runpy; sys.modules['entropyctl'] = None; runpy.run_path('producer.py', run_name='__main__')"
    made = subprocess.run([sys.executable, "-I", "-c", forbid], cwd=tmp_path, env=env, capture_output=True)
    assert made.returncode == 0, made.stderr
    assert cli("check", "--full", stdin=made.stdout).code == 0
    ran = cli("mask", "none", "-o", "masked.parquet", stdin=made.stdout)
    assert ran.code == 0, ran
    _, rows, header = read_rows(str(tmp_path / "masked.parquet"))
    assert rows["prompt_id"].to_pylist() == ["p0", "p0", "p1", "p1"]
    assert rows["weights"].to_pylist() == [[1, 1, 1], [1], [1, 1], []]
    assert header.context == {"sampling": {"temperature": 1.0}}
    assert [record["stage"] for record in header.chain] == ["mask none"]
    last = made.stdout.rindex(b"entropyctl.end_of_stream")
    cut = cli("mask", "none", "-o", "cut.parquet", stdin=made.stdout[: last - 200])
    assert cut.code == 4 and not (tmp_path / "cut.parquet").exists(), cut
