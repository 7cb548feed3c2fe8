"""Entropy-control masks: equal to their authors' code, one contract for all of them, and how they compose."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pyarrow as pa
import pytest

from entropyctl import registry
from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.masks import Compiled, MaskSummary, apply_mask, clip_b, clip_v, none, quadrant
from entropyctl.methods import parameter_docs
from entropyctl.table import read
from entropyctl.table.columns import list_column

from .conftest import ROOT, Cli, write_scored

PEERS = json.loads((ROOT / "tests" / "golden" / "peers.json").read_text())
FIXTURE = PEERS["fixture"]
LENGTHS = np.array([len(row) for row in FIXTURE["tokens"]])


def flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.array(row) for row in rows])


def fixture_table() -> pa.Table:
    """The peers' fixture as a step of a scored table."""
    groups = FIXTURE["group"]
    samples = [groups[:i].count(group) for i, group in enumerate(groups)]
    rows = {
        "step": pa.array([1] * len(LENGTHS), pa.int64()),
        "prompt_id": FIXTURE["group"],
        "sample": pa.array(samples, pa.int32()),
        "tokens": list_column(flat(FIXTURE["tokens"]), LENGTHS, pa.int32()),
        "loss_mask": list_column(np.ones(LENGTHS.sum(), bool), LENGTHS, pa.bool_()),
        "reward": pa.array(FIXTURE["reward"], pa.float32()),
        "outcome": ["correct" if r > 0.5 else "wrong" for r in FIXTURE["reward"]],
    }
    for name in ("logprobs", "entropies", "s_star", "expected_s", "sum_p2"):
        rows[name] = list_column(flat(FIXTURE[name]), LENGTHS, pa.float32())
    return pa.table(rows)


