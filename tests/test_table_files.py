"""Tables at rest and in pipes: what goes in comes out, whatever the form, the order or the cut."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.errors import InputError, MismatchError, OutputError, StreamEndedEarly, UsageError
from entropyctl.table import again, new_record, parquet_sink, read, write
from entropyctl.table.atomic import AtomicFile
from entropyctl.table.columns import flat_values, list_column, row_lengths
from entropyctl.table.digest import ColumnDigest, TableDigest

from .conftest import CONTEXT, Cli, scored_rows, write_scored


def steps_of(*paths: Path | str, **options: Any) -> dict[int, pa.Table]:
    """Every step of a table, by number."""
    with read([str(path) for path in paths], **options) as source:
        return {step.number: step.rows for step in source}


def rows_of(*paths: Path | str, **options: Any) -> pa.Table:
    """The whole table."""
    return pa.concat_tables(list(steps_of(*paths, **options).values()))


def as_stream(*paths: Path | str, context: dict | None = None) -> bytes:
    """The table as a stage would pipe it on."""
    buffer = io.BytesIO()
    with (
        read([str(path) for path in paths]) as source,
        write("-", "scored", new_record("mask none", {}), source, stdout=buffer) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
    return buffer.getvalue()


UNKNOWN = {
    "u_nested": (
        pa.list_(pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))])),
        [[{"x": 1, "y": ["a", None]}, None], None, []],
    ),
    "u_struct": (pa.struct([("a", pa.timestamp("s")), ("b", pa.float32())]), [None, {"a": None, "b": 0.5}, None]),
    "u_dictionary": (pa.dictionary(pa.int32(), pa.string()), ["x", None, "x"]),
    "u_numbers": (pa.dictionary(pa.int8(), pa.int64()), [7, 7, None]),
    "u_decimal": (pa.decimal128(20, 3), [decimal.Decimal("1.250"), None, decimal.Decimal("-3.000")]),
    "u_seconds": (pa.timestamp("s"), [datetime.datetime(2026, 1, 2, 3, 4, 5), None, None]),
    "u_zoned": (pa.timestamp("us", "Europe/Berlin"), [1_700_000_000_000_000, None, 0]),
    "u_map": (pa.map_(pa.string(), pa.int32()), [[("k", 1)], None, []]),
    "u_large": (pa.large_string(), ["ü", None, ""]),
    "u_bytes": (pa.binary(), [b"\x00\xff", None, b""]),
    "u_three": (pa.binary(3), [b"abc", None, b"def"]),
    "u_null": (pa.null(), [None, None, None]),
    "u_date": (pa.date32(), [datetime.date(2026, 2, 28), None, None]),
    "u_time": (pa.time32("s"), [datetime.time(1, 2, 3), None, None]),
    "u_span": (pa.duration("s"), [datetime.timedelta(days=2), None, None]),
    "u_half": (pa.float16(), [np.float16(0.5), None, np.float16(-2)]),
    "u_bool": (pa.bool_(), [True, None, False]),
    "u_wide": (pa.uint64(), [2**64 - 1, None, 0]),
    "u.dotted name": (pa.float64(), [1.5, None, 2.5]),
}
if hasattr(pa, "uuid"):  # pyarrow 18 has these, and writes nulls among lists of a fixed size
    UNKNOWN["u_pair"] = (pa.list_(pa.float64(), 2), [[1.0, 2.0], None, [3.0, 4.0]])
    UNKNOWN["u_uuid"] = (pa.uuid(), [b"0123456789abcdef", None, b"fedcba9876543210"])


def with_unknown() -> pa.Table:
    """Three rows of a scored table with a column of every kind that the contract does not know."""
    rows = scored_rows(1, groups=1, samples=3)
    for name, (kind, values) in UNKNOWN.items():
        rows = rows.append_column(name, pa.array(values, kind))
    return rows


def test_columns_of_every_kind_pass_a_stage_unharmed(cli: Cli, tmp_path: Path) -> None:
    rows = with_unknown()
    write_scored(tmp_path / "in.parquet", rows)
    ran = cli("mask", "none", "in.parquet", "-q")
    assert ran.code == 0, ran
    again = cli("mask", "none", "-o", "out.parquet", "-q", stdin=ran.out)
    assert again.code == 0, again
    found = rows_of(tmp_path / "out.parquet")
    for name in rows.column_names:
        assert found[name].to_pylist() == rows[name].to_pylist(), name
    assert found["u_dictionary"].type == pa.dictionary(pa.int32(), pa.string())
    assert found["u_large"].type == pa.large_string()
    assert found["u_seconds"].type == pa.timestamp("ms")  # Parquet knows no seconds


def test_a_type_that_parquet_cannot_hold_is_named(tmp_path: Path) -> None:
    rows = scored_rows(1).append_column("odd", pa.nulls(12, pa.month_day_nano_interval()))
    with pytest.raises(InputError, match=r"'odd' is month_day_nano_interval, which Parquet cannot hold"):
        write_scored(tmp_path / "x.parquet", rows)
    assert list(tmp_path.iterdir()) == []


def test_nulls_stay_nulls(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(1, groups=1, samples=3)
    half = pa.array([[0.5] * n if i != 1 else None for i, n in enumerate(row_lengths(rows["tokens"]))])
    rows = rows.append_column("ref_logprobs", half)
    rows = rows.set_column(rows.column_names.index("predicted"), "predicted", pa.array(["1", None, "2"]))
    write_scored(tmp_path / "in.parquet", rows)
    assert cli("mask", "none", "in.parquet", "-o", "out.parquet").code == 0
    found = rows_of(tmp_path / "out.parquet")
    assert found["predicted"].to_pylist() == ["1", None, "2"]
    assert found["ref_logprobs"].to_pylist() == half.to_pylist()


@pytest.mark.parametrize("form", ["directory", "glob", "uri", "stream file", "stdin"])
def test_a_table_is_the_same_in_every_form(cli: Cli, tmp_path: Path, form: str) -> None:
    whole = write_scored(tmp_path / "whole.parquet", scored_rows(1), scored_rows(2))
    (tmp_path / "parts").mkdir()
    write_scored(tmp_path / "parts" / "a.parquet", scored_rows(1))
    write_scored(tmp_path / "parts" / "b.parquet", scored_rows(2))
    (tmp_path / "parts" / ".b.parquet.123.tmp").write_bytes(b"left by a writer that was killed")
    (tmp_path / "parts" / "_SUCCESS").write_bytes(b"")
    (tmp_path / "saved.arrows").write_bytes(as_stream(whole))
    argument, stdin = {
        "directory": ("parts", b""),
        "glob": ("parts/?.parquet", b""),
        "uri": (f"file://{whole}", b""),
        "stream file": ("saved.arrows", b""),
        "stdin": ("-", as_stream(whole)),
    }[form]
    ran = cli("mask", "none", argument, "-o", "out.parquet", stdin=stdin)
    assert ran.code == 0, ran
    assert rows_of(tmp_path / "out.parquet").drop_columns(["weights"]).equals(rows_of(whole))


def test_shards_that_each_hold_every_step_are_read_step_by_step(tmp_path: Path) -> None:
    for shard in range(3):
        steps = [scored_rows(k, groups=2, seed=shard) for k in (1, 2, 3)]
        renamed = [
            s.set_column(1, "prompt_id", pa.array([f"s{shard}{p}" for p in s["prompt_id"].to_pylist()])) for s in steps
        ]
        write_scored(tmp_path / f"shard{shard}.parquet", *renamed)
    steps = steps_of(tmp_path)
    assert list(steps) == [1, 2, 3]
    assert [rows.num_rows for rows in steps.values()] == [24, 24, 24]
    assert [p[:2] for p in steps[2]["prompt_id"].to_pylist()[::8]] == ["s0", "s1", "s2"]


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropyctl.table.source.MOST_OPEN_FILES", 2)
    for k in range(1, 5):
        write_scored(tmp_path / f"{k}.parquet", scored_rows(k))
    with read([str(tmp_path)]) as source:
        assert [f._file for f in source.inputs[0].reader.files] == [None] * 4
        assert [step.number for step in source] == [1, 2, 3, 4]


def test_the_same_shard_twice_is_noticed(tmp_path: Path) -> None:
    write_scored(tmp_path / "a.parquet", scored_rows(1))
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    with pytest.raises(InputError, match="row step 1, prompt p0, sample 0 is there twice"):
        rows_of(tmp_path)


def test_one_file_keeps_its_order_of_steps(tmp_path: Path) -> None:
    write_scored(tmp_path / "x.parquet", scored_rows(5), scored_rows(2))
    assert list(steps_of(tmp_path / "x.parquet")) == [5, 2]


# Several inputs, laid over one another by key.


def only(table: pa.Table, *names: str) -> pa.Table:
    return table.select(["step", "prompt_id", "sample", *names])


def test_the_last_input_that_has_a_column_gives_it(cli: Cli, scored: Path, tmp_path: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", "--only-new").code == 0
    assert pq.read_schema(tmp_path / "adv.parquet").names == ["step", "prompt_id", "sample", "advantages"]
    ran = cli("mask", "clip-v", "scored.parquet", "adv.parquet", "--mu", "0.5", "-o", "mask.parquet", "--only-new")
    assert ran.code == 0, ran
    assert pq.read_schema(tmp_path / "mask.parquet").names == [
        *("step", "prompt_id", "sample"),
        *("loss_mask", "base_mask"),
    ]
    both = rows_of(scored, tmp_path / "adv.parquet", tmp_path / "mask.parquet")
    mask = rows_of(tmp_path / "mask.parquet")
    assert both["loss_mask"].equals(mask["loss_mask"])
    assert not both["loss_mask"].equals(rows_of(scored)["loss_mask"])
    assert both["advantages"].equals(rows_of(tmp_path / "adv.parquet")["advantages"])


def test_an_input_in_another_order_is_laid_by_key(scored: Path, tmp_path: Path) -> None:
    with (
        read([str(scored)]) as source,
        write(str(tmp_path / "o.parquet"), "scored", new_record("x", {}), source) as sink,
    ):
        for step in source:
            column = pa.array(
                [
                    f"{p}/{s}"
                    for p, s in zip(step.rows["prompt_id"].to_pylist(), step.rows["sample"].to_pylist(), strict=True)
                ]
            )
            sink.put(step.number, only(step.rows).append_column("mine", column)[::-1])
    rows = rows_of(scored, tmp_path / "o.parquet")
    assert rows["prompt_id"].equals(rows_of(scored)["prompt_id"])
    assert rows["mine"].to_pylist()[:2] == ["p0/0", "p0/1"]


@pytest.mark.parametrize("order", ["full first", "narrow first", "narrow stream first"])
def test_rows_that_were_dropped_on_purpose_are_left_out(cli: Cli, tmp_path: Path, order: str) -> None:
    rows = scored_rows(1)
    outcomes = ["correct"] * 4 + ["correct", "wrong"] * 4  # the first group says nothing
    rows = rows.set_column(rows.column_names.index("outcome"), "outcome", pa.array(outcomes))
    write_scored(tmp_path / "scored.parquet", rows, scored_rows(2))
    ran = cli("advantage", "grpo", "scored.parquet", "--keep-groups", "1", "--only-new")
    assert ran.code == 0, ran
    (tmp_path / "narrow.arrows").write_bytes(ran.out)
    inputs = {
        "full first": ("scored.parquet", "narrow.arrows"),
        "narrow first": ("narrow.arrows", "scored.parquet"),
        "narrow stream first": ("-", "scored.parquet"),
    }[order]
    ran = cli("mask", "clip-v", *inputs, "-o", "out.parquet", stdin=ran.out if "-" in inputs else b"")
    assert ran.code == 0, ran
    found = steps_of(tmp_path / "out.parquet")
    assert found[1]["prompt_id"].to_pylist() == ["p1"] * 4
    assert len(found[2]) == 4


def test_rollouts_of_another_run_with_the_same_keys_are_refused(cli: Cli, scored: Path, tmp_path: Path) -> None:
    write_scored(tmp_path / "other.parquet", only(scored_rows(1), "logprobs"), only(scored_rows(2), "logprobs"))
    ran = cli("mask", "none", "scored.parquet", "other.parquet", "-o", "out.parquet")
    assert ran.code == 5, ran
    assert "other.parquet: was not made from the rollouts of scored.parquet" in ran.line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.slice(1), "lacks row step 1, prompt p0, sample 0 of the first input"),
        (
            lambda s: pa.concat_tables([s, s.slice(0, 1).set_column(2, "sample", pa.array([9], pa.int32()))]),
            "is not in the first",
        ),
        (lambda s: s.slice(0, 0), "lacks row|has no step 1"),
    ],
)
def test_rows_that_are_missing_or_too_many_are_refused(scored: Path, tmp_path: Path, change: Any, message: str) -> None:
    target = str(tmp_path / "o.parquet")
    with read([str(scored)]) as source, write(target, "scored", new_record("x", {}), source) as sink:
        for step in source:
            sink.put(step.number, change(only(step.rows, "reward")))
            sink.rows_read = sink.rows  # nothing was dropped on purpose
    with pytest.raises(MismatchError, match=message):
        rows_of(scored, target)


def test_a_step_that_the_first_input_lacks_is_refused(scored: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "o.parquet")
    with read([str(scored)]) as source, write(target, "scored", new_record("x", {}), source) as sink:
        for step in source:
            if step.number == 1:
                sink.put(step.number, step.rows)
    with pytest.raises(MismatchError, match="has a step 2 that is not in the first input"):
        rows_of(target, scored)


def test_only_the_columns_that_are_asked_for_are_read(cli: Cli, scored: Path, tmp_path: Path) -> None:
    data = bytearray(scored.read_bytes())
    file = pq.ParquetFile(scored)
    for group in range(file.num_row_groups):
        for i in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(i)
            if chunk.path_in_schema.startswith(("response", "logprobs", "predicted")):
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                data[start : start + chunk.total_compressed_size] = b"\xaa" * chunk.total_compressed_size
    scored.write_bytes(data)
    ran = cli("mask", "quadrant", "scored.parquet", "-o", "out.parquet", "--only-new")
    assert (ran.code, "advantages" in ran.line) == (3, True), ran  # nothing of the damage, but what is missing
    ran = cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", "--only-new")
    assert ran.code == 0, ran
    ran = cli("mask", "quadrant", "scored.parquet", "adv.parquet", "-o", "out.parquet", "--only-new")
    assert ran.code == 0, ran
    ran = cli("mask", "none", "scored.parquet", "-o", "out2.parquet")
    assert (ran.code, "is damaged" in ran.line) == (3, True), ran


def test_a_mask_writes_the_loss_mask_alone_where_one_has_narrowed_it(cli: Cli, scored: Path, tmp_path: Path) -> None:
    def columns(*args: object) -> list[str]:
        ran = cli("mask", *args, "--only-new", "-q", "-o", "m.parquet")
        assert ran.code == 0, ran
        return pq.read_schema(tmp_path / "m.parquet").names[3:]

    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    assert columns("steer", "a.parquet") == ["weights"]
    assert columns("kl-cov", "a.parquet") == ["kl_coefs"]
    assert cli("mask", "top-entropy", "a.parquet", "-o", "t.parquet", "-q").code == 0
    assert columns("steer", "t.parquet") == ["weights", "loss_mask", "base_mask"]
    # What a mask left out is that of the rows which it is laid over.
    both = rows_of(tmp_path / "t.parquet", tmp_path / "m.parquet")
    assert both["loss_mask"].equals(rows_of(tmp_path / "t.parquet")["loss_mask"])


def test_a_file_is_kept_while_streaming_on(cli: Cli, scored: Path, tmp_path: Path) -> None:
    ran = cli("mask", "none", "scored.parquet", "--tee", "kept.parquet")
    assert ran.code == 0, ran
    (tmp_path / "stream.arrows").write_bytes(ran.out)
    assert rows_of(tmp_path / "kept.parquet").equals(rows_of(tmp_path / "stream.arrows"))
    ends = [json.loads(pq.read_metadata(tmp_path / "kept.parquet").metadata[b"entropyctl.end_of_stream"])]
    with read([str(tmp_path / "stream.arrows")]) as source:
        list(source)
        ends.append(source.inputs[0].reader.end)
    assert ends[0]["digest"] == ends[1]["digest"]


class GoneAtTheEnd(io.BytesIO):
    """A pipe whose reader leaves when the end record comes."""

    def write(self, data: Any) -> int:
        if b"entropyctl.end_of_stream" in bytes(data):
            raise BrokenPipeError
        return super().write(data)


def test_no_file_is_kept_of_a_stream_whose_reader_left_at_the_end(scored: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(BrokenPipeError),
        read([str(scored)]) as source,
        write("-", "scored", new_record("x", {}), source, tee=str(tmp_path / "kept"), stdout=GoneAtTheEnd()) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["scored.parquet"]


def test_no_stream_ends_well_whose_file_could_not_be_kept(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AtomicFile) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(AtomicFile, "settle", full)
    piped = io.BytesIO()
    with (
        pytest.raises(OutputError),
        read([str(scored)]) as source,
        write("-", "scored", new_record("x", {}), source, tee=str(tmp_path / "kept"), stdout=piped) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
    with (
        pytest.raises(StreamEndedEarly, match="ended after 24 rows"),
        read(["-"], stdin=io.BytesIO(piped.getvalue())) as again,
    ):
        list(again)
    assert [path.name for path in tmp_path.iterdir()] == ["scored.parquet"]


def test_a_file_can_be_written_over_itself(cli: Cli, scored: Path) -> None:
    before = rows_of(scored)
    assert cli("mask", "none", "scored.parquet", "-o", "scored.parquet").code == 0
    assert rows_of(scored).drop_columns(["weights"]).equals(before)


def test_a_link_stays_a_link_and_null_stays_a_device(cli: Cli, scored: Path, tmp_path: Path) -> None:
    (tmp_path / "real.parquet").write_bytes(b"old")
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    assert cli("mask", "none", "scored.parquet", "-o", "link.parquet").code == 0
    assert (tmp_path / "link.parquet").is_symlink()
    assert rows_of(tmp_path / "real.parquet").num_rows == 24
    assert cli("mask", "none", "scored.parquet", "-o", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_one_file_for_both_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both name"):
        write(str(tmp_path / "a"), "scored", new_record("x", {}), tee=f"{tmp_path}/./a")


def test_names_that_are_no_utf8(cli: Cli, scored: Path, tmp_path: Path) -> None:
    name = b"\xff.parquet".decode(errors="surrogateescape")
    (tmp_path / name).write_bytes(scored.read_bytes())
    ran = cli("mask", "none", name, "-o", "\udcfeout.parquet")
    assert ran.code == 0, ran
    with read([str(tmp_path / "\udcfeout.parquet")]) as source:
        assert source.chain[-1]["inputs"][0]["path"] == name


def test_a_remote_place_through_fsspec(scored: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/in/a.parquet", scored.read_bytes())
    with (
        read(["memory://bucket/in"]) as source,
        write("memory://bucket/out.parquet", "scored", new_record("x", {}), source) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows)
    assert rows_of("memory://bucket/out.parquet").equals(rows_of(scored))
    assert sorted(memory.ls("/bucket", detail=False)) == ["/bucket/in", "/bucket/out.parquet"]


# Tables of other programs and of other versions.


def foreign(path: Path, rows: pa.Table, **options: Any) -> Path:
    pq.write_table(rows.replace_schema_metadata(None), path, **options)
    return path


def test_another_programs_parquet_is_a_table_with_a_notice(cli: Cli, tmp_path: Path) -> None:
    rows = pa.concat_tables([scored_rows(k) for k in (2, 1, 3)])
    wide = rows.set_column(
        rows.column_names.index("logprobs"), "logprobs", rows["logprobs"].cast(pa.list_(pa.float64()))
    )
    foreign(tmp_path / "f.parquet", wide.cast(wide.schema.set(2, pa.field("sample", pa.int64()))))  # one row group
    ran = cli("mask", "none", "f.parquet", "-o", "out.parquet", "-q")
    assert ran.code == 0, ran
    assert ran.line == "entropyctl: f.parquet: written by another program; its history starts as unknown"
    found = steps_of(tmp_path / "out.parquet")
    assert list(found) == [2, 1, 3]
    assert found[1].drop_columns(["weights"]).to_pydict() == scored_rows(1).to_pydict()
    with read([str(tmp_path / "out.parquet")]) as source:
        assert [record["stage"] for record in source.chain] == ["unknown", "mask none"]
        assert source.chain[1]["inputs"][0]["records"] == [source.chain[0]["id"]]


def test_an_arrow_file_is_a_table_too(cli: Cli, tmp_path: Path) -> None:
    rows = pa.concat_tables([scored_rows(1), scored_rows(2)])
    with pa.ipc.new_file(str(tmp_path / "f.arrow"), rows.schema) as writer:
        writer.write_table(rows, max_chunksize=7)
    ran = cli("mask", "none", "f.arrow", "-o", "out.parquet", "-q")
    assert (ran.code, "written by another program" in ran.line) == (0, True), ran
    assert rows_of(tmp_path / "out.parquet").drop_columns(["weights"]).to_pydict() == rows.to_pydict()


def test_a_row_group_of_many_steps_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path / "f.parquet", pa.concat_tables([scored_rows(k) for k in range(1, 6)]))
    from entropyctl.table import parquet_source

    calls: list[list[str]] = []
    real = parquet_source._read
    monkeypatch.setattr(parquet_source, "_read", lambda f, i, columns: calls.append(columns) or real(f, i, columns))
    assert len(steps_of(tmp_path / "f.parquet")) == 5
    assert len(calls) == 2  # the step numbers, then the rows


def test_a_sharded_step_of_differing_types_is_one_error(tmp_path: Path) -> None:
    foreign(tmp_path / "a.parquet", scored_rows(1, groups=1).append_column("x", pa.array([1] * 4)))
    rows = scored_rows(1, groups=1).set_column(1, "prompt_id", pa.array(["q"] * 4))
    foreign(tmp_path / "b.parquet", rows.append_column("x", pa.array([["s"]] * 4)))
    with pytest.raises(InputError, match="columns of different types"):
        rows_of(tmp_path)


def restamp(path: Path, schema: bytes) -> None:
    """The file with another schema name, and with a seal that fits it."""
    file = pq.ParquetFile(path)
    rows, metadata = file.read(), dict(file.metadata.metadata)
    metadata.pop(b"ARROW:schema")
    metadata[b"entropyctl.schema"] = schema
    pq.write_table(rows.replace_schema_metadata(metadata), path)


def test_a_newer_version_asks_for_an_upgrade(cli: Cli, scored: Path) -> None:
    restamp(scored, b"scored/2")
    ran = cli("mask", "none", "scored.parquet", "-o", "out.parquet")
    assert ran.code == 3, ran
    assert "scored/2" in ran.line and "upgrade" in ran.line


def test_an_older_version_stays_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entropyctl.table import schema

    path = write_scored(tmp_path / "v1.parquet")
    real = schema.load_schema

    def newer(table: str) -> schema.TableSchema:
        from dataclasses import replace

        return replace(real(table), version=2)

    monkeypatch.setattr("entropyctl.table.header.load_schema", newer)
    monkeypatch.setattr("entropyctl.table.schema.load_schema", newer)
    assert rows_of(path).num_rows == 12


def test_a_file_that_another_program_rewrote_is_refused_until_it_says_so(tmp_path: Path) -> None:
    path = write_scored(tmp_path / "x.parquet")
    rows = pq.read_table(path)
    pq.write_table(rows, path)
    with pytest.raises(InputError, match="another program rewrote it; make it again, or drop its entropyctl"):
        rows_of(path)
    with_everything = rows.slice(1).replace_schema_metadata(pq.read_metadata(write_scored(path)).metadata)
    pq.write_table(with_everything, path)
    with pytest.raises(InputError, match=r"another program changed it \(11 rows where the end record has 12\)"):
        rows_of(path)
    metadata = pq.read_metadata(write_scored(path)).metadata
    flat = rows.set_column(rows.column_names.index("reward"), "reward", pa.array([1.0] * 12, pa.float32()))
    pq.write_table(flat.replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match=r"another program changed it \(column 'reward' does not match its digest\)"):
        rows_of(path)
    foreign(path, rows.slice(1))
    assert rows_of(path).num_rows == 11


# What holds for every table.


def small_step(number: int, lengths: list[int]) -> pa.Table:
    count = sum(lengths)
    return pa.table(
        {
            "step": pa.array([number] * len(lengths), pa.int64()),
            "prompt_id": pa.array([f"p{i // 2}" for i in range(len(lengths))], pa.string()),
            "sample": pa.array([i % 2 for i in range(len(lengths))], pa.int32()),
            "tokens": list_column(np.arange(count), np.array(lengths, np.int64), pa.int32()),
            "logprobs": list_column(-np.arange(count) / 7, np.array(lengths, np.int64), pa.float32()),
        }
    )


LENGTHS = st.lists(st.integers(0, 9), max_size=8)


@settings(max_examples=40, deadline=None)
@given(steps=st.dictionaries(st.integers(-3, 9), LENGTHS, max_size=4), limit=st.integers(1, 12))
def test_row_groups_stay_within_a_step_and_within_the_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: dict[int, list[int]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_sink, "TOKENS_PER_ROW_GROUP", limit)
        with write(str(path), "scored", new_record("x", {}), context=CONTEXT) as sink:
            for number, lengths in steps.items():
                sink.put(number, small_step(number, lengths))
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group)
        assert len(set(rows["step"].to_pylist())) == 1
        counts = [max(len(tokens), 1) for tokens in rows["tokens"].to_pylist()]
        assert len(counts) == 1 or sum(counts) <= limit
    filled = {number: lengths for number, lengths in steps.items() if lengths}
    found = steps_of(path)
    assert {n: r["tokens"].to_pylist() for n, r in found.items()} == {
        n: small_step(n, lengths)["tokens"].to_pylist() for n, lengths in filled.items()
    }
    assert list(found) == list(filled)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_step_is_read_in_one_piece_wherever_its_row_groups_lie(kind: str, tmp_path: Path) -> None:
    one, two = small_step(1, [3, 0, 5]), small_step(2, [4, 1, 2])
    path = tmp_path / "other"
    with pq.ParquetWriter(path, one.schema) if kind == "parquet" else pa.ipc.new_file(path, one.schema) as file:
        for part in (one.slice(0, 2), two.slice(0, 1), two.slice(1), one.slice(2)):
            file.write_table(part)
    found = steps_of(path)
    assert {number: [len(tokens) for tokens in rows["tokens"].to_pylist()] for number, rows in found.items()} == {
        1: [3, 0, 5],
        2: [4, 1, 2],
    }
    assert all(column.num_chunks == 1 for rows in found.values() for column in rows.columns)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_a_digest_does_not_depend_on_how_the_rows_are_cut(lengths: list[int | None], cuts: list[int]) -> None:
    rows = len(lengths)
    lists = [None if n is None else [float(j) for j in range(n)] for n in lengths]
    table = pa.table(
        {
            "f": pa.array(lists, pa.list_(pa.float32())),
            "n": pa.array([None if n is None else n for n in lengths], pa.int64()),
            "b": pa.array([None if n is None else n % 2 == 0 for n in lengths], pa.bool_()),
            "s": pa.array([None if n is None else "x" * n for n in lengths], pa.string()),
            "d": pa.array([None if n is None else "yz"[n % 2] for n in lengths]).dictionary_encode(),
            "t": pa.array([None if n is None else {"a": n, "b": ["q"] * n} for n in lengths]),
            "p": pa.array([None if n is None else [n, n] for n in lengths], pa.list_(pa.int16(), 2)),
        }
    )
    whole, cut = TableDigest(), TableDigest()
    whole.update(table)
    edges = sorted({0, rows, *(c for c in cuts if c < rows)})
    for start, stop in pairwise(edges):
        cut.update(table.slice(start, stop - start))
        cut.update(table.slice(0, 0))
    assert whole.columns() == cut.columns()


@pytest.mark.parametrize("changed", ["value", "null", "length", "order"])
def test_a_digest_sees_every_change(changed: str) -> None:
    before = [[1.0, 2.0], None, [], [3.0]]
    after = {
        "value": [[1.0, 2.0], None, [], [3.5]],
        "null": [[1.0, 2.0], [], [], [3.0]],
        "length": [[1.0], None, [2.0], [3.0]],
        "order": [[3.0], None, [], [1.0, 2.0]],
    }[changed]
    digests = []
    for values in (before, after):
        digest = TableDigest()
        digest.update(pa.table({"x": pa.array(values, pa.list_(pa.float32()))}))
        digests.append(digest.columns()["x"])
    assert digests[0] != digests[1]


def test_a_digest_sees_where_a_null_is() -> None:
    digests = []
    for values in ([0, None, 0], [0, 0, None]):
        digest = TableDigest()
        digest.update(pa.table({"x": pa.array(values, pa.int64())}))
        digests.append(digest.columns()["x"])
    assert digests[0] != digests[1]


def test_a_digest_of_no_rows_is_that_of_nothing() -> None:
    digest = ColumnDigest()
    digest.update(pa.array([], pa.list_(pa.string())))
    assert digest.hexdigest() == ColumnDigest().hexdigest()


def test_what_lies_under_a_null_does_not_count() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3, 4], pa.int32()), pa.array([1.0, 9.0, 9.0, 2.0]))
    hidden = pa.ListArray.from_buffers(
        lists.type, 3, [pa.py_buffer(b"\x05"), lists.buffers()[1]], children=[lists.values]
    )
    assert hidden.to_pylist() == [[1.0], None, [2.0]]
    assert row_lengths(hidden).tolist() == [1, 0, 1]
    assert flat_values(hidden).tolist() == [1.0, 2.0]
    seen, plain = ColumnDigest(), ColumnDigest()
    seen.update(hidden)
    plain.update(pa.array([[1.0], None, [2.0]]))
    assert seen.hexdigest() == plain.hexdigest()


def test_empty_tables_and_empty_steps(cli: Cli, tmp_path: Path) -> None:
    write_scored(tmp_path / "some.parquet")
    with write(str(tmp_path / "none.parquet"), "scored", new_record("x", {}), context=CONTEXT):
        pass
    ran = cli("mask", "none", "none.parquet", "-q")
    assert ran.code == 0, ran
    again = cli("mask", "none", "-o", "out.parquet", "-q", stdin=ran.out)
    assert again.code == 0, again
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 0
    assert "weights" in pq.read_schema(tmp_path / "out.parquet").names
    rows = scored_rows(1).slice(0, 0)
    buffer = io.BytesIO()
    with write("-", "scored", new_record("x", {}), context=CONTEXT, stdout=buffer) as sink:
        sink.put(7, rows)
        sink.put(8, scored_rows(8))
    ran = cli("advantage", "grpo", "-q", stdin=buffer.getvalue())
    assert ran.code == 0, ran
    with read(["-"], stdin=io.BytesIO(ran.out)) as source:
        assert [(step.number, step.rows.num_rows) for step in source] == [(7, 0), (8, 12)]


def test_a_stream_proves_each_step_before_it_is_handed_out(scored: Path) -> None:
    data = bytearray(as_stream(scored))
    at = data.index(np.float32(rows_of(scored)["logprobs"][0][0].as_py()).tobytes())
    data[at] ^= 1
    seen: list[int] = []
    with read(["-"], stdin=io.BytesIO(bytes(data))) as source, pytest.raises(InputError, match="step 1 do not match"):
        for step in source:
            seen.append(step.number)
    assert seen == []


def test_provenance_tells_how_a_file_was_made(cli: Cli, scored: Path, tmp_path: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", "--no-std").code == 0
    assert cli("mask", "clip-b", "adv.parquet", "--mu", "3", "-o", "out.parquet").code == 0
    with read([str(tmp_path / "out.parquet")]) as source:
        chain = source.chain
    assert [record["stage"] for record in chain] == ["score", "advantage grpo", "mask clip-b"]
    assert chain[1]["params"] == {"std": False, "eps": 1e-6, "keep_groups": None}
    assert chain[2]["params"]["mu"] == 3.0
    assert chain[2]["command"] == ["entropyctl", "mask", "clip-b", "adv.parquet", "--mu", "3", "-o", "out.parquet"]
    assert chain[2]["inputs"][0]["path"] == "adv.parquet"
    assert chain[2]["inputs"][0]["records"] == [chain[1]["id"]]
    assert (chain[2]["rows"], chain[2]["rows_in"]) == (24, 24)
    assert chain[2]["summary"]["tokens"] == int(row_lengths(rows_of(scored)["tokens"]).sum())


def test_the_seconds_of_a_record_are_those_of_the_stage_and_not_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    record = new_record("x", {})
    now = 1007.5  # the work was done before the output was opened
    path = write_scored(tmp_path / "s.parquet", record=record)
    with read([str(path)]) as source:
        [written] = source.chain
    assert written["seconds"] == 7.5
    assert not [name for name in written if name.startswith("_")]


def test_two_files_of_one_run_have_two_records(tmp_path: Path) -> None:
    record = new_record("x", {"a": 1}, seed=7)
    other = again(record, policy="d1")
    assert other["id"] != record["id"]
    assert other["policy"] == "d1" and other | {"id": ""} == record | {"id": "", "policy": "d1"}
