"""`entropyctl report`: which tables it takes, what its sections say, and that the same inputs make the same page."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl import registry
from entropyctl.dynamics import token_statistics
from entropyctl.dynamics.discriminator import s_star_bounds
from entropyctl.laws import fit_law, pass_curve
from entropyctl.report.library import plotly
from entropyctl.report.responses import MOST_TOKENS, _longest, _quantised
from entropyctl.report.sampling import Fair, Largest, Strata
from entropyctl.report.section import MANY, course
from entropyctl.report.sources import find
from entropyctl.table import new_record
from entropyctl.table.rows import read_rows

from .conftest import ROOT, Cli, scored_rows, write_scored
from .report_run import make_run, make_tokenizer, masked_rows, metrics_of, table

pytest.importorskip("plotly")
SECTIONS = ["progress", "changes", "law", "passk", "rates", "discriminator", "difficulty", "forking"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    return make_run(tmp_path_factory.mktemp("report") / "run")


def island(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def reported(cli: Cli, tmp_path: Path) -> Callable[..., tuple[str, dict[str, Any]]]:
    """The page of these arguments, and what the command says of it."""

    def report(*args: str | Path) -> tuple[str, dict[str, Any]]:
        ran = cli("report", *args, "-o", "page.html", "--json")
        assert ran.code == 0 and ran.err == "", ran
        return (tmp_path / "page.html").read_text(encoding="utf-8"), json.loads(ran.out)

    return report


Reported = Callable[..., tuple[str, dict[str, Any]]]


def test_a_run_brings_every_section(reported: Reported, run: Path) -> None:
    page, summary = reported(run)
    assert (summary["sections"], summary["missing"]) == (SECTIONS, {})
    assert (summary["steps"], summary["responses"], summary["responses_shown"]) == (5, 60, 60)
    assert list(island(page, "figures")) == SECTIONS
    assert re.findall(r'<section id="([a-z]+)">', page) == [*SECTIONS, "responses"]


def test_the_same_inputs_make_the_same_bytes(reported: Reported, run: Path) -> None:
    assert reported(run)[0] == reported(run)[0]


def test_nothing_in_the_page_needs_a_network(reported: Reported, run: Path) -> None:
    page, _ = reported(run)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert re.fullmatch(r"('sha256-[A-Za-z0-9+/=]{44}' ?)+", rules["script-src"])
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert set(re.findall(r"""<[^>]*\s(?:src|href)=["']?([^"'> ]*)""", without_scripts)) == {
        *("data:,", "#main", "#responses"),
        *(f"#{name}" for name in SECTIONS),
    }


def test_the_licence_of_the_library_is_in_the_page(reported: Reported, run: Path) -> None:
    page, _ = reported(run)
    licence = plotly().licence
    assert "Permission is hereby granted, free of charge" in licence
    assert all(line in page for line in licence.replace("&", "&amp;").replace('"', "&quot;").splitlines())


def test_what_models_wrote_is_text_in_the_page(reported: Reported, run: Path) -> None:
    page, _ = reported(run)
    assert page.count("<script") == page.count("</script>") == 6
    assert "window.obeyed=1>" not in page and "\u202e" not in page and "\x00" not in page and "\x1b" not in page
    payload = island(page, "payload")
    texts = [text for text, _ in payload["pieces"]]
    assert {"</script>", "\\u202eright to left", "\\x00", "\\x1b[31mred", "\\u2028", "<!--", "\n"} <= set(texts)
    assert payload["rows"][0]["source"] == "<script>window.obeyed=1</script><b>\\u202e\\x00"
    longest = max(payload["prompts"], key=len)
    assert longest.endswith("… 1,080,000 more characters") and len(longest) < 20_100


