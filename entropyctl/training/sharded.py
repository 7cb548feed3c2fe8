"""A model whose weights, gradients and optimiser state are spread over the processes of a team, by FSDP2.

Each process runs forward passes over its own rows with weights that are gathered layer by layer, so all processes must
make the same number of passes: who has fewer makes idle ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from entropyctl.errors import UsageError
from entropyctl.policy.checkpoint import parse_device, parse_dtype
from entropyctl.policy.probe import Probe, compute_probe
from entropyctl.tokenstats import SplitModel, forward_batches, score_sequences
from entropyctl.training.heap import bound_holes, keep_freed
from entropyctl.training.processes import Team
from entropyctl.training.recipe import Recipe

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]

# The rows of an idle pass: one token that predicts one.
IDLE: Sequences = [([0], [0])]


@dataclass(frozen=True)
class Place:
    """Where and how a model in training is held.

    Attributes:
        device: as the user names it.
        dtype: of the passes; where a model is spread over processes, its weights travel in it.
        checkpoint_activations: keep what goes into each layer, and compute the rest again in the backward pass.
        offload: keep weights, gradients and optimiser state in the machine's memory, a layer on the GPU at a time.
    """

    device: str = "auto"
    dtype: str = "float32"
    checkpoint_activations: bool = False
    offload: bool = False


def spread(load: Callable[[torch.device], SplitModel], place: Place, team: Team) -> SplitModel:
    """A model on a device, or each process's shard of it.

    Each process reads the checkpoint into the machine's memory and proves its parts there; a GPU never holds more than
    its shard and one layer.

    Args:
        load: the model on a device.
        place: where it goes.
        team: the processes.

    Raises:
        UsageError: one process alone is to offload.
    """
    if place.offload and team.size == 1:
        raise UsageError("--offload: is FSDP's; start two processes or more with torchrun, or leave it out")
    keep_freed()
    split = load(parse_device(place.device) if team.size == 1 else torch.device("cpu"))
    if (split.device if team.size == 1 else team.device).type == "cpu":
        bound_holes(_blocks(split.body))
    if place.checkpoint_activations:
        for block in _blocks(split.body):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    return split if team.size == 1 else _sharded(split, place, team)


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


def _sharded(split: SplitModel, place: Place, team: Team) -> SplitModel:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard

    more: dict[str, Any] = {"mesh": init_device_mesh(team.device.type, (team.size,))}
    if place.dtype != "float32":
        more["mp_policy"] = MixedPrecisionPolicy(param_dtype=parse_dtype(place.dtype), reduce_dtype=torch.float32)
    if place.offload:
        more["offload_policy"] = CPUOffloadPolicy(pin_memory=team.device.type == "cuda")
    for block in _blocks(split.body):
        fully_shard(block, **more)
    root: Any = _Root(split.model)
    fully_shard(root, **more)
    for unit in root.modules():
        if isinstance(unit, FSDPModule):
            # The loss has the denominators of the whole mini-batch, so gradients add up. gloo knows no other sum.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
    if hasattr(root, "set_reduce_scatter_unused_params"):  # since torch 2.13
        # An expert that no token of this process came to has no gradient here, and perhaps one elsewhere.
        root.set_reduce_scatter_unused_params(True)
    return replace(split, within=partial(_within, root), place=team.device)


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


def rows_here(tensor: Any) -> tuple[int, int]:
    """Which rows of a tensor that is spread this process holds: FSDP2 deals them out as `torch.chunk` does."""
    each = -(-tensor.shape[0] // tensor.device_mesh.size())
    begin = min(tensor.device_mesh.get_local_rank() * each, tensor.shape[0])
    return begin, min(begin + each, tensor.shape[0])


def here(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def like(rows: Tensor, parameter: Any) -> Tensor:
    """The rows that this process holds of a tensor that has as many of them as a parameter, as the parameter is held.

    Args:
        rows: `rows_here` of it where it is spread, else all; of any shape behind the rows.
        parameter: on its device, spread or not.
    """
    rows = rows.to(parameter.device)
    if not hasattr(parameter, "device_mesh"):
        return rows
    from torch.distributed.tensor import DTensor

    size = torch.Size((parameter.shape[0], *rows.shape[1:]))
    stride = torch.empty(size, device="meta").stride()
    return DTensor.from_local(
        rows, parameter.device_mesh, parameter.placements, run_check=False, shape=size, stride=stride
    )


class Gathered(NamedTuple):
    """What is published of a model."""

    weights: dict[str, Tensor]
    probe: Probe | None = None  # None where the model is in one piece and can say it by itself


@torch.no_grad()
def gather(split: SplitModel, team: Team) -> Gathered:
    """Gather a model's weights in the first process, for publishing; all processes must take part."""
    model = split.model
    if team.size == 1:
        return Gathered(model.state_dict())
    probe = split.within(partial(compute_probe, model)) if model.get_output_embeddings() is not None else None
    weights: dict[str, Tensor] = {}
    known: dict[int, Tensor] = {}  # a tied weight has two names, and stays one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            full = whole(tensor.detach())
            known[id(tensor)] = full.cpu() if team.leads else full[:0]
        weights[name] = known[id(tensor)]
    return Gathered(weights, probe)
