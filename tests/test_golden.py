"""The numbers of the authors' own code, by running the commands on Parquet made from their fixtures.

`peers.json` is a fixture of 16 responses, `entropy_small.json` one of 4 over a vocabulary of 5. A loss is computed by
`entropyctl objective`, which has the loss of `update` without a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from entropyctl import cli as program
from entropyctl.table import read
from entropyctl.table.columns import list_column, with_column

from .conftest import ROOT, write_scored

pytest.importorskip("torch")
GOLDEN = ROOT / "tests" / "golden"
PEERS = json.loads((GOLDEN / "peers.json").read_text())
SMALL = json.loads((GOLDEN / "entropy_small.json").read_text())
TOLERANCE = 1e-6
ROUNDED = 1.5e-6  # the small fixture's numbers have six decimals, inputs and results

Rows = list[list[Any]]


def run(*words: object) -> dict[str, Any]:
    """Run the command in this process, and give back its summary."""
    with pytest.raises(SystemExit) as ended:
        program.main([str(word) for word in words])
    assert ended.value.code in (0, None), words
    return {}


def table(rows: dict[str, Rows], groups: list[Any], rewards: list[float], mask: Rows | None = None) -> pa.Table:
    """A step of a scored table out of ragged per-token rows."""
    lengths = np.array([len(row) for row in rows["logprobs"]])

    def column(values: Rows, kind: pa.DataType) -> pa.Array:
        return list_column(np.concatenate([np.asarray(row) for row in values]), lengths, kind)

    columns = {
        "step": pa.array([1] * len(groups), pa.int64()),
        "prompt_id": [str(group) for group in groups],
        "sample": pa.array([groups[:i].count(group) for i, group in enumerate(groups)], pa.int32()),
        "tokens": column(rows.get("tokens", rows["logprobs"]), pa.int32()),
        "loss_mask": column(mask or [[True] * n for n in lengths], pa.bool_()),
        "reward": pa.array(rewards, pa.float32()),
        "outcome": ["correct" if r == 1 else "wrong" for r in rewards],
    }
    columns |= {name: column(values, pa.float32()) for name, values in rows.items() if name != "tokens"}
    return pa.table(columns)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`on.parquet` as the old policy scored it, `off.parquet` as the new one did, both with GRPO's advantages."""
    directory, fixture = tmp_path_factory.mktemp("peers"), PEERS["fixture"]
    names = ("tokens", "logprobs", "entropies", "s_star", "expected_s", "sum_p2", "values")
    rows = table({name: fixture[name] for name in names}, fixture["group"], fixture["reward"])
    write_scored(directory / "scored.parquet", rows)
    lengths = np.array([len(row) for row in fixture["tokens"]])
    for name, new in (("logprobs", "new_logprobs"), ("entropies", "new_entropies")):
        rows = with_column(rows, f"old_{name}", rows[name])
        rows = with_column(rows, name, list_column(np.concatenate(fixture[new]), lengths, pa.float32()))
    write_scored(directory / "rescored.parquet", rows)
    run("advantage", "grpo", directory / "scored.parquet", "-o", directory / "on.parquet", "-q")
    run("advantage", "grpo", directory / "rescored.parquet", "-o", directory / "off.parquet", "-q")
    return directory


def column_of(path: Path, name: str) -> np.ndarray:
    with read([str(path)]) as source:
        return np.concatenate([np.asarray(row, float) for row in next(iter(source)).rows[name].to_pylist()])


def close(found: np.ndarray, expected: Rows, tolerance: float = TOLERANCE) -> None:
    wanted = np.concatenate([np.asarray(row, float) for row in expected])
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(found - wanted).max() <= tolerance * scale


def flags(params: dict[str, Any], names: dict[str, str] | None = None) -> list[str]:
    """`{"clip_low": 0.2}` as `--clip-low=0.2`; `names` gives the flags whose name is another here."""
    words = []
    for key, value in params.items():
        flag = (names or {}).get(key, key).replace("_", "-")
        words.append(f"--{flag}={value}")
    return words


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [f"{case['method']} {' '.join(map(str, case['params'].values()))}" for case in cases]


