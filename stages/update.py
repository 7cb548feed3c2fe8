"""Train the policy on a masked table, and publish its next version."""

from __future__ import annotations

from typing import Annotated

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Device, Dtype, Inputs, Json, Quiet


def run(argv: list[str]) -> int:
    """The `entropyctl update` command."""
    return commands.run("update", update, argv)


def update(
    inputs: Inputs = None,
    policy: commands.Policy = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the next version and make it `latest`, after every step.")
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(metavar="DIR", help="Directory that gets a metrics file for each step.")
    ] = None,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate.")] = 1e-6,
    optimizer: Annotated[str, typer.Option(metavar="adamw|sgd", help="AdamW (0.9, 0.999), or plain SGD.")] = "adamw",
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Decoupled weight decay.")] = 0.0,
    grad_clip: Annotated[float, typer.Option(metavar="X", help="Largest norm of the gradient.")] = 1.0,
    clip_low: Annotated[float, typer.Option(metavar="X", help="PPO: how far below 1 the ratio may go.")] = 0.2,
    clip_high: Annotated[float, typer.Option(metavar="X", help="PPO: how far above 1; 0.28 is DAPO's.")] = 0.2,
    dual_clip: Annotated[float, typer.Option(metavar="X", help="PPO: bound on the ratio where A < 0.")] = 3.0,
    reduction: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="token-mean, token-sum, seq-mean-token-sum, seq-mean-token-mean or seq-mean-token-sum-norm.",
        ),
    ] = "token-mean",
    norm: Annotated[
        float | None, typer.Option(metavar="X", help="Constant of seq-mean-token-sum-norm: the longest response.")
    ] = None,
    kl: Annotated[
        str, typer.Option(metavar="k1|k2|k3|abs", help="Estimator of the penalty that a mask asks for.")
    ] = "k3",
    mini_batches: Annotated[int, typer.Option(metavar="N", help="Optimiser steps per epoch; groups stay whole.")] = 1,
    epochs: Annotated[int, typer.Option(metavar="N", help="How often the step's responses are used.")] = 1,
    token_budget: commands.TokenBudget = 4096,
    dtype: Dtype = "float32",
    device: Device = "auto",
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the policy on a masked table, and publish its next version.

    loss = (1/Z) sum_t loss_mask_t [ w_t l_PPO(r_t, A_t) + c_t KL_t ],   r_t = p(token) / p_scored(token)

    with w and c from the table (1 and 0 where it has none) and Z from --reduction. Weights and optimiser state
    are float32; --dtype bfloat16 computes the passes in it.
    """
    params = dict(locals())
    from functools import partial

    from entropyctl.policy.publish import policy_to_train
    from entropyctl.registry import load_function
    from entropyctl.reporting import report
    from entropyctl.table import new_record, read
    from entropyctl.training import NEEDS, OPTIONAL, Recipe, check_policy, open_trainer, train_steps

    path = commands.required("--policy", policy)
    allowed = tuple(allow_mismatch or ())
    with (
        policy_to_train(path, publish=publish) as found,
        read(inputs or ["-"], columns=OPTIONAL, needs=NEEDS, allow_mismatch=allowed) as source,
    ):
        ppo = load_function("objectives", "ppo")
        recipe = Recipe(
            objective=partial(ppo, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip),
            reduction=reduction,
            norm=norm,
            kl=kl,
            mini_batches=mini_batches,
            epochs=epochs,
            grad_clip=grad_clip,
            token_budget=token_budget,
            temperature=source.temperature,
            dtype=dtype,
        )
        check_policy(source, found, allowed)
        trainer = open_trainer(found, optimizer, lr, weight_decay, device)
        record = new_record("update", params, policy=found.digest)
        for values in train_steps(trainer, source, recipe, record, publish=publish, metrics=metrics, quiet=quiet):
            shown = values if json else {name: values[name] for name in HEADLINES}
            report("update", shown, as_json=json, quiet=quiet, stdout_is_data=False)


# What a person sees of a step's metrics; --json and --metrics have them all.
HEADLINES = (
    "step",
    "published_version",
    "reward",
    "entropy",
    "entropy_after",
    "realised_change",
    "predicted_change",
    "mask_fraction",
    "grad_norm",
    "seconds",
)
