"""`entropyctl inspect` says what a file is and how it was made, and lets nothing of the data reach the terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entropyctl.show.statistics import SAMPLE, ColumnStatistics
from entropyctl.show.text import file_size, shorten, visible
from entropyctl.show.tokenizer import token_pieces
from entropyctl.table import new_record, write

from .conftest import ROOT, Cli, scored_rows, write_scored

HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202ereversed\u202c [bold]markup[/bold] :smile: \x9b2J\r\x00end"


def column(facts: dict, name: str) -> dict:
    return next(c for c in facts["columns"] if c["name"] == name)


def described(cli: Cli, *args: str | Path, **more: bytes) -> dict:
    ran = cli("inspect", *args, "--json", **more)
    assert ran.code == 0, ran
    return json.loads(ran.out)["inputs"][0]


def test_a_terminal_is_no_table() -> None:
    """It would wait for somebody to type one."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "entropyctl", "inspect"]
    try:
        ran = subprocess.run(command, cwd=ROOT, stdin=theirs, capture_output=True, text=True, timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == 2
    assert ran.stderr == "entropyctl inspect: no input; name a file, or pipe the stage before this one into it\n"


def test_it_says_what_the_file_is(cli: Cli, scored: Path) -> None:
    facts = described(cli, scored)
    assert (facts["table"], facts["format"], facts["rows"], facts["files"]) == ("scored/1", "Parquet", 24, 1)
    assert facts["steps"] == {"count": 2, "first": 1, "last": 2}
    assert facts["tokens"] == 77
    assert facts["bytes"] == scored.stat().st_size
    assert facts["groups"] == 2
    assert facts["context"]["sampling"]["temperature"] == 1.0
    entropies = column(facts, "entropies")
    assert (entropies["type"], entropies["per"], entropies["unit"]) == ("list<float32>", "token", "nat")
    assert entropies["doc"].startswith("H = -sum_v p_v log p_v")


def test_for_people_it_is_a_page_without_colour_codes(cli: Cli, scored: Path) -> None:
    ran = cli("inspect", scored)
    lines = [" ".join(line.split()) for line in ran.text.splitlines()]
    assert any(line.startswith("table scored/1, made by entropyctl score 0.") for line in lines), ran
    assert "rows 24 in 2 step(s), 1 to 2" in lines
    assert "tokens 77 in responses" in lines
    assert "sampling.temperature 1.0" in lines
    assert "per token values null rows NaN mean min p1 p50 p99 max" in lines
    assert "outcome 0 correct 14, wrong 10" in lines
    assert "\x1b" not in ran.text and ran.err == ""


def test_statistics_are_per_row_and_weighted_by_token(cli: Cli, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "step": pa.array([1, 1, 2, 2], pa.int64()),
            "prompt_id": ["a", "a", "b", "b"],
            "sample": pa.array([0, 1, 0, 1], pa.int32()),
            "tokens": pa.array([[1], [1, 2, 3], [4], []], pa.list_(pa.int32())),
            "entropies": pa.array([[4.0], [0.0, 1.0, 3.0], None, []], pa.list_(pa.float32())),
            "reward": pa.array([1, 0, None, 1], pa.float32()),
        }
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    facts = described(cli, tmp_path / "t.parquet")
    entropies, reward = column(facts, "entropies"), column(facts, "reward")
    assert (entropies["count"], entropies["nulls"], entropies["nan"]) == (4, 1, 0)
    assert (entropies["mean"], entropies["min"], entropies["p50"], entropies["max"]) == (2.0, 0.0, 2.0, 4.0)
    assert (entropies["p1"], entropies["p99"]) == pytest.approx((0.03, 3.97))
    assert (reward["count"], reward["nulls"], reward["mean"], reward["max"]) == (3, 1, 2 / 3, 1.0)
    assert facts["table"] is None
    assert facts["provenance"][0]["stage"] == "unknown"


def test_another_programs_file_of_any_shape_is_described(cli: Cli, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "prompt": [[{"role": "user", "content": "hi"}]],
            "tokens": ["a string"],
            "score": [float("nan")],
            "when": pa.array([0], pa.timestamp("s")),
        }
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    facts = described(cli, tmp_path / "t.parquet")
    assert (facts["rows"], facts["tokens"], facts["steps"]) == (1, None, None)
    assert (column(facts, "score")["nan"], column(facts, "score")["count"]) == (1, 0)
    ran = cli("inspect", tmp_path / "t.parquet")
    assert ran.code == 0 and "none of entropyctl's: another program wrote it" in ran.text, ran
    assert ["score", "0", "0", "1", "-", "-", "-"] in [line.split() for line in ran.text.splitlines()]


def test_a_stream_a_directory_and_an_arrow_file_are_described_alike(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_scored(tmp_path / "shards" / "a.parquet", scored_rows(1))
    write_scored(tmp_path / "shards" / "b.parquet", scored_rows(2))
    stream = cli("mask", "none", "shards", "-q").out
    (tmp_path / "m.arrows").write_bytes(stream)
    with pa.ipc.new_file(tmp_path / "m.arrow", scored_rows(1).schema) as out:
        out.write_table(scored_rows(1))
        out.write_table(scored_rows(2))
    directory = described(cli, "shards")
    piped, stored, arrow = described(cli, stdin=stream), described(cli, "m.arrows"), described(cli, "m.arrow")
    assert (directory["files"], directory["rows"], directory["tokens"]) == (2, 24, 77)
    assert [facts["format"] for facts in (piped, stored, arrow)] == ["Arrow stream", "Arrow stream", "Arrow file"]
    for facts in (piped, stored, arrow):
        assert (facts["rows"], facts["tokens"], facts["steps"]["last"]) == (24, 77, 2)
        assert column(facts, "entropies")["p50"] == column(directory, "entropies")["p50"]
    assert [record["stage"] for record in piped["provenance"]][-1] == "mask none"


def test_quantiles_of_many_values_are_those_of_a_sample_and_memory_stays_small() -> None:
    statistics = ColumnStatistics(pa.list_(pa.float32()))
    for part in range(10):
        values = np.arange(part * 100_000, (part + 1) * 100_000, dtype=np.float32)
        statistics.add(pa.chunked_array([pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)]))
    found = statistics.as_dict()
    assert (found["count"], found["min"], found["max"], found["sampled"]) == (1_000_000, 0, 999_999, True)
    assert found["mean"] == pytest.approx(499_999.5)
    # Five standard errors of the share below a quantile in a sample of 200 000.
    for name, share in (("p1", 0.01), ("p50", 0.5), ("p99", 0.99)):
        assert abs(found[name] / 1e6 - share) < 5 * (share * (1 - share) / SAMPLE) ** 0.5, name
    assert len(statistics.numbers._sample.values) == SAMPLE


def test_damage_is_found_on_the_way(cli: Cli, scored: Path) -> None:
    data = bytearray(scored.read_bytes())
    data[300] ^= 1
    scored.write_bytes(data)
    ran = cli("inspect", scored)
    assert ran.code == 3 and "scored.parquet: is damaged" in ran.line, ran


def test_values_that_another_program_changed_are_found_on_the_way(cli: Cli, scored: Path) -> None:
    file = pq.ParquetFile(scored)
    rows, metadata = file.read(), file.metadata.metadata
    zeros = pa.array([0.0] * rows.num_rows, pa.float32())
    changed = rows.set_column(rows.schema.get_field_index("reward"), "reward", zeros)
    ours = {key: value for key, value in metadata.items() if key.startswith(b"entropyctl.")}
    pq.write_table(changed.replace_schema_metadata(ours), scored)
    ran = cli("inspect", scored)
    assert ran.code == 3 and "column 'reward' does not match its digest" in ran.line, ran


def test_history_is_commands_to_paste(cli: Cli, tmp_path: Path) -> None:
    write_scored(tmp_path / "with space.parquet", scored_rows())
    stream = cli("advantage", "grpo", "with space.parquet", "-q").out
    assert cli("mask", "clip-v", "--mu", "8", "-o", "m.parquet", stdin=stream).code == 0
    assert cli("mask", "none", "m.parquet", "-o", "again.parquet").code == 0
    lines = cli("inspect", "--provenance", "again.parquet").text.splitlines()
    assert lines[0] == "# again.parquet"
    assert lines[1].startswith("# score 0.") and lines[1].count(", ") == 3, lines[1]
    assert lines[3].startswith("# advantage grpo 0.") and "12 rows" in lines[3] and lines[3].endswith(" s")
    assert lines[4].startswith("# mask clip-v 0.")
    assert lines[5] == "entropyctl advantage grpo 'with space.parquet' -q | entropyctl mask clip-v --mu 8 -o m.parquet"
    assert lines[6].startswith("# mask none 0.")
    assert lines[7:] == ["entropyctl mask none m.parquet -o again.parquet"]
    (tmp_path / "m.parquet").unlink()
    (tmp_path / "entropyctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m entropyctl "$@"\n')
    (tmp_path / "entropyctl").chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", "\n".join(lines[3:])], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.parquet").exists()


def hostile_file(path: Path) -> Path:
    rows = scored_rows(groups=1, samples=1)
    rows = rows.set_column(rows.schema.get_field_index("response"), "response", pa.array([HOSTILE]))
    rows = rows.set_column(rows.schema.get_field_index("prompt_id"), "prompt_id", pa.array([HOSTILE]))
    rows = rows.append_column(HOSTILE, pa.array([HOSTILE]))
    record = new_record("score", {}) | {"stage": HOSTILE, "command": ["rm", "-rf", HOSTILE], "version": HOSTILE}
    with write(str(path), "scored", record, context={"sampling": {HOSTILE: HOSTILE}}) as sink:
        sink.put(1, rows)
    return path


@pytest.mark.parametrize("args", [[], ["--provenance"], ["--row", "0"], ["--json"], ["--row", "0", "--color", HOSTILE]])
def test_nothing_of_the_data_is_obeyed(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    ran = cli("inspect", hostile_file(tmp_path / "h.parquet"), *[a.replace("\x00", "") for a in args])
    said = ran.text + ran.err
    assert not [char for char in said if char != "\n" and not char.isprintable()], ran
    if not args or args == ["--row", "0"]:
        for shown in ("\\x1b[31mred", "\\u202ereversed", "[bold]markup[/bold] :smile:", "\\x9b2J", "\\x00"):
            assert shown in said, shown


def test_a_command_that_is_not_ours_is_never_offered_for_pasting(cli: Cli, tmp_path: Path) -> None:
    lines = cli("inspect", "--provenance", hostile_file(tmp_path / "h.parquet")).text.splitlines()
    assert all(line.startswith("# ") for line in lines), lines
    assert any(line.startswith("# rm -rf ") for line in lines)


def test_text_made_visible() -> None:
    assert visible("plain ü 漢 😀") == "plain ü 漢 😀"
    assert visible("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert visible("\x1b\x9b\u202e\u200b\U000e0001") == "\\x1b\\x9b\\u202e\\u200b\\U000e0001"
    assert shorten("x" * 70) == "x" * 57 + "..."
    assert [file_size(n) for n in (999, 1000, 15_200, 3_400_000_000)] == ["999 B", "1.0 kB", "15.2 kB", "3.4 GB"]


def test_a_row_by_key_and_by_number(cli: Cli, scored: Path) -> None:
    for name in ("2:p1:3", "19"):
        ran = cli("inspect", scored, "--row", name)
        assert ran.code == 0, ran
        lines = [" ".join(line.split()) for line in ran.text.splitlines()]
        assert lines[:3] == ["step: 2", "prompt_id: p1", "sample: 3"]
        assert lines[lines.index("response:") + 1] == "answer 7"
        row = scored_rows(2).slice(7, 1).to_pylist()[0]
        first = lines.index("token entropies") + 1
        pairs = zip(row["tokens"], row["entropies"], strict=True)
        values = [f"{i} {token} {entropy:.4g}" for i, (token, entropy) in enumerate(pairs)]
        assert lines[first:] == values


def test_prompt_ids_may_hold_colons(cli: Cli, tmp_path: Path) -> None:
    rows = scored_rows(groups=1, samples=2)
    rows = rows.set_column(rows.schema.get_field_index("prompt_id"), "prompt_id", pa.array(["a:b:1"] * 2))
    ran = cli("inspect", write_scored(tmp_path / "s.parquet", rows), "--row", "1:a:b:1:1")
    assert ran.code == 0 and "response:\nanswer 1\n" in ran.text, ran


def test_a_mask_laid_over_its_rollouts(cli: Cli, scored: Path) -> None:
    assert cli("mask", "none", scored, "--only-new", "-o", "m.parquet").code == 0
    ran = cli("inspect", scored, "m.parquet", "--row", "1:p0:1", "--color", "weights")
    assert ran.code == 0 and "weights [1]: 1 to 1" in ran.text and "answer 1" in ran.text, ran


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--row", "3:p0:0"], 3, "has no row 3:p0:0 among its 24"),
        (["--row", "24"], 3, "has no row number 24 among its 24"),
        (["--row", "first"], 2, "must be STEP:PROMPT_ID:SAMPLE"),
        (["--row", "0", "--color", "advantages"], 3, "'advantages' is missing; it is made by `entropyctl advantage`"),
        (["--row", "0", "--color", "reward"], 3, "--color wants a number for each token"),
        (["--color", "entropies"], 2, "choose one with --row"),
        (["--row", "0", "--tokenizer", "nowhere"], 3, "nowhere: holds no tokenizer.json"),
        (["--row", "0", "--json"], 2, "--row: does not go with --json; leave one out"),
    ],
)
def test_what_cannot_be_shown(cli: Cli, scored: Path, args: list[str], code: int, words: str) -> None:
    ran = cli("inspect", scored, *args)
    assert ran.code == code and words in ran.line, ran


def test_pieces_of_text_join_to_the_text_even_where_tokens_split_a_character() -> None:
    data = {1: b"caf", 2: b"\xc3", 3: b"\xa9", 4: b" au", 5: b" lait"}

    def decode(ids: list[int]) -> str:  # a tokenizer that strips the space of a first word
        return b"".join(data[i] for i in ids).decode(errors="replace").removeprefix(" ")

    assert token_pieces(decode, [1, 2, 3, 4, 5]) == ["caf", "", "é", " au", " lait"]
    assert token_pieces(decode, []) == []


def test_bytes_that_make_no_character_are_not_waited_for() -> None:
    asked = list[int]()

    def decode(ids: Sequence[int]) -> str:
        asked.append(len(ids))
        return "\ufffd" * len(ids)

    assert "".join(token_pieces(decode, [7] * 100)) == "\ufffd" * 100
    assert max(asked) <= 8


def on_a_terminal(cwd: Path, *args: str, **env: str) -> str:
    """What the command writes when its standard output is a terminal."""
    reader, writer = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS")}
    environment = clean | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | env
    process = subprocess.Popen([sys.executable, "-m", "entropyctl", *args], stdout=writer, cwd=cwd, env=environment)
    os.close(writer)
    said = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # Linux says EIO where others say end of file
            break
        if not part:
            break
        said += part
    os.close(reader)
    assert process.wait(60) == 0, said
    return said.decode()


def test_colours_only_on_a_terminal_and_not_with_no_color(scored: Path) -> None:
    colored = on_a_terminal(scored.parent, "inspect", "scored.parquet", "--row", "0")
    assert "\x1b[30;48;5;" in colored
    plain = on_a_terminal(scored.parent, "inspect", "scored.parquet", "--row", "0", NO_COLOR="1")
    assert "48;5;" not in plain and "answer 0" in plain


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Tokens 0 to 19 are the words w0 to w19, each with a space before it."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"\u0120w{i}": i for i in range(20)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="\u0120w0"))
    made.decoder = tokenizers.decoders.ByteLevel()
    (tmp_path / "tok").mkdir()
    made.save(str(tmp_path / "tok" / "tokenizer.json"))
    return tmp_path / "tok"


def test_a_tokenizer_shows_the_text_of_each_token(cli: Cli, scored: Path, tokenizer: Path) -> None:
    tokens = scored_rows(1)["tokens"][0].as_py()
    ran = cli("inspect", scored, "--row", "0", "--tokenizer", tokenizer)
    assert ran.code == 0, ran
    assert [line.split()[2] for line in ran.text.splitlines()[-len(tokens) :]] == [f"w{t}" for t in tokens]
    colored = on_a_terminal(scored.parent, "inspect", "scored.parquet", "--row", "0", "--tokenizer", "tok")
    last = colored.rstrip().splitlines()[-1]
    assert all(f"w{t}\x1b[0m" in last for t in tokens), colored
    words = ["inspect", "scored.parquet", "--row", "0", "--tokenizer", "tok"]
    listed = on_a_terminal(scored.parent, *words, NO_COLOR="1").rstrip().splitlines()
    assert [line.split()[2] for line in listed[-len(tokens) :]] == [f"w{t}" for t in tokens]
