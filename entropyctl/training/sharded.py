"""A model whose weights, gradients and optimiser state are spread over the processes of a team, by FSDP2.

Each process runs forward passes over its own rows with weights that are gathered layer by layer, so all processes must
make the same number of passes: who has fewer makes idle ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from entropyctl.policy.checkpoint import parse_device
from entropyctl.policy.probe import Probe, compute_probe
from entropyctl.tokenstats import SplitModel, forward_batches, score_sequences
from entropyctl.training.processes import Team
from entropyctl.training.recipe import Recipe

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]

# The rows of an idle pass: one token that predicts one.
IDLE: Sequences = [([0], [0])]


def spread(load: Callable[[torch.device], SplitModel], device: str, team: Team) -> SplitModel:
    """A model on a device, or each process's shard of it.

    Each process reads the checkpoint into the machine's memory and proves its parts there; a GPU never holds more than
    its shard and one layer.

    Args:
        load: the model on a device.
        device: where to compute, as the user names it.
        team: the processes.
    """
    return load(parse_device(device)) if team.size == 1 else _sharded(load(torch.device("cpu")), team)


class _Root(torch.nn.Module):
    """Runs any function as its forward pass.

    FSDP gathers the weights of a module for its forward and backward pass, and knows a pass by a call of the module.
    Ours is body, head and statistics in one, and the head is used block by block, again in the backward pass, and may
    be the embedding: so embedding, last norm and head are gathered once around all of it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def _sharded(split: SplitModel, team: Team) -> SplitModel:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(team.device.type, (team.size,))
    for block in _blocks(split.body):
        fully_shard(block, mesh=mesh)
    root: Any = _Root(split.model)
    fully_shard(root, mesh=mesh)
    for unit in root.modules():
        if isinstance(unit, FSDPModule):
            # The loss has the denominators of the whole mini-batch, so gradients add up. gloo knows no other sum.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
    if hasattr(root, "set_reduce_scatter_unused_params"):  # since torch 2.13
        # An expert that no token of this process came to has no gradient here, and perhaps one elsewhere.
        root.set_reduce_scatter_unused_params(True)
    return replace(split, within=partial(_within, root))


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers: what stands in the outermost lists of modules."""
    if isinstance(module, torch.nn.ModuleList):
        return list(module)
    return [block for child in module.children() for block in _blocks(child)]


def _within(root: Any, function: Callable[[], Any]) -> Any:
    found = root(function)
    if not torch.is_grad_enabled():  # else its backward pass does it
        root.reshard()
    return found


def idle_backward(*outputs: Tensor | None) -> None:
    """The backward pass of an idle one, which adds nothing to the gradients."""
    loss = sum(0.0 * output.sum() for output in outputs if output is not None)
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]


class Share(NamedTuple):
    """What a process does of a batch: rows, and idle passes after them."""

    rows: list[int]
    idle: int


def share_of(split: SplitModel, sequences: Sequences, budget: int, team: Team) -> Share:
    """This process's share of a batch that all processes know.

    Args:
        split: the model.
        sequences: of the whole batch; responses are not empty.
        budget: most tokens in one pass.
        team: the processes.
    """
    if team.size == 1:
        return Share(list(range(len(sequences))), 0)
    shares = fair_shares([len(prompt) + len(response) for prompt, response in sequences], team.size)
    passes = [len(forward_batches(split, [sequences[i] for i in rows], budget)) for rows in shares]
    return Share(shares[team.rank], max(passes) - passes[team.rank])


def fair_shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Rows of each of `count` processes: the longest first, each to the process that has the fewest tokens so far.

    Args:
        lengths: tokens of each row.
        count: of processes; some get no row where there are fewer rows.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = tokens.index(min(tokens))
        shares[least].append(row)
        tokens[least] += lengths[row]
    return [sorted(share) for share in shares]


def score_together(split: SplitModel, sequences: Sequences, recipe: Recipe, team: Team) -> Any:
    """`score_sequences`, each process for its share; all get the statistics of all tokens."""
    score = partial(score_sequences, split, temperature=recipe.temperature, token_budget=recipe.token_budget)
    if team.size == 1:
        return score(sequences)
    answered = [i for i, (_, response) in enumerate(sequences) if len(response)]
    share = share_of(split, [sequences[i] for i in answered], recipe.token_budget, team)
    mine = [answered[i] for i in share.rows]
    found = score([sequences[i] for i in mine])
    for _ in range(share.idle):
        score(IDLE)
    starts = np.concatenate([[0], np.cumsum([len(response) for _, response in sequences])]).astype(np.int64)
    at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in mine] or [np.zeros(0, np.int64)])
    numbers = np.zeros((len(found), starts[-1]), np.float32)
    numbers[:, at] = torch.stack(list(found)).numpy()
    return type(found)(*torch.from_numpy(team.sum(numbers)))


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is perhaps spread over the processes, gathered; all of them must ask for it."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def like(values: Tensor, parameter: Any) -> Tensor:
    """Values of a parameter's shape as the parameter is: on its device, spread as it is."""
    values = values.to(parameter.device)
    if not hasattr(parameter, "device_mesh"):
        return values
    from torch.distributed.tensor import distribute_tensor

    # Every process has read the same values: each takes its part of its own.
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)


class Gathered(NamedTuple):
    """What is published of a model; None where the model is in one piece and can say it by itself."""

    weights: dict[str, Tensor] | None = None
    probe: Probe | None = None


@torch.no_grad()
def gather(split: SplitModel, team: Team) -> Gathered:
    """Gather a model's weights in the first process, for publishing; all processes must take part."""
    if team.size == 1:
        return Gathered()
    model = split.model
    probe = split.within(partial(compute_probe, model)) if model.get_output_embeddings() is not None else None
    weights: dict[str, Tensor] = {}
    known: dict[int, Tensor] = {}  # a tied weight has two names, and stays one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            full = whole(tensor.detach())
            known[id(tensor)] = full.cpu() if team.leads else full[:0]
        weights[name] = known[id(tensor)]
    return Gathered(weights, probe)