def test_the_scripts_set_text_and_never_markup() -> None:
    scripts = sorted((ROOT / "entropyctl" / "report").glob("*.js"))
    forbidden = (
        r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|fetch\(|XMLHttpRequest|import\("
    )
    assert [path.name for path in scripts] == ["charts.js", "page.js", "responses.js"]
    assert [path.name for path in scripts if re.search(forbidden, path.read_text(encoding="utf-8"))] == []


def test_the_numbers_of_the_law_are_those_of_fit_law(reported: Reported, run: Path) -> None:
    page, _ = reported(run / "metrics")
    rows = read_rows(str(run / "metrics")).rows
    law = fit_law(rows["entropy"].to_pylist(), rows["reward"].to_pylist())
    data = {trace.get("name"): trace for trace in island(page, "figures")["law"]["data"]}
    ceiling = data[f"ceiling b − a = {law.ceiling:.3g}"]
    assert ceiling["y"] == [pytest.approx(law.ceiling, rel=1e-5)]
    assert ceiling["error_y"]["array"] == [pytest.approx(law.ceiling_interval[1] - law.ceiling, rel=1e-4)]
    band, line = data["95 % confidence band"], data[f"R = {-law.a:.4g} e<sup>H</sup> + {law.b:.4g}"]
    half = law.line.half_width(np.array(line["x"]), 0.95)
    assert np.array(line["y"]) == pytest.approx(law.b - law.a * np.array(line["x"]), rel=1e-4)
    assert np.array(band["y"]) - np.array(line["y"]) == pytest.approx(half, rel=1e-3)


def test_points_without_a_law_are_shown_with_the_reason(reported: Reported, tmp_path: Path) -> None:
    for step in (1, 2):
        table(tmp_path / f"m{step}.parquet", "metrics", new_record("update", {}), metrics_of(step))
    page, _ = reported("m1.parquet", "m2.parquet")
    assert "These points carry no law" in page and "2 point(s) of entropy and performance" in page
    assert len(island(page, "figures")["law"]["data"]) == 1


def test_pass_at_k_and_pass_rates_are_those_of_the_counts(reported: Reported, run: Path) -> None:
    page, _ = reported(run / "evals" / "v1.parquet", run / "evals" / "v5.parquet")
    figures = island(page, "figures")
    for version, file in ((0, "v1"), (4, "v5")):
        rows = read_rows(str(run / "evals" / f"{file}.parquet")).rows
        n, c = (np.array(rows[name].to_pylist()) for name in ("n", "c"))
        curves = [trace for trace in figures["passk"]["data"] if trace.get("name") == f"version {version}"]
        assert curves[0]["y"] == pytest.approx(pass_curve(n, c, 4).mean(axis=0).tolist(), rel=1e-5)
        bars = next(trace for trace in figures["rates"]["data"] if trace["name"] == f"version {version}")
        assert (bars["customdata"][0], bars["customdata"][-1]) == ((c == 0).sum(), (c == n).sum())
        assert sum(bars["customdata"]) == 3
    assert "Of 3 problems that both were asked the pass rate rose for" in page


def test_what_was_evaluated_again_counts_once(reported: Reported, run: Path, tmp_path: Path) -> None:
    once = run / "evals" / "v1.parquet"
    page, _ = reported(once)
    rows = read_rows(str(once)).rows
    again = table(tmp_path / "again.parquet", "evals", new_record("eval", {}), rows)
    twice, _ = reported(once, again)
    assert island(twice, "figures")["passk"] == island(page, "figures")["passk"]


def test_evaluations_that_lack_a_newer_column_are_shown(reported: Reported, run: Path, tmp_path: Path) -> None:
    rows = read_rows(str(run / "evals" / "v1.parquet")).rows.drop_columns(["finish_reasons"])
    _, summary = reported(table(tmp_path / "old.parquet", "evals", new_record("eval", {}), rows))
    assert summary["sections"] == ["law", "passk", "rates"]


def test_metrics_alone_are_reported(reported: Reported, run: Path) -> None:
    _, summary = reported(run / "metrics")
    assert (summary["steps"], summary["responses"]) == (5, 0)
    assert summary["sections"] == ["progress", "changes", "law"]


def test_a_section_without_data_says_what_would_bring_it(reported: Reported, scored: Path) -> None:
    page, summary = reported(scored)
    assert summary["sections"] == ["progress", "law", "passk", "rates", "discriminator", "forking"]
    assert summary["missing"]["changes"] == "metrics (`entropyctl update --metrics DIR`)"
    assert "it needs metrics (<code>entropyctl update --metrics DIR</code>)." in page
    assert "<code>entropyctl advantage grpo --only-new ...</code>" in page
    assert "Masked tokens are marked where masks are given too" in page
    assert "Tokens are numbers here; --tokenizer DIR gives their texts." in page


def test_advantages_and_masks_are_laid_over(reported: Reported, cli: Cli, scored: Path) -> None:
    assert cli("advantage", "grpo", scored, "--only-new", "-o", "a.parquet").code == 0
    assert (
        cli(
            "mask", "clip-v", "--mu", "0.1", "--max-frac", "1", scored, "a.parquet", "--only-new", "-o", "m.parquet"
        ).code
        == 0
    )
    page, summary = reported(scored, "a.parquet", "m.parquet")
    assert list(summary["missing"]) == ["changes"]
    names = [trace["name"] for trace in island(page, "figures")["discriminator"]["data"]]
    assert names == ["bounds of S*", "pulls on the weights", "left out by the mask"]
    assert [colour["name"] for colour in island(page, "payload")["colours"]] == [
        *("entropies", "s_star", "centred", "advantages", "weight", "mismatch", "logprobs"),
    ]


def test_the_covariances_are_those_of_forecast(reported: Reported, cli: Cli, scored: Path) -> None:
    assert cli("advantage", "grpo", scored, "--only-new", "-o", "a.parquet").code == 0
    forecast = json.loads(cli("forecast", scored, "a.parquet", "--lr", "1", "--json").out)
    page, _ = reported(scored, "a.parquet")
    drawn = {
        (t["name"].split()[0], t["yaxis"]): dict(zip(t["x"], t["y"], strict=True))
        for t in island(page, "figures")["difficulty"]["data"]
    }
    for step in forecast["steps"]:
        for level in ("hard", "medium", "easy"):
            of = step["difficulty"][level]
            expected = (of["cov_A_centred_S"], of["cov_A_logp"]) if of["tokens_with_advantage"] else (0, 0)
            found = tuple(drawn[level, axis].get(step["step"], 0) for axis in ("y", "y2"))
            assert found == (pytest.approx(expected[0], rel=1e-5), pytest.approx(expected[1], rel=1e-5)), (
                step["step"],
                level,
            )


def test_forking_tokens_are_the_fifth_with_the_largest_entropy(reported: Reported, tmp_path: Path) -> None:
    rows = scored_rows(1, groups=1, samples=2, longest=1).select(["step", "prompt_id", "sample"])
    entropies = [[0.0, 0.1, 0.2, 2.0, 0.3], [0.1, 0.2, 3.0, 0.1, 0.0]]
    tokens = [[5, 6, 5, 7, 8], [5, 6, 7, 5, 9]]
    rows = rows.append_column("tokens", pa.array(tokens, pa.list_(pa.int32())))
    rows = rows.append_column("entropies", pa.array(entropies, pa.list_(pa.float32())))
    page, summary = reported(table(tmp_path / "t.parquet", "rollouts", new_record("rollout", {}), rows))
    assert "20 % of the tokens carry 83.3 % of the entropy" in page  # (2 + 3) / 6
    bars = {trace["name"]: trace for trace in island(page, "figures")["forking"]["data"]}
    assert (sum(bars["all tokens"]["customdata"]), sum(bars["forking tokens"]["customdata"])) == (10, 2)
    assert re.search(r"<tr><td>7</td><td>2</td><td>100 %</td><td>2.5</td></tr>", page)
    assert summary["sections"] == ["progress", "forking"]


def test_of_many_responses_a_stated_part_is_shown(reported: Reported, run: Path) -> None:
    page, summary = reported(run, "--responses", "30")
    payload = island(page, "payload")
    assert summary["responses_shown"] == len(payload["rows"]) <= 30
    assert f"{len(payload['rows'])} of 60 responses, token by token" in page
    reasons = {why for row in payload["rows"] for why in row["why"]}
    assert reasons == {"at random", *payload["extremes"]} - {"mismatch"}
    at_random = [row for row in payload["rows"] if "at random" in row["why"]]
    assert {row["key"][0] for row in at_random} == {1, 2, 3, 4, 5}
    longest = [row["length"] for row in payload["rows"] if "longest" in row["why"]]
    everything = [len(tokens) for step in range(1, 6) for tokens in masked_rows(step)["tokens"].to_pylist()]
    assert longest == [max(everything)]
    page, none = reported(run, "--responses", "0")
    assert none["responses_shown"] == 0 and island(page, "payload") is None
    assert "Nothing to show: it needs <code>--responses N</code>." in page


def test_what_update_read_is_taken_among_masks_of_the_same_rows(cli: Cli, scored: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "metrics").mkdir(parents=True)
    assert cli("advantage", "grpo", scored, "-o", "run/advantaged.parquet").code == 0
    for mask in ("clip-v", "none", "clip-b"):
        assert cli("mask", mask, "run/advantaged.parquet", "--only-new", "-o", f"run/{mask}.parquet").code == 0
    scored.rename(run / "scored.parquet")
    read = read_rows(str(run / "none.parquet"))
    table(run / "metrics" / "step-1.parquet", "metrics", new_record("update", {}), metrics_of(1), read.header.chain)
    write_scored(run / "elsewhere.parquet", scored_rows(1))
    found = find([str(run)])
    assert [[Path(path).name for path in paths] for paths in found.responses] == [
        ["scored.parquet", "advantaged.parquet", "none.parquet"]
    ]
    assert found.rows == 24
    assert "clip-b.parquet left out: none.parquet holds other" in "\n".join(found.notes)
    assert "not of a step in metrics/, left out: elsewhere.parquet" in found.notes
    ran = cli("report", "run", "-o", "page.html")
    assert ran.code == 0 and "clip-b.parquet left out" in (tmp_path / "page.html").read_text(), ran


def test_shards_are_one_table(cli: Cli, tmp_path: Path) -> None:
    shards = tmp_path / "run" / "step-000001" / "scored"
    shards.mkdir(parents=True)
    rows = scored_rows(1)
    write_scored(shards / "shard-00000-of-00002.parquet", rows.slice(0, 8))
    write_scored(shards / "shard-00001-of-00002.parquet", rows.slice(8))
    ran = cli("report", "run", "-o", "page.html", "--json")
    assert ran.code == 0 and json.loads(ran.out)["responses"] == 12, ran


def test_tables_that_hold_the_same_steps_apart_are_no_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    for name in ("a", "b"):
        write_scored(tmp_path / "run" / f"{name}.parquet", scored_rows(1))
    ran = cli("report", "run", "-o", "page.html")
    assert ran.code == 3 and "run/b.parquet: has a step 1, as another table has; name those of one run" in ran.line, ran


def test_the_page_is_no_stream(cli: Cli, scored: Path, tmp_path: Path) -> None:
    ran = cli("report", scored, "-o", "-")
    assert ran.code == 2 and ran.line == "entropyctl report: -o -: a report is a file; name one, such as report.html"
    assert not (tmp_path / "-").exists()


def test_a_stream_is_reported(cli: Cli, scored: Path) -> None:
    stream = cli("mask", "none", scored, "-q").out
    ran = cli("report", "-", "-o", "page.html", "--json", stdin=stream)
    assert ran.code == 0 and json.loads(ran.out)["responses"] == 24, ran


def test_the_tokenizer_must_be_the_one_that_sampled(cli: Cli, scored: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    make_tokenizer(tmp_path / "other")
    ran = cli("report", scored, "--tokenizer", "other", "-o", "page.html")
    assert ran.code == 5 and "other: is not the tokenizer that sampled these responses" in ran.line, ran
    ran = cli("report", scored, "--tokenizer", "other", "--allow-mismatch", "tokenizer", "-o", "page.html")
    assert ran.code == 0, ran


def test_rows_without_numbers_and_null_rows_are_no_fault(reported: Reported, tmp_path: Path) -> None:
    rows = scored_rows(1, groups=1, samples=3)
    for name in ("logprobs", "s_star"):
        values = rows[name].to_pylist()
        values[1] = None
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.list_(pa.float32())))
    page, _ = reported(
        table(tmp_path / "t.parquet", "scored", new_record("score", {}), rows.drop_columns(["loss_mask"]))
    )
    payload = island(page, "payload")
    assert len(payload["rows"]) == 3
    unknown = np.frombuffer(base64.b64decode(payload["rows"][1]["numbers"]["s_star"]), "<u2")
    assert (unknown == 65_535).all()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["-o", "p.html"], 2, "no input; name the directory of a run, or its tables"),
        (["scored.parquet"], 2, "-o is missing"),
        (["nowhere", "-o", "p.html"], 3, "nowhere: no such file"),
        (["run", "run2", "-o", "p.html"], 3, "run + run2: are several runs; a report is of one"),
        (["laws.parquet", "-o", "p.html"], 3, "laws.parquet: is a table of laws"),
        (["scored.parquet", "-o", "no/p.html"], 6, "no/p.html: cannot be written"),
        (["scored.parquet", "--tokenizer", "no", "-o", "p.html"], 3, "no: holds no tokenizer.json"),
    ],
)
def test_what_cannot_be_reported(
    cli: Cli, scored: Path, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    table(tmp_path / "laws.parquet", "laws", new_record("fit-law", {}), pa.table({"a": [1.0]}))
    for name in ("run", "run2"):
        (tmp_path / name / "metrics").mkdir(parents=True)
    ran = cli("report", *args)
    assert ran.code == code and words in ran.line, ran
    assert not (tmp_path / "p.html").exists()


def test_without_the_library_it_says_what_to_install(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "plotly" else real(name, *more)
    )
    assert registry.load_module("stages", "report").run([str(scored), "-o", "p.html"]) == 2
    assert "needs plotly, which is not installed; run pip install 'entropyctl[report]'" in capsys.readouterr().err


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_s_star_lies_within_its_bounds_for_every_distribution(vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, vocabulary)) * rng.choice([0.0, 0.5, 3.0, 20.0])
    for token in range(vocabulary):
        found = token_statistics(logits, np.array([token]))
        low, high = s_star_bounds(np.exp(found.logprobs), vocabulary)
        assert high is not None
        assert low[0] - 1e-12 <= found.s_star[0] <= high[0] + 1e-12


