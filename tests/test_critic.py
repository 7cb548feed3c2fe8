"""The critic: its loss as written, and its training and publishing beside the policy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from entropyctl.errors import InputError, UsageError
from entropyctl.objectives import ppo, token_coefficients
from entropyctl.objectives._value import explained_variance, value_loss
from entropyctl.policy import find_policy
from entropyctl.policy.checkpoint import load_critic
from entropyctl.policy.trainer_state import load_trainer_state
from entropyctl.table import new_record, read, write
from entropyctl.table.columns import flat_values, list_column, row_lengths, with_column
from entropyctl.tokenstats import value_sequences
from entropyctl.training import Optimization, Recipe
from entropyctl.training.critic import Critic, critic_step, open_critic
from entropyctl.training.sharded import Place

from .conftest import ROOT, Cli, without_costs

CPU = torch.device("cpu")


def test_the_value_loss_and_its_gradient_in_numbers() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 0.4], dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    found = value_loss(values, old, returns, clip=0.5)
    # the second has arrived, but its clipped value 0.5 has not: that error counts, and no gradient comes from it
    assert found.loss.tolist() == [0.5, 0.125, 0.5, pytest.approx(0.18)]
    assert found.clipped.tolist() == [False, True, False, False]
    found.loss.sum().backward()
    assert values.grad.tolist() == pytest.approx([-1.0, 0.0, 1.0, -0.6])


def test_a_value_that_moved_away_from_its_return_is_still_pulled_back() -> None:
    values = torch.tensor([-2.0], requires_grad=True)
    value_loss(values, torch.zeros(1), torch.ones(1), clip=0.5).loss.sum().backward()
    assert values.grad.tolist() == [-3.0]


def test_an_infinite_clip_is_the_plain_squared_error() -> None:
    values, returns = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0])
    assert value_loss(values, torch.zeros(2), returns, clip=float("inf")).loss.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("clip", [0.0, -0.5, float("nan")])
def test_an_impossible_clip_is_a_usage_error(clip: float) -> None:
    with pytest.raises(UsageError, match=f"^--critic-clip {clip:g}: must be above 0"):
        value_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip=clip)


def test_explained_variance_in_numbers() -> None:
    returns, mask = np.array([0.0, 1.0, 2.0, 99.0]), np.array([True, True, True, False])
    assert explained_variance(returns + 5, returns, mask) == 1.0
    assert explained_variance(np.ones(4), returns, mask) == 0.0
    assert explained_variance(np.array([0.0, 0.5, 1.0, -7.0]), returns, mask) == pytest.approx(0.75)
    assert explained_variance(returns, np.ones(4), mask) is None
    assert explained_variance(returns, returns, np.zeros(4, bool)) is None


def make_recipe(**changes) -> Recipe:
    values = {
        "objective": ppo,
        "reduction": "token-mean",
        "norm": None,
        "kl": "k3",
        "mini_batches": 1,
        "epochs": 1,
        "grad_clip": 1e9,
        "token_budget": 10_000,
        "dtype": "float32",
    }
    return Recipe(**(values | changes))


def floats(values: np.ndarray, lengths: np.ndarray) -> pa.Array:
    return list_column(np.asarray(values, np.float32), lengths, pa.float32())


def step_rows(critic: Critic, returns=None, seed: int = 0) -> pa.Table:
    """Six responses to three problems, with the values that the critic gives them now."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 6)
    count = int(lengths.sum())
    prompts = [rng.integers(1, 200, int(rng.integers(1, 7))).tolist() for _ in lengths]
    responses = [rng.integers(1, 200, n).tolist() for n in lengths]
    values = value_sequences(critic.split, list(zip(prompts, responses, strict=True)), token_budget=10_000).numpy()
    return pa.table(
        {
            "step": [1] * 6,
            "prompt_id": ["a", "a", "b", "b", "c", "c"],
            "sample": pa.array([0, 1] * 3, pa.int32()),
            "prompt_tokens": prompts,
            "tokens": responses,
            "loss_mask": list_column(rng.random(count) < 0.8, lengths, pa.bool_()),
            "values": floats(values, lengths),
            "returns": floats(rng.normal(size=count) if returns is None else np.full(count, returns), lengths),
        }
    )


@pytest.fixture
def critic(tiny_critic: Path) -> Critic:
    return open_critic(find_policy(str(tiny_critic)), Optimization("sgd", 1.0), 0.5, Place("cpu"))


