"""What the processes of a team do that do not lead: the work on each step, as the first process tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.policy import Policy
from entropyctl.policy.versions import checked
from entropyctl.training.critic import Critic, critic_step
from entropyctl.training.live import LiveMask
from entropyctl.training.processes import Team
from entropyctl.training.recipe import Recipe
from entropyctl.training.update import Trainer, publish_all, update_step


def tell_beginning(
    team: Team,
    policy: Policy,
    critic: Policy | None,
    temperature: float,
    live: tuple[LiveMask, ...],
    options: dict[str, Any],
) -> None:
    """Tell the others what the first process has found out; `follow` hears it.

    Args:
        team: the processes.
        policy: the version to train.
        critic: the critic's.
        temperature: that the rows were sampled with.
        live: the masks that run again.
        options: of the command line, which must be the others' too.
    """
    masks = [[mask.name, mask.params] for mask in live]
    places = {"policy": _as_facts(policy), "critic": None if critic is None else _as_facts(critic)}
    team.tell({**places, "temperature": temperature, "masks": masks, "options": options})


def _as_facts(policy: Policy) -> list[Any]:
    root = None if policy.root is None else str(policy.root.absolute())
    return [str(policy.directory.absolute()), policy.version, root]


def follow(
    team: Team,
    recipe: Recipe,
    open_policy: Callable[[Policy], Trainer],
    open_judge: Callable[[Policy], Critic],
    options: dict[str, Any],
    *,
    publish: bool,
) -> None:
    """Train as the first process tells, until it has no more.

    Args:
        team: the processes.
        recipe: how to train, but for the temperature.
        open_policy: takes a version in training.
        open_judge: takes a critic's version in training.
        options: of this process's command line.
        publish: whether a version follows each step.

    Raises:
        UsageError: the first process was started with other options.
    """
    told, _ = team.hear()
    # As JSON has them: tuples are lists there.
    if other := sorted(name for name in told["options"] if told["options"][name] != options.get(name)):
        raise UsageError(f"--{other[0].replace('_', '-')}: differs between the processes; give all of them the same")
    recipe = replace(recipe, temperature=told["temperature"])
    live = tuple(LiveMask(name, registry.load_function("masks", name), params) for name, params in told["masks"])
    critic = None if told["critic"] is None else open_judge(_from_facts(told["critic"]))
    trainer = open_policy(_from_facts(told["policy"]))
    if recipe.bonus is not None:
        recipe.bonus.restore(trainer.facts)
    while not (heard := team.hear())[0].get("end"):
        facts, rows = heard
        if rows is not None:
            update_step(trainer, rows, recipe, scored_here=facts["scored_here"], live=live)
            if critic is not None:
                critic_step(critic, rows, recipe)
        if publish:
            publish_all(trainer, critic, recipe, facts["step"], None)


def _from_facts(facts: list[Any]) -> Policy:
    directory, version, root = facts
    return Policy(checked(Path(directory)), version, None if root is None else Path(root))