ALL = PEERS["cases"]
ADVANTAGES = [c for c in ALL if c["method"].startswith("advantage/") and "pass@k" not in c["method"]]
PASS_AT_K = [c for c in ALL if c["method"] == "advantage/pass@k-analytic"]
MASKS = [c for c in ALL if c["method"].startswith("mask/")]
COVARIANCE = [c for c in ALL if c["method"] in ("loss/kl-cov", "loss/clip-cov")]
LOSSES = [c for c in ALL if c["method"].startswith("loss/") and c not in COVARIANCE]
KL = [c for c in ALL if c["method"].startswith("kl/")]


def test_every_case_is_run_by_a_test_below() -> None:
    assert len(ADVANTAGES + PASS_AT_K + MASKS + COVARIANCE + LOSSES + KL) == len(ALL) == 62


@pytest.mark.parametrize("case", ADVANTAGES, ids=ids(ADVANTAGES))
def test_estimators(case: dict[str, Any], peers: Path) -> None:
    name = case["method"].removeprefix("advantage/")
    words = flags({k: v for k, v in case["params"].items() if k in ("gamma", "lam")})
    run("advantage", name, *words, peers / "scored.parquet", "-o", peers / "out.parquet", "-q")
    close(column_of(peers / "out.parquet", "advantages"), case["advantages"])
    if "returns" in case:
        close(column_of(peers / "out.parquet", "returns"), case["returns"])


@pytest.mark.parametrize("case", PASS_AT_K, ids=[f"{c['rewards']} k={c['params']['k']}" for c in PASS_AT_K])
def test_pass_at_k(case: dict[str, Any], tmp_path: Path) -> None:
    rewards = case["rewards"]
    rows = table({"logprobs": [[-1.0, -2.0]] * len(rewards)}, ["p"] * len(rewards), rewards)
    write_scored(tmp_path / "in.parquet", rows)
    k = case["params"]["k"]
    run("advantage", "pass@k", f"--k={k}", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "-q")
    close(column_of(tmp_path / "out.parquet", "advantages"), [[a, a] for a in case["advantages"]])


@pytest.mark.parametrize("case", MASKS, ids=ids(MASKS))
def test_masks(case: dict[str, Any], peers: Path) -> None:
    name = case["method"].removeprefix("mask/")
    source = "off" if case["params"].get("policy") == "off-policy" else "on"
    words = flags({k: v for k, v in case["params"].items() if k != "policy"})
    run("mask", name, *words, peers / f"{source}.parquet", "-o", peers / "out.parquet", "-q")
    if name == "steer":
        close(column_of(peers / "out.parquet", "weights"), case["weights"])
    else:
        assert np.array_equal(column_of(peers / "out.parquet", "loss_mask"), np.concatenate(case["weights"]) == 1)


def check_loss(path: Path, case: dict[str, Any]) -> None:
    loss = column_of(path, "loss_terms").sum()
    assert abs(loss - case["loss"]) <= 2 * TOLERANCE * max(1.0, abs(case["loss"]))
    close(column_of(path, "loss_gradients"), case["grad"])


@pytest.mark.parametrize("case", LOSSES, ids=[f"{c['method']} {c['aggregation']} {c['params']}" for c in LOSSES])
def test_objectives(case: dict[str, Any], peers: Path) -> None:
    name = case["method"].removeprefix("loss/")
    words = [*flags(case["params"]), f"--reduction={case['aggregation']}"]
    run("objective", name, *words, peers / "off.parquet", "-o", peers / "out.parquet", "-q")
    check_loss(peers / "out.parquet", case)


@pytest.mark.parametrize("case", COVARIANCE, ids=ids(COVARIANCE))
def test_covariance_methods_are_a_mask_and_a_loss(case: dict[str, Any], peers: Path) -> None:
    mask, out = peers / "mask.parquet", peers / "out.parquet"
    if case["method"] == "loss/kl-cov":
        words = flags(case["params"], {"kl_coef": "coef"})
        run("mask", "kl-cov", *words, peers / "off.parquet", "-o", mask, "-q")
        run("objective", "reinforce", "--ratio", "--kl=abs", mask, "-o", out, "-q")
    else:
        words = flags(case["params"], {"cov_low": "lower", "cov_high": "upper"})
        run("mask", "clip-cov", *words, peers / "off.parquet", "-o", mask, "-q")
        run("objective", "ppo", "--clip-low=1", "--clip-high=1", "--dual-clip=inf", mask, "-o", out, "-q")
    check_loss(out, case)


