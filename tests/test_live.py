"""What `update` adds to the policy loss: live masks, an entropy bonus, penalties, other objectives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from entropyctl.errors import UsageError
from entropyctl.masks import Compiled, apply_mask, archer, clip_b, clip_cov, erc, kl_cov, sent, steer
from entropyctl.objectives import kl_penalty, ppo, reinforce, token_coefficients
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_model
from entropyctl.table import new_record, read, write
from entropyctl.table.columns import list_column, with_column
from entropyctl.tokenstats import score_sequences, split_model
from entropyctl.training import Batch, EntropyBonus, Recipe, train_step
from entropyctl.training.batch import read_batch
from entropyctl.training.live import LiveMask, masked_now, reads_of
from entropyctl.training.optimizer import Optimization, Optimizer

from .conftest import Cli, scored_rows, write_scored
from .test_training import TEMPERATURE, gradients, make_batch, make_recipe

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_policy: Path) -> Any:
    return load_model(find_policy(str(tiny_policy)), torch.float32, CPU)


def rescored(model: Any, seed: int = 0) -> pa.Table:
    """A step scored by the model, with advantages."""
    rows = scored_rows(seed=seed)
    pairs = list(zip(rows["prompt_tokens"].to_pylist(), rows["tokens"].to_pylist(), strict=True))
    found = score_sequences(split_model(model), pairs, temperature=TEMPERATURE, token_budget=999)
    lengths = np.array([len(response) for _, response in pairs])
    for name in found._fields:
        rows = with_column(rows, name, list_column(getattr(found, name).numpy(), lengths, pa.float32()))
    signs = np.where(np.arange(lengths.sum()) % 3 == 0, 1.0, -1.0)
    return with_column(rows, "advantages", list_column(signs, lengths, pa.float32()))


def live_batch(rows: pa.Table, masks: tuple[LiveMask, ...]) -> Batch:
    return read_batch(rows, ("old_logprobs", "advantages", *reads_of(masks)))


@pytest.mark.parametrize(
    ("function", "params"), [(clip_b, {"mu": 0.5}), (kl_cov, {"ratio": 0.2}), (steer, {"w_min": 0.5})]
)
def test_under_the_scoring_policy_a_live_mask_is_the_saved_one(
    model: Any, function: Callable[..., Compiled], params: dict[str, Any]
) -> None:
    rows = rescored(model)
    saved = read_batch(apply_mask(rows, function, params), ("old_logprobs", "advantages"))
    masks = (LiveMask("m", function, params),)
    live = masked_now(split_model(model), live_batch(apply_mask(rows, function, params), masks), masks, make_recipe())
    assert np.array_equal(live.loss_mask, saved.loss_mask)
    np.testing.assert_allclose(live.weights, saved.weights, rtol=1e-4)
    np.testing.assert_allclose(live.kl_coefs, saved.kl_coefs)


def test_a_live_mask_sees_the_policy_as_it_is_now(model: Any, tmp_path: Path) -> None:
    rows = rescored(model)
    masks = (LiveMask("m", clip_b, {"mu": 0.5}),)
    before = apply_mask(rows, clip_b, {"mu": 0.5})
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3.0)
    now = rescored(model)
    expected = apply_mask(with_column(now, "advantages", rows["advantages"]), clip_b, {"mu": 0.5})
    live = masked_now(split_model(model), live_batch(before, masks), masks, make_recipe())
    wanted = np.concatenate([np.asarray(row) for row in expected["loss_mask"].to_pylist()])
    old = np.concatenate([np.asarray(row) for row in before["loss_mask"].to_pylist()])
    assert np.array_equal(live.loss_mask, wanted)
    assert (wanted & ~old).any(), "a token that the file had removed is back, from base_mask"


@pytest.mark.parametrize(
    ("function", "params"),
    [
        (clip_cov, {"ratio": 0.3, "lower": 0.0, "upper": 99.0, "clip_low": 0.2, "clip_high": 0.2}),
        (kl_cov, {"ratio": 0.3}),
        (steer, {"w_min": 0.3}),
        (erc, {"low": 0.9, "high": 1.1}),
        (archer, {"quantile": 0.5}),
        (sent, {"cov_ratio": 0.3, "low_fraction": 0.6}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_compares_two_policies_sees_the_old_one_and_the_one_in_training(
    model: Any, function: Callable[..., Compiled], params: dict[str, Any]
) -> None:
    rows = rescored(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    now = rescored(model)
    half = np.flatnonzero(np.arange(rows.num_rows) % 2)  # a mini-batch
    current = rows.take(half)
    for name in ("logprobs", "entropies"):
        current = with_column(current, f"old_{name}", current[name])
        current = with_column(current, name, now[name].take(half))
    expected = read_batch(apply_mask(current, function, params), ("advantages",))
    masks = (LiveMask("m", function, params),)
    live = masked_now(split_model(model), live_batch(rows, masks).take(half), masks, make_recipe())
    np.testing.assert_allclose(live.weights, expected.weights, rtol=1e-3)
    np.testing.assert_allclose(live.kl_coefs, expected.kl_coefs)
    saved = read_batch(apply_mask(rows.take(half), function, params), ("advantages",))
    moved = np.abs(live.weights - saved.weights) + np.abs(live.kl_coefs - saved.kl_coefs)
    assert moved.max() > 1e-3, "it is not what the file has"


def test_live_masks_compose_in_the_order_of_the_file(model: Any) -> None:
    rows = rescored(model)
    masks = (LiveMask("a", clip_b, {"mu": 0.3}), LiveMask("b", steer, {"w_min": 0.5}))
    both = apply_mask(apply_mask(rows, clip_b, {"mu": 0.3}), steer, {"w_min": 0.5})
    live = masked_now(split_model(model), live_batch(both, masks), masks, make_recipe())
    saved = read_batch(both, ("old_logprobs", "advantages"))
    assert np.array_equal(live.loss_mask, saved.loss_mask)
    counted = live.loss_mask
    np.testing.assert_allclose(live.weights[counted], saved.weights[counted], rtol=1e-4)


@pytest.fixture
def trained_on(cli: Cli, policy_root: Path, tmp_path: Path) -> Path:
    """An advantaged step, scored by the policy of `policy_root`."""
    rows = scored_rows(longest=8)
    context = {"sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}}
    write_scored(tmp_path / "r.parquet", rows, context=context)
    for words in (
        ("score", "--policy", policy_root, "r.parquet", "-o", "s.parquet", "-q"),
        ("advantage", "grpo", "s.parquet", "-o", "a.parquet", "-q"),
    ):
        ran = cli(*words)
        assert ran.code == 0, ran
    return tmp_path


def weights_after(cli: Cli, directory: Path, *words: str) -> bytes:
    """The weights that an update of the policy publishes, after which the policy is put back."""
    ran = cli("update", "--policy", directory / "policy", "--publish", "--lr", "1e-3", "-q", *words)
    assert ran.code == 0, ran
    found = (directory / "policy" / "v000001" / "model.safetensors").read_bytes()
    for path in (directory / "policy").glob("*v000001"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (directory / "policy" / "latest").unlink()
    (directory / "policy" / "latest").symlink_to("v000000")
    return found


def test_live_differs_from_saved_once_the_policy_has_moved(cli: Cli, trained_on: Path) -> None:
    assert cli("mask", "steer", "--w-min", "0.1", "a.parquet", "-o", "m.parquet", "-q").code == 0
    words = ("m.parquet", "--mini-batches", "3")
    saved, live = weights_after(cli, trained_on, *words), weights_after(cli, trained_on, *words, "--mask", "live")
    assert saved != live
    assert live == weights_after(cli, trained_on, *words, "--mask", "live")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "--mask live: no mask is recorded in a.parquet; run `entropyctl mask` first"),
        ("entropic", "--mask live: mask entropic reads 'state' of whole steps"),
    ],
)
def test_what_cannot_run_live_is_named(cli: Cli, trained_on: Path, mask: str | None, words: str) -> None:
    file = "a.parquet"
    if mask:
        file = "m.parquet"
        assert cli("mask", mask, "a.parquet", "-o", file, "-q").code == 0
    ran = cli("update", "--policy", "policy", "--mask", "live", file)
    assert (ran.code, words in ran.line) == (2, True), ran


def test_a_parameter_that_another_version_had_is_named(cli: Cli, trained_on: Path) -> None:
    with read([str(trained_on / "a.parquet")]) as source:
        record = new_record("mask clip-b", {"mu": 2.5, "nu": 1})
        with write(str(trained_on / "m.parquet"), "masked", record, source) as sink:
            for step in source:
                sink.put(step.number, apply_mask(step.rows, clip_b, {}))
    ran = cli("update", "--policy", "policy", "--mask", "live", "m.parquet")
    assert (ran.code, "--mask live: mask clip-b has no parameter 'nu'" in ran.line) == (2, True), ran


def test_only_the_mask_that_made_the_columns_runs_live(cli: Cli, trained_on: Path) -> None:
    """Of two masks laid over one another the later owns the columns; the other is no part of it."""
    for name, out in (("steer", "m1.parquet"), ("none", "m2.parquet")):
        assert cli("mask", name, "a.parquet", "--only-new", "-o", out, "-q").code == 0
    plain = weights_after(cli, trained_on, "a.parquet", "m2.parquet", "--mini-batches", "2", "--mask", "live")
    both = weights_after(
        cli, trained_on, "a.parquet", "m1.parquet", "m2.parquet", "--mini-batches", "2", "--mask", "live"
    )
    assert plain == both


# The rest of the loss.


def written_loss(model: Any, batch: Batch, recipe: Recipe, ref: np.ndarray, entropy_coef: float) -> list[torch.Tensor]:
    """Autograd of the formula, a sequence at a time: reinforce, penalties to both anchors, entropy bonus."""
    k = torch.from_numpy(token_coefficients(batch.loss_mask, batch.lengths, recipe.reduction))
    total, start = torch.zeros((), dtype=torch.float64), 0
    for prompt, response in batch.sequences:
        at = slice(start, start + len(response))
        start += len(response)
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        everything = (logits / TEMPERATURE).log_softmax(dim=1)
        logprobs = everything[range(len(response)), response]
        assert batch.old_logprobs is not None and batch.advantages is not None
        old, anchor = torch.from_numpy(batch.old_logprobs[at]), torch.from_numpy(ref[at])
        loss = -torch.from_numpy(batch.weights[at] * batch.advantages[at]) * logprobs
        loss = loss + (torch.from_numpy(batch.kl_coefs[at]) + 0.3) * kl_penalty(logprobs, old, "k2")
        loss = loss + 0.2 * kl_penalty(logprobs, anchor, "k3")
        loss = loss + entropy_coef * (everything.exp() * everything).sum(dim=1)
        total = total + (k[at] * loss).sum()
    model.zero_grad()
    total.backward()
    return [p.grad.clone() for p in model.parameters()]


def test_the_gradient_has_every_term_of_the_written_loss(model: Any) -> None:
    batch = make_batch()
    ref = (np.asarray(batch.old_logprobs) - 0.3).astype(np.float32)
    batch = replace(batch, inputs={**batch.inputs, "ref_logprobs": ref})
    bonus = EntropyBonus("fixed", 0.7)
    recipe = make_recipe(objective=reinforce, kl="k2", kl_coef=0.3, ref_kl_coef=0.2, bonus=bonus)
    expected = written_loss(model, batch, recipe, ref, 0.7)
    torch.testing.assert_close(gradients(model, batch, recipe), expected, atol=3e-5, rtol=1e-3)


def test_the_penalty_of_a_mask_may_be_taken_against_the_reference(model: Any) -> None:
    batch = make_batch()
    ref = (np.asarray(batch.old_logprobs) + 0.5).astype(np.float32)
    with_ref = replace(batch, inputs={**batch.inputs, "ref_logprobs": ref})
    as_old = replace(batch, inputs={**batch.inputs, "old_logprobs": ref})
    to_ref = gradients(model, with_ref, make_recipe(objective=reinforce, kl_to="ref"))
    torch.testing.assert_close(to_ref, gradients(model, as_old, make_recipe(objective=reinforce)))


def test_with_a_bonus_tokens_without_an_advantage_learn_too(model: Any) -> None:
    batch = make_batch()
    still = replace(batch, inputs={**batch.inputs, "advantages": np.zeros_like(batch.weights)})
    still = still.masked(batch.loss_mask, batch.weights, None)
    steps = [
        train_step(split_model(model), Optimizer(model, Optimization("sgd", 0.0, 0.0)), [still], recipe)[
            "optimizer_steps"
        ]
        for recipe in (make_recipe(), make_recipe(bonus=EntropyBonus("fixed", 0.1)), make_recipe(kl_coef=0.1))
    ]
    assert steps == [0, 1, 1]


def test_a_bonus_raises_the_entropy(model: Any) -> None:
    batch = make_batch()
    still = replace(batch, inputs={**batch.inputs, "advantages": np.zeros_like(batch.weights)})
    split, recipe = split_model(model), make_recipe(bonus=EntropyBonus("fixed", 1.0), kl="k3")
    measured = []
    for _ in range(2):
        found = score_sequences(split, batch.sequences, temperature=TEMPERATURE, token_budget=999)
        measured.append(float(found.entropies.mean()))
        still = still.masked(np.ones_like(batch.loss_mask), None, None)
        train_step(split, Optimizer(model, Optimization("sgd", 0.1, 0.0)), [still], recipe)
    assert measured[1] > measured[0]


def test_the_controllers_move_the_coefficient_and_remember_it() -> None:
    bonus = EntropyBonus("skywork", 0.0)
    trace = []
    for entropy in (0.5, 0.3, 0.15, 0.1, 0.3, 0.2):
        bonus.begin_step(entropy)
        bonus.after_optimizer_step(9.0)  # not its clock
        trace.append((round(bonus.coef, 6), bonus.active))
    assert trace == [(0, False), (0, False), (1e-4, True), (2e-4, True), (1e-4, False), (0, False)]
    bonus = EntropyBonus("trl", 0.01)
    assert bonus.coef_now == 0.0  # nothing measured yet
    bonus.after_optimizer_step(0.2)
    assert (bonus.coef_now, bonus.facts()) == (0.015, {"trl_entropy_coef": 0.015, "trl_entropy_active": 1.0})
    again = EntropyBonus("trl", 0.0)
    again.restore(bonus.facts())
    assert again.coef_now == 0.015
    for other in (EntropyBonus("fixed", 0.3), EntropyBonus("skywork", 0.3)):
        other.restore(bonus.facts())
        assert other.coef == 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coef": -1.0}, "--entropy-coef -1: must be"),
        ({"delta": float("nan")}, "--entropy-delta nan: must be"),
        ({"target": float("inf")}, "--entropy-target inf: must be"),
        ({"largest": 0.0}, "--entropy-max 0: must be above 0"),
    ],
)
def test_an_impossible_bonus_is_a_usage_error(change: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EntropyBonus(**({"control": "trl", "coef": 0.1} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", ["--entropy-target", "--entropy-delta", "--entropy-max"])
def test_what_only_a_controller_uses_is_refused_without_one(cli: Cli, trained_on: Path, flag: str) -> None:
    ran = cli("update", "--policy", "policy", "a.parquet", flag, "0.5")
    assert (ran.code, f"{flag}: a fixed coefficient has no use for it" in ran.line) == (2, True), ran


def test_a_controller_continues_in_the_next_process(cli: Cli, trained_on: Path) -> None:
    words = ("--entropy-control", "trl", "--entropy-target", "9", "--publish", "--json", "--lr", "0")
    for coefficient in (0.005, 0.01):
        allowed = ("--allow-mismatch", "scoring.policies")
        ran = cli("update", "--policy", "policy", "a.parquet", *words, *allowed)
        assert ran.code == 0, ran
        assert json.loads(ran.text)["entropy_coef"] == pytest.approx(coefficient)


def test_an_objective_has_its_own_flags(cli: Cli, trained_on: Path) -> None:
    ppo_weights = weights_after(cli, trained_on, "a.parquet", "--mini-batches", "3")
    sapo = weights_after(cli, trained_on, "a.parquet", "--mini-batches", "3", "--objective", "sapo", "--tau-neg", "2")
    assert ppo_weights != sapo
    ran = cli("update", "--policy", "policy", "--objective", "sapo", "--dual-clip", "3", "a.parquet")
    assert (ran.code, "No such option: --dual-clip" in ran.line) == (2, True), ran
    ran = cli("update", "--objective", "nothing", "a.parquet")
    assert (ran.code, "--objective: there is no 'nothing'; known: bcpg, ce-gppo, cispo" in ran.line) == (2, True), ran


def test_the_objective_may_be_configured(cli: Cli, trained_on: Path) -> None:
    (trained_on / "c.toml").write_text('[update]\nobjective = "gspo"\nclip-low = 0.1\n')
    ran = cli("update", "--policy", "policy", "a.parquet", "--publish", "-q", "--config", "c.toml")
    assert ran.code == 0, ran
    helped = cli("update", "--help", env={"ENTROPYCTL_UPDATE_OBJECTIVE": "sapo"})
    assert "--tau-neg" in helped.text and "--clip-low" not in helped.text, helped


def test_the_loss_of_the_file_is_the_loss_of_the_update(cli: Cli, trained_on: Path) -> None:
    """`objective` has what `update` has, without the model."""
    assert cli("mask", "clip-b", "--mu", "0.5", "a.parquet", "-o", "m.parquet", "-q").code == 0
    words = ("--clip-high", "0.28", "--reduction", "seq-mean-token-mean", "m.parquet", "--json")
    offline = json.loads(cli("objective", "ppo", *words, "-o", "o.parquet").text)
    online = json.loads(cli("update", "--policy", "policy", *words).text)
    assert offline["loss"] == pytest.approx(online["loss"], abs=1e-6)
    with read([str(trained_on / "o.parquet")]) as source:
        rows = next(iter(source)).rows
    terms = np.concatenate([np.asarray(row) for row in rows["loss_terms"].to_pylist()])
    assert terms.sum() == pytest.approx(offline["loss"], abs=1e-6)


def test_a_row_without_weights_counts_in_full(cli: Cli, scored: Path, tmp_path: Path) -> None:
    """Null is "not computed": for a weight 1, for a coefficient 0, as the masks take it."""
    assert cli("advantage", "grpo", "scored.parquet", "-o", "a.parquet", "-q").code == 0
    rows = pq.read_table(tmp_path / "a.parquet")
    lengths = [len(row) for row in rows["tokens"].to_pylist()]
    for name, weight, coefficient in (("null", None, None), ("plain", 1.0, 0.0)):
        some = rows
        for column, number, other in (("weights", 0.5, weight), ("kl_coefs", 0.1, coefficient)):
            values = [[number] * n if i else other if other is None else [other] * n for i, n in enumerate(lengths)]
            some = some.append_column(column, pa.array(values, pa.list_(pa.float32())))
        pq.write_table(some.replace_schema_metadata(None), tmp_path / f"{name}.parquet")
    null, plain = (
        cli("objective", "ppo", f"{name}.parquet", "--json", "-o", "o.parquet") for name in ("null", "plain")
    )
    assert (null.code, null.text) == (0, plain.text), null


def test_a_reference_penalty_needs_its_column(cli: Cli, trained_on: Path) -> None:
    ran = cli("update", "--policy", "policy", "--ref-kl-coef", "0.01", "a.parquet")
    assert (ran.code, "column 'ref_logprobs' is missing; it is made by `entropyctl score --ref`" in ran.line) == (
        3,
        True,
    )
    scored = cli("score", "--ref", "policy", "a.parquet", "-o", "b.parquet", "-q")
    assert scored.code == 0, scored
    assert cli("update", "--policy", "policy", "--ref-kl-coef", "0.01", "b.parquet", "-q").code == 0


def test_ppo_without_bounds_is_the_plain_ratio(model: Any) -> None:
    wide = partial(ppo, clip_low=1.0, clip_high=float("inf"), dual_clip=float("inf"))
    found = gradients(model, make_batch(), make_recipe(objective=wide))
    plain = gradients(model, make_batch(), make_recipe(objective=partial(reinforce, ratio=True)))
    torch.testing.assert_close(found, plain)
