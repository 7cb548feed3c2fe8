"""Flags that belong together: a stage takes each group as one value, and has a flag for each of its fields."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import typer

from entropyctl.commands import Device, Dtype

LogTo = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="LOGGER",
        help="Also give the numbers to wandb, tensorboard[:DIR], trackio or mlflow; may be repeated. One that fails is "
        "left out, with a notice.",
    ),
]


class Optimizing(NamedTuple):
    """The optimiser and its rates."""

    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate.")] = 1e-6
    lr_schedule: Annotated[
        str,
        typer.Option(
            metavar="constant|linear|cosine",
            help="What becomes of it after the warm-up: the last two fall to 0 at --total-steps.",
        ),
    ] = "constant"
    warmup_steps: Annotated[
        int, typer.Option(min=0, metavar="N", help="Optimiser steps over which it rises from 0; the first has rate 0.")
    ] = 0
    total_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Optimiser steps of the policy's whole training.")
    ] = None
    optimizer: Annotated[
        str,
        typer.Option(
            metavar="adamw|adamw-8bit|sgd",
            help="AdamW (0.9, 0.999), the same with a quarter of its state (2110.02861), or plain SGD.",
        ),
    ] = "adamw"
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Decoupled weight decay.")] = 0.0
    max_skipped: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="An optimiser step whose loss or gradient is not a number is left out; after N in a row, an error.",
        ),
    ] = 3


class EntropyControl(NamedTuple):
    """The entropy bonus and who moves it."""

    entropy_control: Annotated[
        Literal["fixed", "skywork", "trl"], typer.Option(help="Who moves the coefficient towards the target.")
    ] = "fixed"
    entropy_coef: Annotated[
        float, typer.Option(metavar="X", help="Entropy bonus: loss -= X H. Where a controller moves it, its start.")
    ] = 0.0
    entropy_target: Annotated[
        float | None, typer.Option(metavar="H", help="Entropy that a controller holds, nats: 0.2 without it.")
    ] = None
    entropy_delta: Annotated[
        float | None, typer.Option(metavar="X", help="Its step: 1e-4 (skywork) or 5e-3 (trl).")
    ] = None
    entropy_max: Annotated[
        float | None, typer.Option(metavar="X", help="Its largest coefficient: 5e-3 (skywork) or 1 (trl).")
    ] = None


class CriticTraining(NamedTuple):
    """A critic beside the policy."""

    critic: Annotated[
        str | None, typer.Option(metavar="DIR", help="Critic to train and publish beside the policy, on returns.")
    ] = None
    critic_lr: Annotated[float, typer.Option(metavar="X", help="Its learning rate.")] = 1e-5
    critic_clip: Annotated[
        float, typer.Option(metavar="X", help="How far its values may move from those in the table.")
    ] = 0.5


class LoraTraining(NamedTuple):
    """An adapter in place of the weights."""

    lora: Annotated[
        str | None,
        typer.Option(
            metavar="r=N,alpha=X,targets=A+B",
            help="Train a low-rank adapter of the policy (needs peft): r 16, alpha 2 r, targets all-linear or layers' "
            "names. The same on every run of the policy.",
        ),
    ] = None
    lora_publish: Annotated[
        Literal["merged", "adapter"],
        typer.Option(help="Versions are whole models, or adapters of the checkpoint that the first run began with."),
    ] = "merged"


class Holding(NamedTuple):
    """Where the model in training is held, and how."""

    dtype: Dtype = "float32"
    device: Device = "auto"
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Compute layers again in the backward pass: less memory.")
    ] = False
    offload: Annotated[
        bool,
        typer.Option("--offload", help="Under torchrun: weights and optimiser state stay in the machine's memory."),
    ] = False