@pytest.mark.parametrize("case", KL, ids=[c["method"] for c in KL])
def test_kl_estimators(case: dict[str, Any], peers: Path, tmp_path: Path) -> None:
    """A coefficient of 1 on tokens without an advantage leaves the penalty alone."""
    with read([str(peers / "rescored.parquet")]) as source:
        rows = next(iter(source)).rows
    zero = list_column(np.zeros(431), np.array([len(r) for r in case["values"]]), pa.float32())
    write_scored(tmp_path / "in.parquet", rows.append_column("advantages", zero))
    kind = case["method"].removeprefix("kl/")
    words = ("--kl", kind, "--kl-coef=1", "--reduction=token-sum")
    run("objective", "reinforce", *words, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "-q")
    close(column_of(tmp_path / "out.parquet", "loss_terms"), case["values"])


# The small fixture, whose padding is a loss mask.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    mask = [[bool(x) for x in row] for row in SMALL["mask"]]
    old = {"tokens": SMALL["tok"], "logprobs": SMALL["logp_old"], "entropies": SMALL["H_old"]}
    old |= {"s_star": SMALL["S*"], "expected_s": SMALL["N=E_p[S]"]}
    new = old | {"old_logprobs": old["logprobs"], "old_entropies": old["entropies"]}
    new |= {"logprobs": SMALL["logp_new"], "entropies": SMALL["H_new"]}
    for name, rows in (("on", old), ("off", new)):
        made = table(rows, SMALL["_fixture"]["groups"], SMALL["_fixture"]["rewards"], mask)
        write_scored(directory / f"{name}-scored.parquet", made)
        run("advantage", "grpo", directory / f"{name}-scored.parquet", "-o", directory / f"{name}.parquet", "-q")
    return directory


def test_small_advantages(small: Path) -> None:
    close(column_of(small / "on.parquet", "advantages"), SMALL["A_grpo"], ROUNDED)


def clips() -> Iterator[tuple[str, list[str], Rows]]:
    for key, value in SMALL.items():
        words = key.split()
        if key.startswith("ClipB") and words[-1] == "mask":
            yield "clip-b", [f"--{words[1]}"], value
        if key.startswith("ClipV") and words[-1] == "mask":
            yield "clip-v", [f"--{words[1]}", words[2].replace("mf", "--max-frac")], value


CLIPS = list(clips())


@pytest.mark.parametrize(("name", "words", "expected"), CLIPS, ids=[f"{n} {w}" for n, w, _ in CLIPS])
def test_small_clips(name: str, words: list[str], expected: Rows, small: Path) -> None:
    run("mask", name, *words, small / "on.parquet", "-o", small / "out.parquet", "-q")
    assert np.array_equal(column_of(small / "out.parquet", "loss_mask"), np.concatenate(expected) == 1)


STEER = {key: value for key, value in SMALL.items() if key.startswith("STEER")}


@pytest.mark.parametrize("key", STEER)
def test_small_steer(key: str, small: Path) -> None:
    words = ["--map=linear", "--w-min=0.8", "--w-max=1.2"] if "True" in key else ["--map=exponential", "--w-min=0.8"]
    source = small / ("off.parquet" if "offpolicy" in key else "on.parquet")
    run("mask", "steer", *words, source, "-o", small / "out.parquet", "-q")
    counted = column_of(small / "out.parquet", "loss_mask") == 1
    found = np.where(counted, column_of(small / "out.parquet", "weights"), 0)
    close(found, STEER[key], 5e-6)  # a quotient of differences of rounded numbers


BOUNDS = ["--clip-low=0.05", "--clip-high=0.07"]
DELTAS = ["--delta-low=0.05", "--delta-high=0.07"]
SMALL_LOSSES: dict[str, list[list[str]]] = {
    "vanilla": [["objective", "ppo", *BOUNDS]],
    "gspo": [["objective", "gspo", *BOUNDS]],
    "sapo": [["objective", "sapo"]],
    "kl_cov": [["mask", "kl-cov", "--ratio=0.2", "--coef=0.1"], ["objective", "reinforce", "--ratio", "--kl=abs"]],
    "geo_mean": [["objective", "gmpo", *BOUNDS]],
    "cispo": [["objective", "cispo", *BOUNDS]],
    "dppo_tv": [["objective", "dppo-tv", *DELTAS, "--max-ratio=3"]],
    "dppo_kl": [["objective", "dppo-kl", *DELTAS, "--max-ratio=3"]],
    "CE-GPPO": [["objective", "ce-gppo", *BOUNDS, "--beta1=0.5", "--dual-clip=10"]],
    "SENT v2": [["mask", "sent", "--cov-ratio=0.2", "--coef=0.1"], ["objective", "reinforce", "--ratio", "--kl=abs"]],
}


