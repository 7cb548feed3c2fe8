"""`entropyctl check` is silent about good files and has one line for each bad one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.table.check import check

from .conftest import Cli, Ran, scored_rows, write_scored


def silent(ran: Ran) -> bool:
    return (ran.code, ran.out, ran.err) == (0, b"", "")


def replaced(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def foreign(path: Path, rows: pa.Table, **options: object) -> Path:
    """What another program writes: no metadata, no promises."""
    pq.write_table(rows, path, **options)
    return path


def with_metadata(path: Path) -> tuple[pa.Table, dict[bytes, bytes]]:
    """A file's rows, and its metadata as another program would carry it over."""
    file = pq.ParquetFile(path)
    metadata = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"entropyctl.")}
    return file.read(), metadata


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_good_files_of_every_kind_pass_in_silence(cli: Cli, scored: Path, tmp_path: Path, full: list[str]) -> None:
    stream = cli("mask", "none", scored, "-q").out
    (tmp_path / "m.arrows").write_bytes(stream)
    foreign(tmp_path / "foreign.parquet", scored_rows())
    with pa.ipc.new_file(tmp_path / "a.arrow", scored_rows().schema) as out:
        out.write_table(scored_rows())
    assert cli("eval", scored, "-q", "-o", "evals.parquet").code == 0
    assert silent(cli("check", *full, scored, "m.arrows", "foreign.parquet", "a.arrow", "evals.parquet"))
    assert silent(cli("check", *full, "-", stdin=stream))
    assert silent(cli("check", *full, stdin=stream))
    (tmp_path / "shards").mkdir()
    for step in (1, 2):
        write_scored(tmp_path / "shards" / f"{step}.parquet", scored_rows(step))
    assert silent(cli("check", *full, "shards", "shards/*.parquet"))