GRPO = flat(next(case for case in PEERS["cases"] if case["method"] == "advantage/grpo")["advantages"])
CASES = [case for case in PEERS["cases"] if case["method"] in ("mask/clip-b", "mask/clip-v")]
CASE_IDS = [f"{case['method']} {case['params']}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_the_clips_decide_as_their_authors_code_does(case: dict[str, Any]) -> None:
    valid = np.ones(LENGTHS.sum(), bool)
    s_star, expected_s = (flat(FIXTURE[name]).astype(np.float32) for name in ("s_star", "expected_s"))
    if case["method"] == "mask/clip-b":
        compiled = clip_b(s_star, GRPO, valid, **case["params"])
    else:
        compiled = clip_v(s_star, expected_s, GRPO, valid, **case["params"])
    assert compiled.weights is None  # the authors shrink the denominator
    assert np.array_equal(compiled.loss_mask, flat(case["weights"]) == 1)


@pytest.fixture(scope="module")
def advantaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("peers")
    write_scored(directory / "scored.parquet", fixture_table())
    return directory


def test_the_commands_give_the_peers_numbers(cli: Cli, advantaged: Path) -> None:
    assert cli("advantage", "grpo", "scored.parquet", "-o", "adv.parquet", cwd=advantaged).code == 0
    with read([str(advantaged / "adv.parquet")]) as source:
        found = flat(next(iter(source)).rows["advantages"].to_pylist())
    assert np.abs(found - GRPO).max() < 1e-6
    ran = cli("advantage", "grpo", "--no-std", "scored.parquet", "-o", "dr.parquet", cwd=advantaged)
    dr_grpo = next(case for case in PEERS["cases"] if case["method"] == "advantage/dr-grpo")
    with read([str(advantaged / "dr.parquet")]) as source:
        found = flat(next(iter(source)).rows["advantages"].to_pylist())
    assert np.abs(found - flat(dr_grpo["advantages"])).max() < 1e-6
    chosen = [CASES[0], CASES[1], *(case for case in CASES if case["params"].get("max_frac") in (0.05, 0.0001))]
    for case in chosen:
        flags = [word for key, value in case["params"].items() for word in (f"--{key.replace('_', '-')}", value)]
        name = case["method"].removeprefix("mask/")
        ran = cli("mask", name, "adv.parquet", *map(str, flags), "-o", "out.parquet", "--json", cwd=advantaged)
        assert ran.code == 0, ran
        with read([str(advantaged / "out.parquet")]) as source:
            mask = flat(next(iter(source)).rows["loss_mask"].to_pylist()).astype(bool)
        assert np.array_equal(mask, flat(case["weights"]) == 1), case["params"]
        assert json.loads(ran.text)["masked_fraction"] == pytest.approx((~mask).mean())


# One contract for every mask, other packages' included.

NAMES = registry.names("masks")
COUNT = 1000


def columns(seed: int = 0, count: int = COUNT) -> dict[str, np.ndarray]:
    """Every per-token column, with a few tokens so far out that any clip takes one of them."""
    rng = np.random.default_rng(seed)
    logprobs = -rng.exponential(0.5, count)
    entropies = rng.uniform(0.1, 2.0, count)
    expected_s = rng.uniform(0, 0.05, count)
    s_star = expected_s + rng.normal(0, 1e-3, count)
    out = rng.permutation(count)[: min(12, count)]
    s_star[out] += np.where(np.arange(len(out)) % 2, 0.4, -0.4) + rng.normal(0, 0.01, len(out))
    return {
        "logprobs": logprobs,
        "entropies": entropies,
        "s_star": s_star,
        "expected_s": expected_s,
        "sum_p2": rng.uniform(0, 1, count),
        "rollout_logprobs": logprobs + rng.normal(0, 0.01, count),
        "ref_logprobs": logprobs + rng.normal(0, 0.1, count),
        "advantages": rng.choice([-1.0, -0.5, 0.5, 1.0, 0.0], count, p=[0.3, 0.3, 0.15, 0.15, 0.1]),
        "loss_mask": rng.random(count) > 0.05,
        "row_of_token": np.sort(rng.integers(0, 20, count)),
    }


def run(name: str, data: dict[str, np.ndarray], **params: Any) -> Compiled:
    function = registry.load_function("masks", name)
    return function(*(data[column] for column in registry.columns_of(function)), **params)


def same(a: Compiled, b: Compiled) -> bool:
    return all(np.array_equal(x, y) if x is not None and y is not None else x is y for x, y in zip(a, b, strict=True))


def keywords(name: str) -> dict[str, inspect.Parameter]:
    function = registry.load_function("masks", name)
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_documented(name: str) -> None:
    function: Callable[..., Any] = registry.load_function("masks", name)
    doc = inspect.getdoc(function) or ""
    described = parameter_docs(doc)
    assert set(described) == set(inspect.signature(function).parameters)
    assert doc.partition("\n")[0] == registry.summary("masks", name).partition(" (")[0].rstrip(".") + "."
    assert "w_t" in doc or "keep_t" in doc, "the formula"
    assert name == "none" or re.search(r"arXiv \d{4}\.\d{5}", doc), "the source"
    for parameter in keywords(name).values():
        assert parameter.default is not parameter.empty, parameter
        assert parameter.annotation is not parameter.empty, parameter


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_pure(name: str) -> None:
    data = columns()
    before = {key: value.copy() for key, value in data.items()}
    for array in data.values():
        array.setflags(write=False)
    first, second = run(name, data), run(name, data)
    assert same(first, second)
    assert all(np.array_equal(before[key], data[key]) for key in data)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_does_not_depend_on_the_order_of_rows(name: str) -> None:
    data = columns()
    order = np.random.default_rng(1).permutation(COUNT)
    if "row_of_token" in registry.columns_of(registry.load_function("masks", name)):
        order = np.concatenate([np.flatnonzero(data["row_of_token"] == row) for row in range(20)[::-1]])
    found = run(name, {key: value[order] for key, value in data.items()})
    assert same(found, Compiled(*(None if part is None else part[order] for part in run(name, data))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["no token", "one token", "nothing counted", "all alike"])
def test_a_mask_gives_no_nan(name: str, kind: str) -> None:
    data = columns(count={"no token": 0, "one token": 1}.get(kind, COUNT))
    if kind == "nothing counted":
        data["loss_mask"] = np.zeros(COUNT, bool)
    if kind == "all alike":
        data |= {
            key: np.full(COUNT, data[key][0]) for key in ("s_star", "expected_s", "entropies", "logprobs", "advantages")
        }
    for part in run(name, data):
        assert part is None or (len(part) == len(data["loss_mask"]) and np.isfinite(part).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_adds_nobody_to_the_denominator(name: str) -> None:
    data = columns()
    compiled = run(name, data)
    if compiled.loss_mask is not None:
        assert not (compiled.loss_mask & ~data["loss_mask"]).any()


TEXTS = {("quadrant", "keep"): ["pos-high", "neg-low,pos-low", ""]}


def alternatives(name: str, parameter: inspect.Parameter) -> Iterator[Any]:
    """Other values that a keyword may have."""
    kinds = [k for k in (get_args(parameter.annotation) or (parameter.annotation,)) if k is not type(None)]
    literal = [value for k in [parameter.annotation, *kinds] if get_origin(k) is Literal for value in get_args(k)]
    if literal:
        yield from literal
    elif parameter.annotation is bool:
        yield not parameter.default
    elif str in kinds or parameter.annotation is str:
        yield from TEXTS[name, parameter.name]
    else:
        yield from (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)


MATTERS = [(name, keyword) for name in NAMES for keyword in keywords(name)]


@pytest.mark.parametrize(("name", "keyword"), MATTERS)
def test_every_keyword_of_a_mask_matters(name: str, keyword: str) -> None:
    data, known = columns(), keywords(name)
    choices = [
        [(other, value) for value in (p.default, *alternatives(name, p))]
        for other, p in known.items()
        if other != keyword and get_origin(p.annotation) is not None and p.annotation is not bool
        if any(get_origin(k) is Literal for k in (p.annotation, *get_args(p.annotation)))
    ]
    for settings in itertools.product(*choices):
        plain = run(name, data, **dict(settings))
        for value in alternatives(name, known[keyword]):
            if not same(plain, run(name, data, **dict(settings), **{keyword: value})):
                return
    pytest.fail(f"--{keyword} of {name} changes nothing")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    ("name", "keyword"),
    [(n, k) for n in NAMES for k, p in keywords(n).items() if p.annotation in (float, float | None)],
)
def test_a_bad_number_is_named_by_its_flag(name: str, keyword: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^--{keyword.replace('_', '-')} {value:g}: must "):
        run(name, columns(), **{keyword: value})


@pytest.mark.parametrize("value", [-0.001, 1.001])
def test_the_cap_is_a_fraction(value: float) -> None:
    with pytest.raises(UsageError, match=f"--max-frac {value}: must lie in"):
        run("clip-v", columns(), max_frac=value)


# What each does, in small numbers.


def test_clip_b_in_small_numbers() -> None:
    s_star = np.array([0.0, 0.0, 0.0, -1.0, -1.0, 1.0, 9.0])
    advantages = np.array([1.0, -1.0, 0.0, -1.0, 1.0, -1.0, -1.0])
    valid = np.array([True] * 6 + [False])  # mean -1/6, deviation 0.687 over the first six
    assert clip_b(s_star, advantages, valid, mu=1.0).loss_mask.tolist() == [True, True, True, False, True, True, False]
    paper = clip_b(s_star, advantages, valid, mu=1.0, variant="paper")
    assert paper.loss_mask is None
    assert paper.weights.tolist() == [1, 1, 1, 0, 0, 0, 1]
    high = clip_b(s_star, advantages, valid, mu=1.0, mu_high=2.0, variant="paper")
    assert high.weights.tolist() == [1, 1, 1, 0, 0, 1, 1]


def test_a_token_on_the_boundary_is_kept() -> None:
    valid = np.ones(4, bool)
    assert clip_b(np.array([-1.0, 1, -1, 1]), -np.ones(4), valid, mu=1.0).loss_mask.all()
    assert not clip_b(np.array([-1.0, 1, -1, 1]), -np.ones(4), valid, mu=0.999).loss_mask.all()


def test_clip_v_is_not_centred_again_and_tests_zero_advantages() -> None:
    s_star, expected = np.full(6, 0.1), np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.6])
    valid = np.ones(6, bool)
    advantages = np.array([-1.0, 1.0, 0.0, -1.0, 0.0, -1.0])
    mask = clip_v(s_star, expected, advantages, valid, mu=1.0, max_frac=1.0).loss_mask
    assert mask.tolist() == [True, True, True, True, False, False]
    assert clip_v(s_star, expected, np.ones(6), valid, mu=1.0, max_frac=1.0).loss_mask.all()  # A > 0 is spared


def test_the_cap_keeps_the_worst_and_spares_no_zero_advantage() -> None:
    centred = np.array([0.0] * 90 + [-1.0, -1.1, -1.2, -1.3, -1.4, -1.5, -1.6, -1.7, -1.8, -1.9])
    advantages = np.array([-1.0] * 90 + [0.0, 0.0] + [-1.0] * 8)
    mask = clip_v(centred, np.zeros(100), advantages, np.ones(100, bool), mu=1.0, max_frac=0.03).loss_mask
    assert np.flatnonzero(~mask).tolist() == [90, 91, 97, 98, 99]
    mask = clip_v(centred, np.zeros(100), advantages, np.ones(100, bool), mu=1.0, max_frac=1e-4).loss_mask
    assert np.flatnonzero(~mask).tolist() == [90, 91, 99]  # at least one


def test_quadrants() -> None:
    s_star, expected = np.array([2.0, 0.5, 2.0, 0.5, 1.0, 2.0]), np.ones(6)
    advantages = np.array([1.0, 1.0, -1.0, -1.0, 1.0, 0.0])
    valid = np.ones(6, bool)

    def kept(**params: Any) -> list[float]:
        return quadrant(s_star, expected, advantages, valid, **params).weights.tolist()

    assert kept() == [0, 1, 1, 0, 1, 1]  # the two that raise the entropy, and tokens of no quadrant
    assert kept(keep="pos-high") == [1, 0, 0, 0, 1, 1]
    assert kept(keep="neg-low , pos-low") == [0, 1, 0, 1, 1, 1]
    assert kept(keep="") == [0, 0, 0, 0, 1, 1]
    assert kept(keep="pos-low", score="s-star") == [0, 0, 0, 0, 0, 1]  # S* itself is positive everywhere
    trinity = quadrant(s_star, expected, advantages, valid, variant="trinity")
    assert trinity.weights is None and trinity.loss_mask.tolist() == [False, True, True, False, True, True]
    with pytest.raises(UsageError, match="there is no quadrant 'up'; known: pos-high, pos-low, neg-high, neg-low"):
        kept(keep="up")


# On the rows of a table.


def small(**extra: list[list[Any]]) -> pa.Table:
    """Three rows of 2, 0 and 3 tokens."""
    rows = {
        "tokens": [[1, 2], [], [3, 4, 5]],
        "loss_mask": [[True, True], [], [True, False, True]],
        "s_star": [[0.5, -0.5], [], [0.25, 0.0, -0.25]],
        "expected_s": [[0.0, 0.0], [], [0.0, 0.0, 0.0]],
        "advantages": [[1.0, 1.0], [], [-1.0, 0.0, -1.0]],
    } | extra
    return pa.table(
        {k: pa.array(v, pa.list_(pa.bool_() if k == "loss_mask" else pa.float32())) for k, v in rows.items()}
    )


def fixed(weights: list[float] | None = None, kl: list[float] | None = None, keep: list[bool] | None = None) -> Any:
    def method(loss_mask: np.ndarray) -> Compiled:
        return Compiled(*(None if part is None else np.array(part) for part in (weights, kl, keep)))

    return method


def test_masks_compose() -> None:
    rows = apply_mask(small(), fixed(weights=[0.5, 1, 2, 1, 1], kl=[0.1, 0, 0, 0, 0]), {})
    assert rows["loss_mask"].to_pylist() == [[True, True], [], [True, False, True]]
    rows = apply_mask(rows, fixed(weights=[0.5, 0, 1, 1, 3], keep=[True, True, True, True, False]), {})
    rows = apply_mask(rows, fixed(kl=[0.2, 0.3, 0, 0, 0], keep=[False, True, True, True, True]), {})
    assert rows["weights"].to_pylist() == [[0.25, 0.0], [], [2.0, 1.0, 3.0]]
    assert rows["kl_coefs"].to_pylist() == [pytest.approx([0.3, 0.3]), [], [0.0, 0.0, 0.0]]
    assert rows["loss_mask"].to_pylist() == [[False, True], [], [True, False, False]]


def test_a_mask_never_brings_a_token_back() -> None:
    rows = apply_mask(small(), fixed(keep=[True] * 5), {})
    assert rows["loss_mask"].to_pylist()[2] == [True, False, True]


def test_what_the_summary_says() -> None:
    summary = MaskSummary()
    rows = apply_mask(small(), fixed(weights=[0, 1, 1, 1, 0.5]), {}, summary)
    apply_mask(
        rows, fixed(weights=[1, 1, 1, 1, 2], keep=[False, True, False, True, True]), {}, (second := MaskSummary())
    )
    assert summary.as_dict() == {
        "tokens": 4,
        "masked_fraction": 0.25,
        "masked_fraction_positive": 0.5,
        "masked_fraction_negative": 0.0,
        # -A (S* - E[S]): -0.5, 0.5, 0.25 and -0.25 of the tokens that count
        "predicted_change_before": 0.0,
        "predicted_change_after": pytest.approx((0.5 + 0.25 - 0.125) / 4),
    }
    # The second starts from what the first left: three tokens that pull, of which it removes one, and their weights.
    assert second.as_dict() == {
        "tokens": 4,
        "masked_fraction": pytest.approx(1 / 3),
        "masked_fraction_positive": 0.0,
        "masked_fraction_negative": 0.5,
        "predicted_change_before": pytest.approx((0.5 + 0.25 - 0.125) / 4),
        "predicted_change_after": pytest.approx((0.5 - 0.25) / 4),
    }


def test_without_advantages_the_summary_says_less() -> None:
    summary = MaskSummary()
    apply_mask(small().drop_columns(["advantages"]), none, {}, summary)
    assert summary.as_dict() == {"tokens": 4, "masked_fraction": 0.0}
    apply_mask(small(s_star=[[0.5, -0.5], None, [0.25, 0.0, -0.25]]), none, {}, MaskSummary())


def test_a_weight_that_was_not_computed_counts_as_one() -> None:
    rows = apply_mask(small(weights=[None, [], [2.0, 2.0, 2.0]]), fixed(weights=[0.5] * 5), {})
    assert rows["weights"].to_pylist() == [[0.5, 0.5], [], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fixed(weights=[1.0]), "returned weights of shape \\(1,\\) for 5 tokens"),
        (fixed(weights=[float("nan")] * 5), "a weight that is not finite"),
    ],
)
def test_a_method_that_returns_nonsense_is_named(function: Any, words: str) -> None:
    with pytest.raises(EntropyctlError, match=f"mask method: .*{words}"):
        apply_mask(small(), function, {})


def test_a_mask_works_on_a_scored_table_where_it_needs_no_advantages(cli: Cli, scored: Path) -> None:
    ran = cli("mask", "none", "scored.parquet", "-o", "out.parquet")
    assert (ran.code, "masked_fraction_positive" in ran.err) == (0, False), ran