@pytest.mark.parametrize(("reduction", "budget"), [("token-mean", 10_000), ("seq-mean-token-mean", 20)])
def test_a_step_follows_the_gradient_of_the_written_loss(critic: Critic, reduction: str, budget: int) -> None:
    rows = step_rows(critic)
    rows = with_column(rows, "values", floats(flat_values(rows["values"]) + 0.7, row_lengths(rows["tokens"])))
    model = critic.split.model
    columns = (rows[n].to_pylist() for n in ("prompt_tokens", "tokens", "values", "returns"))
    k = torch.from_numpy(
        token_coefficients(flat_values(rows["loss_mask"]), row_lengths(rows["tokens"]), reduction)
    ).float()
    total, start = torch.zeros(()), 0
    for prompt, response, old, returns in zip(*columns, strict=True):
        v = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1, 0]
        R, v_old = torch.tensor(returns), torch.tensor(old)
        near = v_old + (v - v_old).clamp(-0.5, 0.5)
        loss = 0.5 * torch.stack([(v - R) ** 2, (near - R) ** 2]).amax(dim=0)
        total = total + (k[start : start + len(response)] * loss).sum()
        start += len(response)
    model.zero_grad()
    total.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    found = critic_step(critic, rows, make_recipe(reduction=reduction, token_budget=budget))
    assert found["value_loss"] == pytest.approx(total.item(), rel=1e-4)
    assert 0 < found["value_clip_fraction"] < 1
    moved = [a - b.detach() for a, b in zip(before, model.parameters(), strict=True)]
    torch.testing.assert_close(moved, expected, atol=2e-5, rtol=1e-3)


def test_a_critic_learns_returns_that_are_always_the_same(tiny_critic: Path) -> None:
    critic = open_critic(find_policy(str(tiny_critic)), Optimization("adamw", 5e-3), float("inf"), Place("cpu"))
    rows = step_rows(critic, returns=0.8)
    first = critic_step(critic, rows, make_recipe(mini_batches=3))
    assert first["explained_variance"] is None
    last = critic_step(critic, rows, make_recipe(mini_batches=3, epochs=40))
    assert first["value_loss"] > 0.02
    assert last["value_loss"] < first["value_loss"] / 5
    assert critic.optimizer.steps == 3 * 41
    assert critic_step(critic, rows, make_recipe())["value_loss"] < 2e-3


def test_tokens_outside_the_mask_teach_nothing(critic: Critic) -> None:
    rows = step_rows(critic)
    lengths = row_lengths(rows["tokens"])
    starts = np.cumsum(lengths) - lengths
    mask = np.arange(lengths.sum()) == starts[lengths.argmax()]  # the first token of a response that goes on
    rows = with_column(rows, "loss_mask", list_column(mask, lengths, pa.bool_()))
    wild = np.where(mask, flat_values(rows["returns"]), np.inf)
    shown = critic_step(critic, with_column(rows, "returns", floats(wild, lengths)), make_recipe(mini_batches=3))
    assert critic.optimizer.steps == 1  # the other two mini-batches have nothing to learn
    assert np.isfinite(shown["value_loss"])
    assert all(bool(p.isfinite().all()) for p in critic.split.model.parameters())
    before = [p.detach().clone() for p in critic.split.model.parameters()]
    nothing = with_column(rows, "loss_mask", list_column(np.zeros_like(mask), lengths, pa.bool_()))
    found = critic_step(critic, nothing, make_recipe())
    assert without_costs(found) == {
        "value_loss": 0.0,
        "value_clip_fraction": 0.0,
        "explained_variance": None,
        "skipped_steps": 0,
    }
    assert all(torch.equal(a, b) for a, b in zip(before, critic.split.model.parameters(), strict=True))


def test_rows_without_returns_are_named(critic: Critic) -> None:
    rows = step_rows(critic)
    lengths = row_lengths(rows["tokens"])
    returns = [x if i != 2 else None for i, x in enumerate(rows["returns"].to_pylist())]
    rows = with_column(rows, "returns", pa.array(returns, pa.list_(pa.float32())))
    assert len(lengths) == 6
    with pytest.raises(InputError, match="row step 1, prompt b, sample 0: 'returns' is null"):
        critic_step(critic, rows, make_recipe())


@pytest.mark.parametrize("lr", ["-1.0", "nan", "inf"])
def test_an_impossible_rate_is_a_usage_error(cli: Cli, lr: str) -> None:
    ran = cli("update", "--policy", "p", "--critic", "c", "--critic-lr", lr, "m.parquet")
    assert (ran.code, f"--critic-lr {float(lr):g}: must be a finite number, 0 or above" in ran.line) == (2, True), ran


@pytest.fixture
def critic_root(tiny_policy: Path, tmp_path: Path) -> Path:
    """A critic of versions, version 0 out of the policy by the example's lines."""
    root = tmp_path / "critic"
    root.mkdir()
    script = ROOT / "examples" / "critic_from_policy.py"
    done = subprocess.run([sys.executable, str(script), str(tiny_policy), str(root / "v000000")], capture_output=True)
    assert done.returncode == 0, done.stderr
    (root / "latest").symlink_to("v000000")
    return root


