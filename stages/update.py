"""Train the policy on a masked table, and publish its next version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from entropyctl import commands, methods
from entropyctl.commands import AllowMismatch, Inputs, Json, Quiet
from entropyctl.flags import CriticTraining, EntropyControl, Holding, LogTo, LoraTraining, Optimizing


def run(argv: list[str]) -> int:
    """The `entropyctl update` command."""
    return commands.as_one(lambda: methods.run_with("update", "objectives", "objective", "ppo", update, argv))


def update(
    method: str,
    function: Callable[..., Any],
    params: dict[str, Any],
    inputs: Inputs = None,
    policy: commands.Policy = None,
    objective: Annotated[
        str,
        typer.Option(metavar="NAME", help="Policy loss; its own flags are above. `entropyctl objective` lists them."),
    ] = "ppo",
    mask: Annotated[
        Literal["saved", "live"],
        typer.Option(help="The mask's numbers from the file, or made again on each mini-batch by the recorded method."),
    ] = "saved",
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the next version and make it `latest`, after every step.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="With --publish: delete all versions but the newest N and those being read."
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="DIR", help="Directory that gets a metrics file for each step.")
    ] = None,
    optimizing: Optimizing = Optimizing(),  # noqa: B008, a constant
    adapting: LoraTraining = LoraTraining(),  # noqa: B008
    grad_clip: Annotated[float, typer.Option(metavar="X", help="Largest norm of the gradient.")] = 1.0,
    reduction: commands.Reduction = None,
    norm: commands.Norm = None,
    all_rows: commands.AllRows = False,
    kl: commands.Kl = "k3",
    kl_coef: commands.KlCoef = 0.0,
    kl_to: commands.KlTo = "old",
    ref_kl: commands.RefKl = "k3",
    ref_kl_coef: commands.RefKlCoef = 0.0,
    entropy: EntropyControl = EntropyControl(),  # noqa: B008
    judging: CriticTraining = CriticTraining(),  # noqa: B008
    mini_batches: Annotated[int, typer.Option(metavar="N", help="Optimiser steps per epoch; groups stay whole.")] = 1,
    epochs: Annotated[int, typer.Option(metavar="N", help="How often the step's responses are used.")] = 1,
    token_budget: commands.TokenBudget = 4096,
    holding: Holding = Holding(),  # noqa: B008
    log: LogTo = None,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the policy on a masked table, and publish its next version.

    loss = (1/Z) sum_t loss_mask_t [ w_t l_t(r_t, A_t) + (c_t + kl_coef) KL_t + ref_kl_coef KL_t(ref) - coef H_t ]

    with w and c from the table (1 and 0 where it has none), l from --objective and Z from --reduction;
    r_t = p(token) / p_scored(token). Weights and optimiser state are float32; --dtype bfloat16 computes the
    passes in it.

    Entropy bonus: coef is --entropy-coef, or is moved by D = --entropy-delta within 0 and --entropy-max, up while
    H < target, else down, and acts while H < target. skywork (2505.22312) does so once a step, with H = -mean log p of
    the sampled tokens; its scripts have D 1e-4 and at most 5e-3, its configuration 1e-3 and 0.5. trl does so once an
    optimiser step, with the exact H of the mini-batch before and H <= target; D 5e-3 and at most 1, no bonus at first.

    With --publish every step makes a version, one without a token to learn from too. A step may be scored by any
    version that this run has had in training (a file of several steps, `rollout --max-lag`): `lag` in the metrics.

    Under torchrun the weights, gradients and optimiser state are spread over its processes (FSDP2), and the rows of a
    mini-batch are shared out; the result is that of one process. The first process reads, publishes, logs and speaks.
    torchrun takes --log for an option of its own unless -- stands before the program: torchrun ... -- entropyctl update

    --lora r=16,alpha=32,targets=all-linear (or q_proj+v_proj, ...) trains W + (alpha / r) B A for W (2106.09685).
    A policy of versions goes on with the same adapter, of the checkpoint that the first run with it began with, which
    must stay where it is. A critic is trained whole.

    A schedule counts optimiser steps over all runs of the policy, those of a step that is left out not.

    Greedy baseline rows are left out. prime-rm trains a reward model (--policy is its directory) and takes no mask.

    With --critic: value loss = (1/Z) sum_t loss_mask_t 1/2 max((v_t - R_t)^2, (clip(v_t, v_old_t +- X) - R_t)^2)
    with R from `advantage gae`, v_old from `score --critic`, and Z, mini-batches, epochs, optimiser, decay and
    grad-clip as for the policy.
    """
    given = commands.recorded(locals())
    from entropyctl.loggers import open_loggers, parse_loggers, run_of

    logging = parse_loggers(log)  # before torch, which takes seconds to import
    from contextlib import ExitStack, nullcontext
    from dataclasses import replace
    from functools import partial

    from entropyctl.errors import UsageError
    from entropyctl.objectives import default_reduction
    from entropyctl.policy.publish import policy_to_train
    from entropyctl.reporting import report
    from entropyctl.table import new_record, read
    from entropyctl.training import (
        EntropyBonus,
        Optimization,
        Recipe,
        check_loop,
        check_policy,
        columns_for,
        open_trainer,
        train_steps,
    )
    from entropyctl.training.critic import NEEDS as CRITIC_NEEDS
    from entropyctl.training.critic import open_critic
    from entropyctl.training.follower import follow, tell_beginning
    from entropyctl.training.live import recorded_masks
    from entropyctl.training.lora import parse_lora
    from entropyctl.training.processes import together
    from entropyctl.training.sharded import Place

    path = commands.required("--policy", policy)
    allowed = tuple(allow_mismatch or ())
    how, critic = Optimization(**optimizing._asdict()), judging.critic
    if adapting.lora is None and adapting.lora_publish != "merged":
        raise UsageError(f"--lora-publish {adapting.lora_publish}: belongs to --lora, which makes the adapter")
    bonus = EntropyBonus(*entropy)
    recipe = Recipe(
        objective=partial(function, **params),
        reduction=reduction or default_reduction(method),
        norm=norm,
        all_rows=all_rows,
        kl=kl,
        kl_coef=kl_coef,
        kl_to=kl_to,
        ref_kl=ref_kl,
        ref_kl_coef=ref_kl_coef,
        bonus=bonus if entropy.entropy_coef or entropy.entropy_control != "fixed" else None,
        mini_batches=mini_batches,
        epochs=epochs,
        grad_clip=grad_clip,
        token_budget=token_budget,
        dtype=holding.dtype,
    )
    if mask == "live" and recipe.trains != "policies":
        raise UsageError(f"--mask live: masks are the policy's, and --objective {method} trains another model")
    needed, wanted = columns_for(recipe.reads)
    wanted += ["greedy", "policy_version"]
    if keep is not None and not publish:
        raise UsageError("--keep: belongs to --publish, which makes the versions")
    needed += CRITIC_NEEDS if critic is not None else ()
    # A mask that runs again may want any column; which ones stands in the file.
    columns = None if mask == "live" else wanted
    options = {**params, **given}
    with together(holding.device) as team:
        lora, place = parse_lora(adapting.lora), Place(**holding._asdict())
        opened = partial(open_trainer, how=how, place=place, team=team, lora=lora, lora_publish=adapting.lora_publish)
        judge_how = replace(how, lr=judging.critic_lr, lr_flag="--critic-lr")
        opened_judge = partial(open_critic, how=judge_how, clip=judging.critic_clip, place=place, team=team)
        if not team.leads:
            follow(team, recipe, opened, opened_judge, options, publish=publish)
            return
        with (
            policy_to_train(path, publish=publish) as found,
            policy_to_train(critic, publish=publish, what="critic") if critic is not None else nullcontext() as judge,
            read(inputs or ["-"], columns=columns, needs=needed, allow_mismatch=allowed) as source,
            ExitStack() as stack,
        ):
            check_loop(source, found, publish=publish, keep=keep)
            recipe = replace(recipe, temperature=source.temperature)
            live = recorded_masks(source) if mask == "live" else ()
            if "advantages" in recipe.reads or recipe.trains != "policies":
                check_policy(source, found, allowed, recipe.trains)
            if judge is not None:
                check_policy(source, judge, allowed, "critic")
            tell_beginning(team, found, judge, recipe.temperature, live, options)
            learning = None if judge is None else opened_judge(judge)
            trainer = opened(found)
            bonus.restore(trainer.facts)
            record = new_record("update", options, policy=found.digest)
            loggers = stack.enter_context(open_loggers(logging, run_of("update", metrics or path, options), quiet))
            for values in train_steps(
                trainer,
                source,
                recipe,
                record,
                publish=publish,
                metrics=metrics,
                quiet=quiet,
                live=live,
                critic=learning,
                keep=keep,
            ):
                loggers.log(values["step"], values)
                names = HEADLINES if critic is None else (*HEADLINES, "value_loss", "explained_variance")
                shown = values if json else {name: values[name] for name in names}
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
