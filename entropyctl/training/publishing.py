"""Publishing what a team has trained: weights gathered in its first process, state written by each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from entropyctl.errors import OutputError
from entropyctl.policy import Policy
from entropyctl.policy.publish import publish, unfinished
from entropyctl.policy.trainer_state import Shard, trainer_directory, write_shard
from entropyctl.policy.versions import version_name
from entropyctl.tokenstats import SplitModel
from entropyctl.training.lora import Adapter, saver
from entropyctl.training.optimizer import Optimizer, save_state
from entropyctl.training.processes import Team
from entropyctl.training.sharded import gather


def publish_trained(
    policy: Policy,
    split: SplitModel,
    optimizer: Optimizer,
    facts: dict[str, Any],
    team: Team,
    *,
    step: int | None,
    adapter: Adapter | None = None,
) -> Policy:
    """Publish trained weights as the next version; all processes must take part.

    Args:
        policy: the version that was trained.
        split: its model.
        optimizer: whose state is published beside the version.
        facts: what else the next run continues with.
        team: the processes.
        step: that was trained.
        adapter: in training in place of the weights.

    Returns:
        The new version.

    Raises:
        OutputError: the disk refuses.
    """
    assert policy.root is not None
    shard, found = save_state(optimizer, weights=adapter is not None, leads=team.leads), gather(split, team)
    if not team.leads:
        version = policy.version + 1
        _write(unfinished(trainer_directory(policy.root, version)), shard, team)
        return Policy(policy.root / version_name(version), version, policy.root)
    save, base = None, None
    if adapter is not None:
        facts = facts | adapter.facts(policy.root)
        save, base = saver(split.model, adapter, found.weights), facts["base"]
    elif team.size > 1:
        save = partial(split.model.save_pretrained, state_dict=found.weights)
    write = partial(_write, shard=shard, team=team)
    return publish(policy, split.model, write, facts, step=step, save=save, probe=found.probe, base=base)


def _write(directory: Path, shard: Shard, team: Team) -> None:
    """Write this process's part of the state, once the first has made the directory; return when all have."""
    team.wait()
    try:
        write_shard(directory, shard._replace(rank=team.rank, size=team.size))
    except (OSError, SafetensorError) as error:
        if team.leads:
            raise
        if not directory.is_dir():
            raise OutputError(
                f"{directory}: is not there on the machine of process {team.rank}; put the policy where all machines "
                "of the training see it"
            ) from None
        raise OutputError(f"{directory}: cannot be written ({error}); free some space and run the step again") from None
    team.wait()