def test_the_bounds_are_reached() -> None:
    two = token_statistics(np.log([[0.3, 0.7]]), np.array([0]))
    flat = token_statistics(np.log([[0.3, 0.35, 0.35]]), np.array([0]))
    low, high = s_star_bounds(np.array([0.3, 0.0, 1.0]), 3)
    assert (low[0], high[0]) == (pytest.approx(two.s_star[0]), pytest.approx(flat.s_star[0]))
    assert low[1:].tolist() == high[1:].tolist() == [0.0, 0.0]


def test_strata_keep_so_many_of_each_and_every_entry_alike() -> None:
    kept = np.zeros(1000)
    for seed in range(200):
        strata = Strata(2, 10, width=1)
        for part in range(4):
            places = np.arange(250 * part, 250 * (part + 1), dtype=np.float32)
            strata.add(1000 * seed + part, np.where(places < 900, 0, 1), (places,))
        assert np.bincount(strata.stratum).tolist() == [10, 10]
        kept[strata.values[:, 0].astype(int)] += 1
    # 200 draws of 10 from 900: 2.2 each, 5.5 for each of the five parts' entries together; five standard errors.
    parts = kept[:900].reshape(9, 100).sum(axis=1)
    assert abs(parts - 2000 / 9).max() < 5 * (2000 / 9 * 8 / 9) ** 0.5
    assert kept[900:].sum() == 2000


