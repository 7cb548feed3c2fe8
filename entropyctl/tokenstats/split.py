"""A causal language model as its parts: the body (ids to hidden states) and the head (hidden states to logits)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entropyctl.errors import EngineError
from entropyctl.tokenstats.head import Head, tile_logits


def _here(forward: Callable[[], Any]) -> Any:
    return forward()


@dataclass(frozen=True)
class SplitModel:
    """The parts of a transformers model.

    Attributes:
        model: the whole.
        body: ids to last hidden states.
        head: hidden states to logits, with whatever the model does to them.
        shares_prompts: whether a prompt's keys and values, computed once, serve all of its responses.
        within: runs a forward pass, body and head, where the weights are; those of a model that is spread over
            processes are gathered for it, and are nowhere else.
    """

    model: Any
    body: Any
    head: Head
    shares_prompts: bool
    within: Callable[[Callable[[], Any]], Any] = _here

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device


def split_model(model: Any) -> SplitModel:
    """Take a model apart, and prove on a short sequence that the parts do what the whole does.

    Heads differ in what follows the matrix product: Gemma caps logits by a tanh, Cohere multiplies and Granite
    divides them. A model whose head does something else is refused.

    Args:
        model: a transformers causal language model.

    Raises:
        EngineError: the head is not understood.
    """
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    if getattr(linear, "weight", None) is None:
        raise EngineError(f"{type(model).__name__}: its output layer has no matrix; report it")
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale = scale / divisor

    return _proved(SplitModel(model, model.base_model, Head(linear, scale, cap), shares_prompts=False))


def split_critic(model: Any) -> SplitModel:
    """The same for a critic, whose head gives one number for each position.

    Args:
        model: a transformers token classifier with one label.

    Raises:
        EngineError: the head is not understood, or a position sees what follows it.
    """
    inside = set(model.base_model.modules())
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in inside and m.out_features == 1]
    if len(heads) != 1:
        raise EngineError(f"{type(model).__name__}: has {len(heads)} value heads and needs one; report it")
    split = _proved(SplitModel(model, model.base_model, Head(heads[0]), shares_prompts=False))
    if _sees_ahead(split):
        raise EngineError(f"{type(model).__name__}: a position sees what follows it; make the critic of a causal model")
    return split


def _proved(split: SplitModel) -> SplitModel:
    model = split.model
    error = _head_error(split)
    if error > _tolerance(model):
        kind = type(model).__name__
        raise EngineError(f"{kind}: its output layer is not understood (logits differ by {error:.2g}); report it")
    return SplitModel(model, split.body, split.head, shares_prompts=_can_share(split, model.config.get_text_config()))


def _tolerance(model: Any) -> float:
    return 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1


def _probe(split: SplitModel, shape: tuple[int, int]) -> Tensor:
    size = split.model.get_input_embeddings().weight.shape[0]
    return (torch.arange(shape[0] * shape[1], device=split.device) * 7919 % size).reshape(shape)


@torch.no_grad()
def _head_error(split: SplitModel) -> float:
    ids = _probe(split, (1, 5))
    whole = split.model(input_ids=ids, use_cache=False).logits.float()
    hidden_ND = split.body(input_ids=ids, use_cache=False).last_hidden_state[0]
    weights = split.head.weights
    apart = tile_logits(hidden_ND, weights, 0, weights.weight.shape[0])
    return ((whole - apart).abs().max() / whole.abs().max().clamp(min=1.0)).item()


@torch.no_grad()
def _sees_ahead(split: SplitModel) -> bool:
    """Whether the first positions' hidden states depend on the last token."""
    rows = _probe(split, (2, 6))
    rows[1, :5] = rows[0, :5]
    hidden = split.body(input_ids=rows, use_cache=False).last_hidden_state[:, :5].float()
    return bool((hidden[0] - hidden[1]).abs().max() > _tolerance(split.model) * hidden.abs().max().clamp(min=1.0))


@torch.no_grad()
def _can_share(split: SplitModel, config: Any) -> bool:
    """Whether a cached prompt gives the same hidden states; tried on two responses.

    Layers that look back through a window crop their cache, which no short trial would show: never shared.
    """
    kinds = getattr(config, "layer_types", None)
    if any(kind != "full_attention" for kind in kinds or []) or (not kinds and getattr(config, "sliding_window", None)):
        return False
    rows = _probe(split, (2, 6))
    rows[:, :3] = rows[0, :3]
    whole = split.body(input_ids=rows, use_cache=False).last_hidden_state[:, 3:].float()
    try:
        cache = split.body(input_ids=rows[:1, :3], use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        out = split.body(input_ids=rows[:, 3:], past_key_values=cache, use_cache=True)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False  # no cache, or one of another kind
    error = (out.last_hidden_state.float() - whole).abs().max() / whole.abs().max().clamp(min=1.0)
    return bool(error < _tolerance(split.model))