def test_each_bad_file_has_a_line_and_good_ones_none(cli: Cli, scored: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(scored.read_bytes()[:-100])
    (tmp_path / "text.parquet").write_text("step,prompt\n")
    ran = cli("check", "cut.parquet", scored, "text.parquet", "missing.parquet")
    assert ran.code == 3, ran
    assert [line.split(": ")[1] for line in ran.err.splitlines()] == ["cut.parquet", "text.parquet", "missing.parquet"]


def test_a_stream_without_its_end_is_status_4(cli: Cli, scored: Path, tmp_path: Path) -> None:
    stream = cli("mask", "none", scored, "-q").out
    for length in (0, 100, len(stream) // 2, len(stream) - 100):
        ran = cli("check", stdin=stream[:length])
        assert ran.code == 4 and "standard input" in ran.line, ran
    (tmp_path / "cut.arrows").write_bytes(stream[: len(stream) // 2])
    ran = cli("check", "cut.arrows")
    assert ran.code == 4 and "without its end record" in ran.line, ran
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    assert cli("check", "cut.arrows", "bad.parquet").code == 3


def test_a_writer_that_did_not_finish_is_found_without_reading_the_pages(scored: Path, tmp_path: Path) -> None:
    rows, metadata = with_metadata(scored)
    del metadata[b"entropyctl.end_of_stream"]
    foreign(tmp_path / "unfinished.parquet", rows.replace_schema_metadata(metadata))
    [fault] = check(str(tmp_path / "unfinished.parquet"))
    assert fault.exit_code == 3 and "has no end record" in str(fault)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_a_page_is_found_by_the_full_check(cli: Cli, scored: Path) -> None:
    flip(scored, 400)
    assert silent(cli("check", scored))
    ran = cli("check", "--full", scored)
    assert ran.code == 3 and "scored.parquet: is damaged" in ran.line, ran


def test_a_flipped_bit_in_the_footer_is_found_by_the_quick_check(cli: Cli, scored: Path) -> None:
    flip(scored, scored.stat().st_size - 1000)
    ran = cli("check", scored)
    assert ran.code == 3 and "scored.parquet: is damaged" in ran.line, ran


def test_rows_that_another_program_changed_are_found(scored: Path) -> None:
    rows, metadata = with_metadata(scored)
    changed = replaced(rows, "reward", pa.array([0.5] * rows.num_rows, pa.float32()))
    foreign(scored, changed.replace_schema_metadata(metadata))
    assert check(str(scored)) == []
    [fault] = check(str(scored), full=True)
    assert "column 'reward' does not match its digest" in str(fault)


def test_a_flipped_bit_in_a_stream_is_found(cli: Cli, scored: Path) -> None:
    stream = bytearray(cli("mask", "none", scored, "-q").out)
    at = stream.find(b"answer 5")
    stream[at] ^= 1
    ran = cli("check", stdin=bytes(stream))
    assert ran.code == 3 and "do not match their digest" in ran.line, ran


def bad_rows() -> dict[str, tuple[pa.Table, str]]:
    rows = scored_rows(groups=2, samples=2)
    entropies = rows["entropies"].to_pylist()
    short = [entropies[0][:-1], *entropies[1:]]
    odd = [[float("nan"), *entropies[0][1:]], *entropies[1:]]
    hole = [[None, *entropies[0][1:]], *entropies[1:]]
    floats = pa.list_(pa.float32())
    return {
        "lengths": (replaced(rows, "entropies", pa.array(short, floats)), "prompt p0, sample 0: 'entropies' has"),
        "nan": (replaced(rows, "entropies", pa.array(odd, floats)), "prompt p0, sample 0: 'entropies' holds nan"),
        "hole": (replaced(rows, "entropies", pa.array(hole, floats)), "'entropies' has a null entry"),
        "twice": (pa.concat_tables([rows, rows.slice(3)]), "row step 1, prompt p1, sample 1 is there twice"),
        "prompts": (rows.take([0, 2, 1, 3]), "rows of prompt p0 of step 1 stand apart"),
        "steps": (
            pa.concat_tables([scored_rows(1), scored_rows(2), scored_rows(1, seed=1)]),
            "rows of step 1 stand apart",
        ),
        "key": (replaced(rows, "prompt_id", pa.array(["a", "a", None, "b"])), "sample 0: 'prompt_id' is null"),
    }


@pytest.mark.parametrize("case", list(bad_rows()))
def test_what_only_a_full_check_sees(tmp_path: Path, case: str) -> None:
    rows, words = bad_rows()[case]
    path = foreign(tmp_path / "bad.parquet", rows, row_group_size=3)
    assert check(str(path)) == []
    [fault] = check(str(path), full=True)
    assert fault.exit_code == 3 and words in str(fault), fault


def test_a_row_twice_is_found_across_row_groups_and_across_files(tmp_path: Path) -> None:
    rows = scored_rows(groups=1, samples=4)
    path = foreign(tmp_path / "bad.parquet", pa.concat_tables([rows, rows.slice(1, 1)]), row_group_size=2)
    assert "prompt p0, sample 1 is there twice" in str(check(str(path), full=True)[0])
    (tmp_path / "shards").mkdir()
    for name in ("a", "b"):
        foreign(tmp_path / "shards" / f"{name}.parquet", rows)
    assert check(str(tmp_path / "shards")) == []
    [fault] = check(str(tmp_path / "shards"), full=True)
    assert "shards: row step 1, prompt p0, sample 0 is there twice" in str(fault)


def test_types_and_columns_are_part_of_the_quick_check(tmp_path: Path) -> None:
    rows = scored_rows()
    path = foreign(tmp_path / "bad.parquet", replaced(rows, "entropies", pa.array(["x"] * rows.num_rows)))
    [fault] = check(str(path))
    assert "column 'entropies' is string; it must be list<float32>" in str(fault)
    (tmp_path / "shards").mkdir()
    foreign(tmp_path / "shards" / "a.parquet", rows)
    foreign(tmp_path / "shards" / "b.parquet", rows.drop_columns(["reward"]))
    [fault] = check(str(tmp_path / "shards"))
    assert "b.parquet: its columns differ from those of" in str(fault) and "reward" in str(fault)


def test_a_table_without_its_key_is_not_a_table(tmp_path: Path) -> None:
    path = write_scored(tmp_path / "s.parquet", scored_rows().drop_columns(["sample"]))
    [fault] = check(str(path))
    assert "key column 'sample' is missing; every row of scored needs its key" in str(fault)


def test_a_newer_version_is_refused_with_the_remedy(scored: Path) -> None:
    rows, metadata = with_metadata(scored)
    foreign(scored, rows.replace_schema_metadata(metadata | {b"entropyctl.schema": b"scored/9"}))
    [fault] = check(str(scored))
    assert fault.exit_code == 3 and "upgrade entropyctl" in str(fault)


def test_the_tables_of_a_step_side_by_side_are_good(cli: Cli, tmp_path: Path) -> None:
    step = tmp_path / "step-000001"
    step.mkdir()
    write_scored(step / "scored.parquet")
    assert (
        cli("advantage", "grpo", "--only-new", "-q", step / "scored.parquet", "-o", step / "advantages.parquet").code
        == 0
    )
    ran = cli("check", "--full", step)
    assert (ran.code, ran.err) == (0, ""), ran
    cli("advantage", "grpo", "-q", step / "scored.parquet", "-o", step / "more.parquet")
    ran = cli("check", step)  # two tables of one kind with other columns are no table
    assert ran.code == 3 and "columns differ" in ran.err, ran