@pytest.fixture
def advantaged(cli: Cli, policy_root: Path, critic_root: Path, tmp_path: Path) -> Path:
    """Two steps of responses with values, returns of 1, and advantages of returns - values."""
    lines = [{"question": f"{i}?", "answer": "7"} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    options = ["--policy", policy_root, "--prompts", "prompts.jsonl", "--n", 2, "--max-tokens", 6, "-q"]
    assert cli("rollout", *options, "--steps", 2, "-o", "r.parquet").code == 0
    ran = cli("score", "r.parquet", "--policy", policy_root, "--critic", critic_root, "-o", "s.parquet")
    assert ran.code == 0, ran
    path = tmp_path / "a.parquet"
    record = new_record("advantage", {})
    with read([str(tmp_path / "s.parquet")]) as source, write(str(path), "advantaged", record, source) as sink:
        for step in source:
            lengths, values = row_lengths(step.rows["tokens"]), flat_values(step.rows["values"])
            assert not values.any()  # a new head is worth nothing
            rows = with_column(step.rows, "advantages", floats(1 - values, lengths))
            sink.put(step.number, with_column(rows, "returns", floats(np.ones_like(values), lengths)))
    return path


def test_the_critic_is_published_beside_the_policy(
    cli: Cli, advantaged: Path, policy_root: Path, critic_root: Path, tmp_path: Path
) -> None:
    options = ["--policy", policy_root, "--critic", critic_root, "--critic-lr", 1e-3, "--metrics", "m"]
    ran = cli("update", advantaged, *options, "--publish")
    assert ran.code == 0, ran
    assert "value_loss 0.5" in ran.err
    assert find_policy(str(policy_root)).version == find_policy(str(critic_root)).version == 2
    with read([str(tmp_path / "m")]) as source:
        first, second = (step.rows.to_pylist()[0] for step in source)
    assert first["value_loss"] == 0.5 and second["value_loss"] < 0.5
    assert first["value_clip_fraction"] == 0.0 and first["explained_variance"] is None
    state, facts = load_trainer_state(find_policy(str(critic_root)))
    assert facts == {"optimizer_steps": 2, "skipped_in_a_row": 0, "optimizer": "adamw"}
    assert "score.weight:exp_avg" in state
    zero, two = (load_critic(find_policy(str(critic_root / v)), torch.float32, CPU) for v in ("v000000", "v000002"))
    assert not zero.score.weight.any() and two.score.weight.any()
    # the published critic scores, and its values have moved towards the returns
    again = cli("score", advantaged, "--critic", critic_root, "--only-new", "-o", "v.parquet")
    assert again.code == 0, again
    with read([str(tmp_path / "v.parquet")]) as source:
        assert flat_values(next(iter(source)).rows["values"]).mean() > 0
    # its values are of version 0, which is no longer the one to train; the same holds of the policy
    refused = cli("update", advantaged, *options, "--allow-mismatch", "scoring.policies")
    assert refused.code == 5 and "its values are of critic" in refused.line, refused


def test_without_publishing_no_version_appears_and_a_plain_checkpoint_will_do(
    cli: Cli, advantaged: Path, policy_root: Path, critic_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(critic_root / "v000000", tmp_path / "plain")
    ran = cli("update", advantaged, "--policy", policy_root, "--critic", "plain", "--json", "-q")
    assert ran.code == 0, ran
    assert json.loads(ran.text.splitlines()[0])["value_loss"] == 0.5
    assert find_policy(str(critic_root)).version == 0
    refused = cli("update", advantaged, "--policy", policy_root, "--critic", "plain", "--publish")
    assert refused.code == 2 and "make it version 0 of a critic: mkdir -p run/critic" in refused.line, refused


def test_faults_are_one_line(cli: Cli, advantaged: Path, policy_root: Path, tiny_policy: Path, tmp_path: Path) -> None:
    def fails(code: int, words: str, *args: str | Path) -> None:
        ran = cli("update", *args, "--policy", policy_root)
        assert ran.code == code and words in ran.line, ran

    critic = tmp_path / "critic"
    fails(2, "--critic-clip 0: must be above 0", advantaged, "--critic", critic, "--critic-clip", "0")
    fails(2, "--critic-lr -1: must be", advantaged, "--critic", critic, "--critic-lr", "-1")
    allowed = ["--allow-mismatch", "scoring.critic"]
    fails(3, "is no critic; give a token-classification checkpoint", advantaged, "--critic", tiny_policy, *allowed)
    record = new_record("advantage", {})
    with read([str(advantaged)]) as source, write(str(tmp_path / "no.parquet"), "advantaged", record, source) as sink:
        for step in source:
            sink.put(step.number, step.rows.drop_columns(["returns"]))
    fails(3, "column 'returns' is missing; it is made by `entropyctl advantage`", "no.parquet", "--critic", critic)


def test_help_says_where_a_critic_comes_from(cli: Cli) -> None:
    assert "examples/critic_from_policy.py" in cli("score", "--help").text