def test_entries_that_are_in_no_stratum_are_left_out() -> None:
    strata = Strata(1, 5, width=1)
    strata.add(0, np.array([-1, 0, -1]), (np.array([1.0, 2.0, 3.0], np.float32),))
    assert strata.values.tolist() == [[2.0]]


def test_a_fair_draw_has_as_many_of_each_stratum_as_there_are() -> None:
    fair = Fair(10)
    for step in range(5):
        fair.add(step, np.array([0] * 50 + [1]), lambda i, step=step: (step, i))
    found = [kept for _, kept in fair.kept]
    assert len(found) == 10
    assert {(step, i == 50) for step, i in found} == {(step, rare) for step in range(5) for rare in (False, True)}


def test_of_more_strata_than_room_each_has_a_chance() -> None:
    seen: set[int] = set()
    for seed in range(30):
        fair = Fair(3)
        for step in range(6):
            fair.add(100 * seed + step, np.zeros(4, int), lambda i, step=step: step)
        steps = [step for _, step in fair.kept]
        assert len(set(steps)) == 3
        seen.update(steps)
    assert seen == set(range(6))


def test_the_largest_are_kept_and_what_is_unknown_is_not() -> None:
    largest = Largest(2)
    largest.add(np.array([1.0, np.nan, 3.0]), lambda i: f"a{i}")
    largest.add(np.array([3.0, 2.0]), lambda i: f"b{i}")
    assert largest.kept == [(3.0, "a2"), (3.0, "b0")]


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=300))
def test_all_tokens_together_fit_into_the_page(lengths: list[int]) -> None:
    longest = _longest(lengths)
    assert sum(min(length, longest) for length in lengths) <= MOST_TOKENS
    assert sum(min(length, longest + 1) for length in lengths) > MOST_TOKENS or longest == 8_192


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=50))
def test_numbers_come_back_to_half_a_step_of_their_range(values: list[float]) -> None:
    given = np.array([*values, np.nan], np.float32)
    low, high = float(np.nanmin(given)), float(np.nanmax(given))
    places = _quantised(given, low, high).astype(np.float64)
    assert places[-1] == 65_535
    back = low + places[:-1] / 65_534 * (high - low)
    assert np.abs(back - given[:-1]).max() <= (high - low) / 65_534 / 2 + 1e-9


def test_of_many_steps_the_running_mean_is_drawn_and_gaps_stay_out_of_it() -> None:
    values = np.arange(100.0)
    values[50] = np.nan
    single, mean = course("entropy", range(100), values, color="@blue", hover="")
    assert (single["y"][50], single["y"][51]) == (None, 51.0)
    assert mean["y"][0] == 2.5 and mean["y"][40] == 40.0 and mean["y"][48] == pytest.approx(473 / 10 + 0.5, abs=1)
    assert mean["name"] == "entropy, mean of 11 steps"
    assert len(course("entropy", range(5), values[: MANY - 1], color="@blue", hover="")) == 1