@pytest.mark.parametrize("name", SMALL_LOSSES)
def test_small_losses(name: str, small: Path) -> None:
    key = f"{name} loss bool mask" if name == "SENT v2" else f"{name} loss"
    gradient = "SENT v2 grad bool mask" if name == "SENT v2" else f"{name} dL/dlogp"
    path = small / "off.parquet"
    for i, words in enumerate(SMALL_LOSSES[name]):
        out = small / f"{name.replace(' ', '')}-{i}.parquet"
        run(*words, path, "-o", out, "-q")
        path = out
    assert column_of(path, "loss_terms").sum() == pytest.approx(SMALL[key], abs=3e-6)
    close(column_of(path, "loss_gradients"), SMALL[gradient], 2e-6)


KINDS = {"KLpen kl": "k1", "KLpen abs": "abs", "KLpen mse": "k2", "KLpen low_var_kl": "k3"}


@pytest.mark.parametrize("key", KINDS)
def test_small_kl(key: str, small: Path, tmp_path: Path) -> None:
    with read([str(small / "off-scored.parquet")]) as source:
        rows = next(iter(source)).rows
    zero = list_column(np.zeros(16), np.full(4, 4), pa.float32())
    write_scored(tmp_path / "in.parquet", rows.append_column("advantages", zero))
    words = ("--kl", KINDS[key], "--kl-coef=1", "--reduction=token-sum")
    run("objective", "reinforce", *words, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "-q")
    close(column_of(tmp_path / "out.parquet", "loss_terms"), SMALL[key], ROUNDED)


REDUCTIONS = {key.removeprefix("agg "): value for key, value in SMALL.items() if key.startswith("agg ")}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_small_reductions(reduction: str, small: Path, tmp_path: Path) -> None:
    """With an advantage of -1 the loss of REINFORCE without a ratio is log p itself."""
    with read([str(small / "on-scored.parquet")]) as source:
        rows = next(iter(source)).rows
    minus = list_column(np.full(16, -1.0), np.full(4, 4), pa.float32())
    write_scored(tmp_path / "in.parquet", rows.append_column("advantages", minus))
    words = ("objective", "reinforce", f"--reduction={reduction}")
    run(*words, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "-q")
    assert column_of(tmp_path / "out.parquet", "loss_terms").sum() == pytest.approx(REDUCTIONS[reduction], abs=1e-5)


PASSK = [key for key in SMALL if key.startswith("PassK")]


@pytest.mark.parametrize("key", PASSK)
def test_small_pass_at_k(key: str, tmp_path: Path) -> None:
    rewards, k = json.loads(key.partition("r=")[2].partition(" k=")[0]), key.rpartition("=")[2]
    rows = table({"logprobs": [[-1.0]] * len(rewards)}, ["p"] * len(rewards), rewards)
    write_scored(tmp_path / "in.parquet", rows)
    run("advantage", "pass@k", f"--k={k}", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "-q")
    close(column_of(tmp_path / "out.parquet", "advantages"), [[a] for a in SMALL[key]], ROUNDED)


def test_small_scores_and_the_theorem() -> None:
    """S*, E[S] and the change of entropy of the fixture's own logits, in float64."""
    from entropyctl.dynamics import token_statistics

    b, t, v = np.ogrid[:4, :4, :5]
    logits = (((7 * b + 3 * t + 5 * v) % 11) / 2 - 2.0).reshape(16, 5)
    tokens = np.asarray(SMALL["tok"], int).reshape(-1)
    found = token_statistics(logits, tokens)
    named: dict[str, Callable[[], np.ndarray]] = {
        "S*": lambda: found.s_star,
        "N=E_p[S]": lambda: found.expected_s,
        "H_old": lambda: found.entropies,
        "logp_old": lambda: found.logprobs,
        "thm3.3 pred -(S-N)": lambda: found.expected_s - found.s_star,
    }
    for key, values in named.items():
        assert np.abs(values() - np.asarray(SMALL[key]).reshape(-1)).max() <= ROUNDED, key
    exact = np.asarray(SMALL["thm3.3 dH/alpha exact eps=1e-4"]).reshape(-1)
    assert np.abs(exact - (found.expected_s - found.s_star)).max() < 5e-5  # O(alpha) of the quotient at alpha = 1e-4
