"""Training over several versions: schedules, steps that are left out, adapters, state on disk; equal when resumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file

from entropyctl.engines._probe import check_probe
from entropyctl.errors import EngineError, InputError, MismatchError, UsageError
from entropyctl.metrics import read_history
from entropyctl.policy import find_policy
from entropyctl.policy.adapter import check_whole, is_adapter
from entropyctl.policy.checkpoint import load_model
from entropyctl.policy.holding import delete_old_versions
from entropyctl.policy.probe import read_probe, write_probe
from entropyctl.policy.trainer_state import Shard, TrainerState, load_trainer_state, write_shard
from entropyctl.show import watch
from entropyctl.table import new_record, write
from entropyctl.table.columns import column_from, list_column, row_lengths, with_column
from entropyctl.table.schema import load_schema
from entropyctl.tokenstats import Sharing, split_model
from entropyctl.training import Optimization, Optimizer, Trainer, open_trainer, train_step, update_step
from entropyctl.training.flops import model_flops, peak_of, work_of
from entropyctl.training.lora import Lora, parse_lora
from entropyctl.training.optimizer import OPTIMIZERS, save_state
from entropyctl.training.schedule import factor
from entropyctl.training.sharded import Place
from entropyctl.training.update import publish_next

from .conftest import ROOT, Cli, scored_rows
from .test_training import make_batch, make_recipe, with_inputs

CPU = torch.device("cpu")
SAMPLING = {"sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprob_kind": "processed"}}
HERE = Place("cpu")
RECIPE = make_recipe(mini_batches=2, grad_clip=1.0, temperature=1.0)
ADAM = Optimization("adamw", 1e-3, 0.01)
LORA = Lora(4, 8.0)


def learnt(step: int) -> pa.Table:
    """A step with advantages."""
    rows = scored_rows(step, groups=4, samples=3, longest=12)
    lengths_B = row_lengths(rows["tokens"])
    values = list_column(np.random.default_rng(step).normal(size=lengths_B.sum()), lengths_B, pa.float32())
    return with_column(rows, "advantages", values)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.split.model.state_dict().items()}


# --- the rate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_transformers(schedule: str, warmup: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=10)
    rates = []
    for _ in range(11):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    total = None if schedule == "constant" else 10
    assert [0.5 * factor(schedule, step, warmup, total) for step in range(11)] == pytest.approx(rates, abs=1e-12)


def test_the_rate_goes_on_where_the_version_before_it_stopped(policy_root: Path) -> None:
    how = replace(ADAM, lr_schedule="linear", warmup_steps=2, total_steps=6)
    rates = []
    for step in (1, 2, 3):
        trainer = open_trainer(find_policy(str(policy_root)), how, HERE)
        rates.append(update_step(trainer, learnt(step), RECIPE)["learning_rate"])
        publish_next(trainer, {}, step)
    assert rates == pytest.approx([1e-3 * (0 + 0.5) / 2, 1e-3 * (1 + 0.75) / 2, 1e-3 * (0.5 + 0.25) / 2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_schedule": "step"}, "--lr-schedule: there is no 'step'; known: constant, linear, cosine"),
        ({"lr_schedule": "cosine"}, "falls to 0 at --total-steps; give that too"),
        ({"total_steps": 5}, "--total-steps: a constant rate has no end"),
        ({"lr_schedule": "linear", "total_steps": 5, "warmup_steps": 5}, "--warmup-steps 5: must be below"),
        ({"optimizer": "adam"}, "--optimizer: there is no 'adam'"),
    ],
)
def test_an_impossible_optimisation_is_a_usage_error(changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(ADAM, **changes)


# --- steps that are left out -----------------------------------------------------------------------------------------


def not_numbers(batch):
    """A mini-batch whose loss is infinite."""
    return with_inputs(batch, old_logprobs=np.full_like(batch.old_logprobs, 1e30))


def test_a_step_that_is_no_number_leaves_weights_and_state_as_they_are(tiny_policy: Path) -> None:
    def trained(*batches) -> tuple[dict, Optimizer]:
        split = split_model(load_model(find_policy(str(tiny_policy)), torch.float32, CPU))
        optimizer = Optimizer(split.model, ADAM)
        return train_step(split, optimizer, list(batches), make_recipe(kl_coef=0.1, kl="k2")), optimizer

    good = [make_batch(1), make_batch(2)]
    (clean, one), (found, other) = trained(*good), trained(good[0], not_numbers(make_batch(3)), good[1])
    assert (clean.pop("skipped_steps"), found.pop("skipped_steps")) == (0, 1)
    del clean["flops"], found["flops"]
    assert found == clean and (other.steps, other.skipped_in_a_row) == (2, 0)
    a, b = (optimizer.model.state_dict() for optimizer in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (optimizer.inner.state_dict()["state"] for optimizer in (one, other))
    assert all(torch.equal(a[i][name], b[i][name]) for i in a for name in a[i])


def test_so_many_in_a_row_are_an_error_across_runs(policy_root: Path) -> None:
    """KL by k2 is d^2 / 2, infinite where log p was 1e30."""
    lengths_B = row_lengths(learnt(1)["tokens"])
    rows = with_column(learnt(1), "logprobs", list_column(np.full(lengths_B.sum(), 1e30), lengths_B, pa.float32()))
    how, recipe = replace(ADAM, max_skipped=3), make_recipe(temperature=1.0, kl_coef=1.0, kl="k2")
    for step in (1, 2):
        trainer = open_trainer(find_policy(str(policy_root)), how, HERE)
        found = update_step(trainer, rows, recipe)
        assert (found["skipped_steps"], found["optimizer_steps"], found["loss"]) == (1, 0, 0.0)
        publish_next(trainer, {}, step)
    trainer = open_trainer(find_policy(str(policy_root)), how, HERE)
    with pytest.raises(EngineError, match=r"in 3 optimiser steps in a row \(--max-skipped\); lower --lr"):
        update_step(trainer, rows, recipe)
    trainer = open_trainer(find_policy(str(policy_root)), how, HERE)
    update_step(trainer, learnt(3), recipe)
    assert trainer.optimizer.skipped_in_a_row == 0


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["merged", "adapter"])
def publishes(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("peft")
    return str(request.param)


def adapting(root: Path, publishes: str) -> Trainer:
    return open_trainer(find_policy(str(root)), ADAM, HERE, lora=LORA, lora_publish=publishes)


def test_an_adapter_that_is_resumed_is_the_one_that_never_stopped(
    policy_root: Path, tiny_policy: Path, publishes: str
) -> None:
    one = adapting(policy_root, publishes)
    untouched = [update_step(one, learnt(step), RECIPE)["loss"] for step in (1, 2, 3)]
    wholes, losses = weights_of(one), []
    for step in (1, 2, 3):
        trainer = adapting(policy_root, publishes)
        losses.append(update_step(trainer, learnt(step), RECIPE)["loss"])
        publish_next(trainer, {}, step)
        assert is_adapter(trainer.policy) == (publishes == "adapter")
    assert losses == untouched
    resumed = weights_of(trainer)
    assert all(torch.equal(wholes[name], resumed[name]) for name in wholes)
    moved = {name for name, w in load_model(find_policy(str(tiny_policy)), torch.float32, CPU).state_dict().items()
             if name in wholes and not torch.equal(w, wholes[name])}  # fmt: skip
    assert moved == set()  # the base
    state, facts = load_trainer_state(find_policy(str(policy_root)))
    assert facts["lora"] == {"r": 4, "alpha": 8.0, "targets": ["all-linear"]}
    assert {name.rpartition(".lora_")[1] for name in state} == {".lora_"}


def test_a_version_of_an_adapter_is_what_was_trained(policy_root: Path, publishes: str) -> None:
    """For us and for transformers; in float64, so that only what publishing rounds is between them."""
    trainer = adapting(policy_root, publishes)
    update_step(trainer, learnt(1), RECIPE)
    publish_next(trainer, {}, 1)
    version = find_policy(str(policy_root))
    ids = torch.arange(1, 40)[None]
    models = {
        "trained": trainer.split.model,
        "before": load_model(find_policy(str(policy_root / "v000000")), torch.float32, CPU),
        "ours": load_model(version, torch.float32, CPU),
        "theirs": transformers.AutoModelForCausalLM.from_pretrained(version.directory),
    }
    with torch.no_grad():
        logits = {name: model.double()(input_ids=ids).logits for name, model in models.items()}
    assert (logits["trained"] - logits["before"]).abs().max() > 1e-3
    for found in (logits["ours"], logits["theirs"]):
        torch.testing.assert_close(found, logits["trained"], atol=1e-5, rtol=1e-5)
    names = {path.name for path in version.directory.iterdir()}
    assert {"tokenizer.json", "probe.json", "entropyctl.json"} <= names
    assert ("model.safetensors" in names) == (publishes == "merged")
    if publishes == "merged":
        check_whole(version, "vLLM")
    else:
        with pytest.raises(EngineError, match="is an adapter, and vLLM here loads whole models"):
            check_whole(version, "vLLM")
        config = json.loads((version.directory / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
        assert "q_proj" in config["target_modules"]
        assert (version.directory / "adapter_model.safetensors").stat().st_size < 40_000


def test_all_weights_may_be_trained_after_an_adapter(policy_root: Path, publishes: str, capfd) -> None:
    trainer = adapting(policy_root, publishes)
    update_step(trainer, learnt(1), RECIPE)
    publish_next(trainer, {}, 1)
    trainer = open_trainer(find_policy(str(policy_root)), ADAM, HERE)
    assert "now all weights are; starting with a fresh optimiser" in capfd.readouterr().err
    assert (trainer.optimizer.steps, trainer.optimizer.inner.state_dict()["state"]) == (2, {})
    update_step(trainer, learnt(2), RECIPE)
    publish_next(trainer, {"entropy_coef": 0.5}, 2)
    assert not is_adapter(find_policy(str(policy_root)))
    found = load_model(find_policy(str(policy_root)), torch.float32, CPU).state_dict()
    assert all(torch.equal(w, found[name]) for name, w in weights_of(trainer).items())
    trainer = adapting(policy_root, publishes)
    assert "now an adapter is; starting with a fresh optimiser" in capfd.readouterr().err
    assert (trainer.optimizer.steps, trainer.facts["entropy_coef"]) == (4, 0.5)


def test_another_shape_or_another_base_is_refused(policy_root: Path, tiny_policy: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    trainer = adapting(policy_root, "adapter")
    publish_next(trainer, {}, 1)
    version = find_policy(str(policy_root))
    with pytest.raises(MismatchError, match=r"is an adapter, .* give the directory of versions that has both"):
        open_trainer(find_policy(str(version.directory)), ADAM, HERE, lora=LORA)
    with pytest.raises(MismatchError, match="adapter in training has r=4,alpha=8,targets=all-linear; give --lora that"):
        open_trainer(version, ADAM, HERE, lora=Lora(8, 8.0))
    manifest = version.directory / "entropyctl.json"
    facts = json.loads(manifest.read_text())
    assert facts["base"]["path"] == str(tiny_policy.resolve())
    manifest.write_text(json.dumps(facts | {"base": facts["base"] | {"digest": "0" * 32}}))
    with pytest.raises(MismatchError, match="but an adapter was trained on 000000000000; put the checkpoint back"):
        load_model(version, torch.float32, CPU)


def test_the_version_under_an_adapter_is_kept(policy_root: Path) -> None:
    pytest.importorskip("peft")
    whole = open_trainer(find_policy(str(policy_root)), ADAM, HERE)
    publish_next(whole, {}, 1)
    for step in (2, 3, 4):
        publish_next(adapting(policy_root, "adapter"), {}, step)
    delete_old_versions(policy_root, 1)
    assert sorted(path.name for path in policy_root.glob("v*")) == ["v000001", "v000004"]
    load_model(find_policy(str(policy_root)), torch.float32, CPU)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("r=x", "--lora r=x: invalid literal"),
        ("r=0", "r must be at least 1"),
        ("rank=4", "has no 'rank'"),
        ("dropout=0.1", "with dropout another policy is trained"),
    ],
)
def test_an_adapter_that_cannot_be_is_a_usage_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_lora(text)
    assert parse_lora("r=4,dropout=0,targets=v_proj+q_proj") == Lora(4, 8.0, ("q_proj", "v_proj"))


@pytest.mark.parametrize("targets", ["nothing", "lm_head"])
def test_layers_that_cannot_be_adapted_are_a_usage_error(policy_root: Path, targets: str) -> None:
    pytest.importorskip("peft")
    with pytest.raises(UsageError, match="--lora"):
        open_trainer(find_policy(str(policy_root)), ADAM, HERE, lora=Lora(4, 8.0, (targets,)))


# --- memory and time -------------------------------------------------------------------------------------------------


def test_activations_that_are_computed_again_change_nothing(policy_root: Path) -> None:
    policy, found = find_policy(str(policy_root)), []
    for again in (False, True):
        trainer = open_trainer(policy, Optimization("sgd", 0.1), Place("cpu", checkpoint_activations=again))
        calls: list[int] = []
        trainer.split.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss = update_step(trainer, learnt(1), RECIPE)["loss"]
        found.append((len(calls), loss, weights_of(trainer)))
    (once, loss, weights), (twice, same_loss, same_weights) = found
    assert twice > once and loss == pytest.approx(same_loss, abs=1e-6)
    torch.testing.assert_close(weights, same_weights, atol=1e-6, rtol=1e-6)


def test_offloading_is_for_teams(policy_root: Path) -> None:
    with pytest.raises(UsageError, match="--offload: is FSDP's; start two processes or more with torchrun"):
        open_trainer(find_policy(str(policy_root)), ADAM, Place("cpu", offload=True))


def test_the_phases_of_a_step_are_within_it(policy_root: Path) -> None:
    found = update_step(open_trainer(find_policy(str(policy_root)), ADAM, HERE), learnt(1), RECIPE)
    phases = [found[f"{name}_seconds"] for name in ("score", "train", "optimizer", "measure")]
    assert all(seconds > 0 for seconds in phases) and sum(phases) <= found["seconds"]
    assert found["mfu"] is None and found["peak_memory"] > 50_000_000


def test_model_flops_are_six_for_each_weight_and_token(tiny_policy: Path) -> None:
    split = split_model(load_model(find_policy(str(tiny_policy)), torch.float32, CPU))
    body = sum(p.numel() for name, p in split.model.named_parameters() if "layers" in name and p.ndim == 2)
    width = 2 * 32  # layers x heads' widths
    assert model_flops(split, 10, 60, 7) == 6 * body * 10 + 6 * width * 60 + 6 * 257 * 32 * 7
    for p in split.model.parameters():
        p.requires_grad_(False)
    assert model_flops(split, 10, 60, 7) == 4 * body * 10 + 6 * width * 60 + 4 * 257 * 32 * 7


def test_a_prompt_that_is_computed_once_counts_once(tiny_policy: Path) -> None:
    """Responses of 3 and 2 tokens to one prompt of 4; attention sees 4, 3 with 4 and themselves, 2 likewise."""
    split = split_model(load_model(find_policy(str(tiny_policy)), torch.float32, CPU))
    sequences = [([1] * 4, [2] * 3), ([1] * 4, [3] * 2), ([5], [6])]
    assert work_of(split, sequences, 6) == (4 + 3 + 2 + 2, 7**2 + (6**2 - 4**2) + 2**2, 6)
    alone = replace(split, sharing=Sharing(packs=False))
    assert work_of(alone, sequences, 6) == (7 + 6 + 2, 7**2 + 6**2 + 2**2, 6)


def test_peaks_are_of_devices_by_name() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_of("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_of("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_of("NVIDIA H1000", "bfloat16") is None


# --- the state on disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def three_files(tmp_path: Path) -> Iterator[tuple[Path, torch.Tensor]]:
    """A tensor of seven rows from three processes, and a number that one of them has."""
    whole = torch.arange(14.0).reshape(7, 2)
    for rank, begin in enumerate((0, 3, 6)):
        tensors = {"w:exp_avg": whole[begin : begin + 3].contiguous()} | (
            {"w:step": torch.tensor(4.0)} if not rank else {}
        )
        write_shard(tmp_path, Shard(tensors, {"w:exp_avg": begin}, rank, 3))
    yield tmp_path, whole


def test_the_state_of_three_processes_is_read_by_any_number(three_files: tuple[Path, torch.Tensor]) -> None:
    directory, whole = three_files
    state = TrainerState(directory)
    assert torch.equal(state["w:exp_avg"], whole) and state["w:step"] == 4 and sorted(state) == ["w:exp_avg", "w:step"]
    for begin, end in [(0, 4), (4, 7), (2, 3), (7, 7), (0, 7)]:
        assert torch.equal(state.part("w:exp_avg", begin, end), whole[begin:end])


@pytest.mark.parametrize("missing", ["optimizer-00001-of-00003", "optimizer-00003-of-00003"])
def test_a_state_with_a_missing_file_is_refused(
    three_files: tuple[Path, torch.Tensor], policy_root: Path, missing: str
) -> None:
    trainer = open_trainer(find_policy(str(policy_root)), ADAM, HERE)
    publish_next(trainer, {}, 1)
    directory = policy_root / "trainer-v000001"
    (directory / "optimizer.safetensors").unlink()
    for path in three_files[0].glob("optimizer-*"):
        path.rename(directory / path.name)
    (directory / f"{missing}.safetensors").unlink()
    with pytest.raises(InputError, match=r"is damaged .* remove it to start with a fresh optimiser"):
        load_trainer_state(find_policy(str(policy_root)))


@pytest.mark.parametrize(("before", "now"), [*itertools.permutations(OPTIMIZERS, 2)])
def test_another_optimiser_starts_afresh_and_the_steps_go_on(policy_root: Path, before: str, now: str, capfd) -> None:
    for name in (before, now):
        trainer = open_trainer(find_policy(str(policy_root)), replace(ADAM, optimizer=name), HERE)
        assert not trainer.optimizer.inner.state_dict()["state"]
        update_step(trainer, learnt(1), RECIPE)
        publish_next(trainer, {}, 1)
    said = f"update: {before} has trained so far, now {now} does; it starts afresh"
    assert (said in capfd.readouterr().err) == (before != "sgd")
    assert trainer.optimizer.steps == 4
    trainer = open_trainer(find_policy(str(policy_root)), replace(ADAM, optimizer=now), HERE)
    assert bool(trainer.optimizer.inner.state_dict()["state"]) == (now != "sgd")


def test_the_state_beside_a_version_is_safetensors(policy_root: Path) -> None:
    trainer = open_trainer(find_policy(str(policy_root)), ADAM, HERE)
    update_step(trainer, learnt(1), RECIPE)
    publish_next(trainer, {}, 1)
    held = {value.data_ptr() for state in trainer.optimizer.inner.state.values() for value in state.values()}
    assert {
        value.data_ptr() for value in save_state(trainer.optimizer).tensors.values()
    } == held  # of which no copy is made
    found = load_file(policy_root / "trainer-v000001" / "optimizer.safetensors")
    assert found["model.norm.weight:step"] == 2
    assert found["lm_head.weight:exp_avg"].shape == (257, 32)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "m.parquet"
    with write(str(path), "advantaged", new_record("advantage", {}), context=SAMPLING) as sink:
        for step in (1, 2):
            sink.put(step, learnt(step))
    return path


def test_an_adapter_is_trained_published_and_scored(cli: Cli, table: Path, policy_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    words = ("--lora", "r=4,alpha=8", "--lora-publish", "adapter", "--lr", "1e-3", "--checkpoint-activations")
    rate = ("--lr-schedule", "linear", "--total-steps", "4")
    ran = cli("update", "--policy", policy_root, "--publish", "--metrics", "metrics", *words, *rate, table, "--json")
    assert ran.code == 0, ran
    first, second = (json.loads(line) for line in ran.text.splitlines())
    assert (first["learning_rate"], second["learning_rate"]) == (1e-3, 0.75e-3)
    assert (first["publish_seconds"], first["critic_seconds"], first["mfu"]) == (None, None, None)
    assert second["publish_seconds"] > 0 and second["tokens_per_second"] > 0 and second["skipped_steps"] == 0
    assert is_adapter(find_policy(str(policy_root)))
    ran = cli("score", "--policy", policy_root / "v000002", table, "-o", "s.parquet", "--json")
    assert ran.code == 0, ran
    written = pq.read_table(tmp_path / "s.parquet").num_rows
    assert written == 24


def test_a_schedule_that_is_over_is_said(cli: Cli, table: Path, policy_root: Path) -> None:
    ran = cli("update", "--policy", policy_root, "--lr-schedule", "linear", "--total-steps", "1", table, "--json")
    assert [json.loads(line)["learning_rate"] for line in ran.text.splitlines()] == [1e-6, 0.0]
    assert ran.line == ("entropyctl: update: step 2: the learning rate is 0 after --total-steps 1; raise it to go on")


def test_an_adapter_to_publish_needs_one_in_training(cli: Cli, table: Path, policy_root: Path) -> None:
    ran = cli("update", "--policy", policy_root, "--publish", "--lora-publish", "adapter", table)
    wanted = "entropyctl update: --lora-publish adapter: belongs to --lora, which makes the adapter"
    assert (ran.code, ran.line) == (2, wanted)


def test_without_peft_there_are_no_adapters(cli: Cli, table: Path, policy_root: Path, tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("raise ModuleNotFoundError('gone', name='peft')\n")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ran = cli("update", "--policy", policy_root, "--lora", "r=4", table, env=path)
    assert (ran.code, ran.line) == (
        2,
        "entropyctl update: needs peft, which is not installed; run pip install 'entropyctl[lora]'",
    )


def test_steps_that_are_no_numbers_are_said_and_counted(cli: Cli, policy_root: Path, tmp_path: Path) -> None:
    with write(str(tmp_path / "m.parquet"), "advantaged", new_record("advantage", {}), context=SAMPLING) as sink:
        for step in (1, 2):
            lengths_B = row_lengths(learnt(step)["tokens"])
            broken = list_column(np.full(lengths_B.sum(), 1e30), lengths_B, pa.float32())
            sink.put(step, with_column(learnt(step), "logprobs", broken))
    words = ("--kl", "k2", "--kl-coef", "1", "--max-skipped", "2", "--json")
    ran = cli("update", "--policy", policy_root, "--publish", "m.parquet", *words)
    assert ran.code == 8, ran
    assert json.loads(ran.text)["skipped_steps"] == 1
    said = ran.err.strip().splitlines()
    assert said == [
        "entropyctl: update: step 1: skipped 1 optimiser steps, of which loss or gradient is not a number",
        "entropyctl update: a loss or a gradient is not a number, in 2 optimiser steps in a row (--max-skipped); "
        "lower --lr, or use --dtype float32",
    ]
    assert find_policy(str(policy_root)).version == 1


def test_metrics_of_older_versions_are_read_beside_new_ones(tmp_path: Path) -> None:
    new = {c.name: None if c.nullable else 1.0 for c in load_schema("metrics").columns}
    old = {name: value for name, value in new.items() if not name.endswith("_seconds") and name != "skipped_steps"}
    for step, values in ((1, old), (2, new)):
        columns = [c for c in load_schema("metrics").columns if c.name in values]
        row = {c.name: column_from([values[c.name]], c.arrow_type) for c in columns}
        row["step"] = pa.array([step], pa.int64())
        with write(str(tmp_path / f"step-00000{step}.parquet"), "metrics", new_record("update", {})) as sink:
            sink.put(step, pa.table(row))
    assert read_history(str(tmp_path))["step"].tolist() == [1, 2]
    last = watch._curves(watch.Run(str(tmp_path), None, tmp_path))[1]
    assert last is not None and last["step"] == 2


def test_a_probe_says_in_which_type_it_was_computed(policy_root: Path) -> None:
    """Weights that travel in 16 bits compute it so, and an engine in 32 bits may differ as much."""
    trainer = open_trainer(find_policy(str(policy_root)), ADAM, HERE)
    publish_next(trainer, {}, 1)
    version = find_policy(str(policy_root))
    probe = read_probe(version)
    assert probe is not None and probe.dtype == "float32"
    near = (probe.logprobs + 0.05).tolist()
    with pytest.raises(EngineError, match=r"0\.001 is allowed"):
        check_probe(version, lambda tokens: near, "float32")
    trainer.split.model.to(torch.bfloat16)
    write_probe(version.directory, trainer.split.model)
    check_probe(version, lambda tokens: near, "float32")


def test_a_fresh_adapter_is_the_same_in_every_run(policy_root: Path) -> None:
    pytest.importorskip("peft")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights = weights_of(adapting(policy_root, "merged"))
        found.append({name: w for name, w in weights.items() if "lora_A" in name})
    assert found[0] and all(torch.equal(w, found[1][name]) for name, w in found[0].items())
