"""What tests/test_torchrun.py has torchrun start: steps of training, each from a fresh model, and what came of them.

torchrun ... tests/team_program.py DIRECTORY: reads `rows.parquet` and models there; the first process writes `N.json`
and `N.safetensors` for a team of N.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from entropyctl import registry
from entropyctl.objectives import gspo, ppo, prime_rm
from entropyctl.policy import find_policy
from entropyctl.table import read
from entropyctl.table.columns import flat_values, list_column, row_lengths, with_column
from entropyctl.training import EntropyBonus, Recipe, open_trainer, update_step
from entropyctl.training.critic import critic_step, open_critic
from entropyctl.training.live import LiveMask
from entropyctl.training.lora import Lora
from entropyctl.training.optimizer import Optimization, Optimizer
from entropyctl.training.processes import Team, together
from entropyctl.training.sharded import Place, gather, whole

PLAIN = {
    "objective": ppo,
    "reduction": "token-mean",
    "norm": None,
    "kl": "k3",
    "mini_batches": 1,
    "epochs": 2,
    "grad_clip": 0.5,
    "token_budget": 60,
    "dtype": "float32",
}


def numbers(rows: pa.Table, name: str, values_N: np.ndarray) -> pa.Table:
    return with_column(rows, name, list_column(values_N, row_lengths(rows["tokens"]), pa.float32()))


def few_weights(rows: pa.Table) -> pa.Table:
    weights_N = np.zeros(len(flat_values(rows["tokens"])), np.float32)
    weights_N[::17] = 1.0
    return numbers(rows, "weights", weights_N)


def no_advantages(rows: pa.Table) -> pa.Table:
    return numbers(rows, "advantages", np.zeros(len(flat_values(rows["tokens"])), np.float32))


def two_rows(rows: pa.Table) -> pa.Table:
    return rows.slice(0, 2)


def an_empty_response(rows: pa.Table) -> pa.Table:
    """The first response has no token."""
    for name in rows.column_names:
        if pa.types.is_list(rows.schema.field(name).type) and name != "prompt_tokens":
            values = rows[name].to_pylist()
            rows = with_column(rows, name, pa.array([[], *values[1:]], rows.schema.field(name).type))
    return rows


def same(rows: pa.Table) -> pa.Table:
    return rows


# AdamW moves a weight by the whole rate along a gradient that is nothing but rounding, so its rate is small here;
# plain SGD shows the gradients themselves.
RATES = {"adamw": 1e-4, "adamw-8bit": 1e-4, "sgd": 0.3}

# name: changes of the recipe, of the rows, and what else
SCENARIOS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "each response its own pass": ({"token_budget": 1}, same, {"optimizer": "adamw"}),
    "passes of 60 tokens": ({}, same, {"optimizer": "adamw"}),
    "one pass": ({"token_budget": 100_000}, same, {"optimizer": "adamw"}),
    "means of responses": ({"reduction": "seq-mean-token-mean"}, same, {}),
    "mini-batches": ({"mini_batches": 4, "epochs": 1}, same, {}),
    "tied embeddings": ({}, same, {"policy": "tied", "optimizer": "adamw"}),
    "a mask that removes most": ({}, few_weights, {}),
    "nothing has a gradient": ({}, no_advantages, {"optimizer": "adamw"}),
    "fewer responses than processes": ({}, two_rows, {}),
    "an empty response": ({}, an_empty_response, {}),
    "ratios of responses": ({"objective": gspo, "reduction": "seq-mean-token-mean"}, same, {}),
    "penalties": ({"kl_coef": 0.1, "kl": "k2"}, same, {}),
    "an entropy bonus": ({}, same, {"bonus": ("trl", 0.01, 9.0)}),
    "a live mask": ({"mini_batches": 2}, same, {"live": True}),
    "a reward model": ({"objective": prime_rm}, same, {}),
    "a critic": ({"mini_batches": 2}, same, {"critic": True}),
    "activations computed again": ({}, same, {"place": {"checkpoint_activations": True}}),
    "offloaded": ({}, same, {"place": {"offload": True}, "optimizer": "adamw"}),
    "a state that one process wrote": ({}, same, {"policy": "trained", "optimizer": "adamw"}),
    "an adapter": ({}, same, {"policy": "adapted", "lora": Lora(4, 8.0), "optimizer": "adamw"}),
    "8 bits": ({}, same, {"optimizer": "adamw-8bit"}),
    "bfloat16": ({"dtype": "bfloat16"}, same, {"place": {"dtype": "bfloat16"}}),
}
# What rounding makes of it depends on the passes.
ROUGH = ("8 bits", "bfloat16")


def state_of(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's tensors, each whole."""
    named = [(name, optimizer.inner.state.get(p, {})) for name, p in optimizer.model.named_parameters()]
    return {f"{name}:{quantity}": whole(value) for name, state in named for quantity, value in state.items()}


def run(place: Path, team: Team) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Every scenario: the metrics, and the weights and the optimiser's state after it."""
    with read([str(place / "rows.parquet")]) as source:
        table = next(iter(source)).rows
    metrics, tensors = {}, {}
    for name, (changes, change_rows, more) in SCENARIOS.items():
        bonus = EntropyBonus(*more["bonus"]) if "bonus" in more else None
        recipe = Recipe(**{**PLAIN, "bonus": bonus, **changes})
        mask = LiveMask("clip-v", registry.load_function("masks", "clip-v"), {"mu": 1.0, "max_frac": 0.5})
        live = (mask,) if "live" in more else ()
        rows = change_rows(table)
        optimizer = more.get("optimizer", "sgd")
        how = Optimization(optimizer, RATES[optimizer], 0.01)
        held = {key: value for key, value in more.get("place", {}).items() if key != "offload" or team.size > 1}
        there = Place("cpu", **held)
        if "critic" in more:
            trainer = open_critic(find_policy(str(place / "critic")), how, 0.5, there, team)
            found = critic_step(trainer, rows, recipe)
        else:
            policy = find_policy(str(place / more.get("policy", "tiny")))
            trainer = open_trainer(policy, how, there, team, more.get("lora"))
            found = update_step(trainer, rows, recipe, live=live)
        model = trainer.split.model
        here = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters())
        shares = np.zeros(team.size)
        shares[team.rank] = here / sum(p.numel() for p in model.parameters())
        metrics[name] = {**found, "shares": team.sum(shares).tolist()}
        state, weights = state_of(trainer.optimizer), gather(trainer.split, team).weights
        tensors |= {f"{name}/{key}": value.detach().clone() for key, value in {**weights, **state}.items()}
    return metrics, tensors


def main() -> None:
    place = Path(sys.argv[1])
    with together("cpu") as team:
        metrics, tensors = run(place, team)
        if team.leads:
            save_file(tensors, place / f"{team.size}.safetensors")
            (place / f"{team.size}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
