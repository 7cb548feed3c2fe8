"""Facts that a stream learns after it has begun: they come with the end of a step and are passed on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest

from entropyctl.errors import InputError, MismatchError
from entropyctl.table import new_record, read, write
from entropyctl.table.header import facts_since, with_facts

from .conftest import CONTEXT, Cli, scored_rows, write_scored

BOTH = {"0": "d0", "1": "d1"}


def stream(*facts: dict | None) -> bytes:
    """A stream of a step for each of the facts, the first of which begins with version 0 alone."""
    out = io.BytesIO()
    with write(None, "scored", new_record("score", {}), context=CONTEXT, stdout=out) as sink:
        for number, one in enumerate(facts, start=1):
            sink.put(number, scored_rows(number), facts=one)
    return out.getvalue()


def test_a_step_is_handed_out_with_the_facts_that_came_with_it(tmp_path: Path) -> None:
    data = stream(None, {"policies": {"1": "d1"}}, None)
    schema = pa.ipc.open_stream(data).schema
    assert json.loads(schema.metadata[b"entropyctl.context"])["policies"] == {"0": "d0"}  # the header went out before
    (tmp_path / "s.arrows").write_bytes(data)
    with read([str(tmp_path / "s.arrows")]) as source:
        seen = [(step.number, dict(source.context["policies"])) for step in source]
    assert seen == [(1, {"0": "d0"}), (2, BOTH), (3, BOTH)]


def test_stages_pass_on_what_they_learn_and_files_have_it_all(cli: Cli, tmp_path: Path) -> None:
    data = stream(None, {"policies": {"1": "d1"}})
    first = cli("mask", "none", "--tee", "kept.parquet", stdin=data)
    second = cli("mask", "none", stdin=first.out)
    assert first.code == second.code == 0, second
    (tmp_path / "s.arrows").write_bytes(second.out)
    with read([str(tmp_path / "s.arrows")]) as source:
        assert [len(source.context["policies"]) for _ in source] == [1, 2]
    with read([str(tmp_path / "kept.parquet")]) as source:
        assert source.context["policies"] == BOTH
    assert cli("check", "--full", "kept.parquet", "s.arrows").code == 0


def test_facts_are_under_the_seal(cli: Cli) -> None:
    data = stream(None, {"policies": {"1": "d1"}})
    at = data.index(b'{"policies": {"1": "d1"}}')
    bad = cli("mask", "none", stdin=data[:at] + data[at : at + 25].replace(b"d1", b"d2") + data[at + 25 :])
    assert bad.code == 3 and "step 2 do not match their digest" in bad.line, bad


def test_a_mark_that_takes_a_fact_back_is_refused() -> None:
    out = io.BytesIO()
    schema = scored_rows().schema.with_metadata({"entropyctl.schema": "scored/1", "entropyctl.context": '{"a": 1}'})
    empty = pa.RecordBatch.from_pylist([], schema)
    with pa.ipc.new_stream(out, schema) as writer:
        mark = {"entropyctl.end_of_step": '{"step": 1, "rows": 0}', "entropyctl.context": '{"a": 2}'}
        writer.write_batch(empty, custom_metadata=mark)
    with pytest.raises(InputError, match="a mark changes a, which was said before"):
        list(read(["-"], stdin=io.BytesIO(out.getvalue())))


def test_facts_beside_the_end_record_are_learnt_too() -> None:
    out = io.BytesIO()
    with (
        read(["-"], stdin=io.BytesIO(stream(None, {"policies": {"1": "d1"}}))) as source,
        write(None, "scored", new_record("filter", {}), source, stdout=out) as sink,
    ):
        for step in source:
            if step.number == 1:  # a stage that drops the step which the facts came with
                sink.put(step.number, step.rows)
    with read(["-"], stdin=io.BytesIO(out.getvalue())) as source:
        assert len(list(source)) == 1
        assert source.context["policies"] == BOTH


def test_what_a_stage_does_anew_is_not_passed_on() -> None:
    before = stream(
        {"scoring": {"policies": {"0": "old"}}}, {"scoring": {"policies": {"1": "old"}, "steps": {"2": "x"}}}
    )
    out = io.BytesIO()
    replaced = ("scoring.policies", "scoring.steps")
    with (
        read(["-"], stdin=io.BytesIO(before)) as source,
        write(None, "scored", new_record("score", {}), source, replaces=replaced, stdout=out) as sink,
    ):
        for step in source:
            sink.put(step.number, step.rows, facts={"scoring": {"policies": {str(step.number): "new"}}})
    with read(["-"], stdin=io.BytesIO(out.getvalue())) as source:
        list(source)
        assert source.context["scoring"] == {"policies": {"1": "new", "2": "new"}}


def test_a_file_laid_over_a_stream_must_agree_with_what_it_learns(tmp_path: Path) -> None:
    context = {**CONTEXT, "policies": {"0": "d0", "1": "another"}}
    out = io.BytesIO(stream(None, {"policies": {"1": "d1"}}))
    write_scored(
        tmp_path / "f.parquet", scored_rows(1), scored_rows(2), context=context, record=new_record("unknown", {})
    )
    with read(["-", str(tmp_path / "f.parquet")], stdin=out) as source:
        steps = iter(source)
        assert next(steps).number == 1
        with pytest.raises(MismatchError, match=r"policies\.1 is (another|d1)"):
            next(steps)


def test_facts_since_are_what_an_earlier_context_lacks() -> None:
    before, after = {"a": {"x": 1}, "b": 2}, {"a": {"x": 1, "y": {}}, "b": 2, "c": [3]}
    assert facts_since(before, after) == {"a": {"y": {}}, "c": [3]}
    assert with_facts(before, facts_since(before, after)) == after
    assert facts_since(after, after) == {}
