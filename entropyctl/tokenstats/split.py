"""A causal language model as its parts: the body (ids to hidden states) and the head (hidden states to logits)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from entropyctl.errors import EngineError
from entropyctl.tokenstats.attention import Packing, install
from entropyctl.tokenstats.batches import Sharing
from entropyctl.tokenstats.head import Head, tile_logits
from entropyctl.tokenstats.layout import laid_out

# Tokens of a text that a model is proved on, and how many of them are its prompt. Each pass takes little longer than
# reading the weights does, and every kind of attention is in it: to oneself, to what is before, to a prompt elsewhere.
TEXT, PROMPT = 4, 1


def _here(forward: Callable[[], Any]) -> Any:
    return forward()


@dataclass(frozen=True)
class SplitModel:
    """The parts of a transformers model.

    Attributes:
        model: the whole.
        body: ids to last hidden states.
        head: hidden states to logits, with whatever the model does to them.
        sharing: how sequences may share a forward pass.
        within: runs a forward pass, body and head, where the weights are; those of a model that is spread over
            processes are gathered for it, and are nowhere else.
        place: where it computes, if its weights are elsewhere meanwhile.
    """

    model: Any
    body: Any
    head: Head
    sharing: Sharing
    within: Callable[[Callable[[], Any]], Any] = _here
    place: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = self.place or next(iter(self.model.parameters())).device
        return device


def split_model(model: Any) -> SplitModel:
    """Take a model apart, and prove on short sequences that the parts do what the whole does.

    Heads differ in what follows the matrix product: Gemma caps logits by a tanh, Cohere multiplies and Granite
    divides them. A model whose head does something else is refused. One whose attention lets packed sequences see one
    another, or cannot be exchanged for ours, gets padded rows.

    Args:
        model: a transformers causal language model; its attention becomes ours.

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
    return _proved(model, Head(linear, scale, cap, getattr(config, "vocab_size", None)))


def split_critic(model: Any) -> SplitModel:
    """The same for a critic, whose head gives one number for each position.

    Args:
        model: a transformers token classifier with one label; its attention becomes ours.

    Raises:
        EngineError: the head is not understood, or a position sees what follows it.
    """
    inside = set(model.base_model.modules())
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in inside and m.out_features == 1]
    if len(heads) != 1:
        raise EngineError(f"{type(model).__name__}: has {len(heads)} value heads and needs one; report it")
    split = _proved(model, Head(heads[0]))
    if _sees_ahead(split):
        raise EngineError(f"{type(model).__name__}: a position sees what follows it; make the critic of a causal model")
    return split


@torch.no_grad()
def _proved(model: Any, head: Head) -> SplitModel:
    if model.base_model is model:
        raise EngineError(f"{type(model).__name__}: its body does not stand apart from its output layer; report it")
    exchanged = install(model)
    split = SplitModel(model, model.base_model, head, Sharing(packs=False, alone_beyond=_longest_alike(model)))
    rows = _probe(split)
    whole_NV, hidden_BTD = _whole_and_body(split, rows)
    apart_NV = tile_logits(hidden_BTD.flatten(0, 1), head.weights, 0, head.weights.weight.shape[0])
    if (error := _difference(apart_NV, whole_NV[:, : head.vocabulary])) > _tolerance(model):
        kind = type(model).__name__
        raise EngineError(f"{kind}: its output layer is not understood (logits differ by {error:.2g}); report it")
    if not exchanged or not _packs(split, rows, hidden_BTD):
        return split
    return replace(split, sharing=split.sharing._replace(packs=True))


def _probe(split: SplitModel) -> Tensor:
    """Three short texts, two of which begin alike."""
    size = split.model.get_input_embeddings().weight.shape[0]
    rows = (torch.arange(3 * TEXT, device=split.device) * 7919 % size).reshape(3, TEXT)
    rows[1, :PROMPT] = rows[0, :PROMPT]
    return rows


def _whole_and_body(split: SplitModel, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `[B * T, V]` of the whole model, and hidden states `[B, T, D]` of its body in the same pass."""
    seen: list[Tensor] = []
    hook = split.body.register_forward_hook(lambda body, given, out: seen.append(out.last_hidden_state))
    try:
        logits_BTV = split.model(input_ids=rows, use_cache=False).logits
    finally:
        hook.remove()
    if not seen:  # the model asks for a part of its body, as OPT does
        seen.append(split.body(input_ids=rows, use_cache=False).last_hidden_state)
    return logits_BTV.flatten(0, 1), seen[0]


def _difference(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.float()
    return ((found.float() - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)).item()


def _tolerance(model: Any) -> float:
    return 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1


def _packs(split: SplitModel, rows: Tensor, hidden_BTD: Tensor) -> bool:
    """Whether texts packed into a row, of which two share a prompt, come out as apart.

    Every layer must have asked our attention, and one that looks back through a window must have said so, since no
    short text would show it.
    """
    texts = [(row[:PROMPT], row[PROMPT:]) for row in rows.tolist()]
    inputs, at, _ = laid_out(texts, split.device, packs=True, places=None)
    try:
        found_ND = split.body(use_cache=False, **inputs).last_hidden_state.flatten(0, 1)[at]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False  # it takes no positions, or attention of another kind
    packing: Packing = inputs["packing"]
    # In 16 bits SmolLM2 is 0.003 away from itself, and 0.13 where one text sees another.
    tolerance = min(_tolerance(split.model), 0.05)
    alike = _difference(found_ND, hidden_BTD[:, PROMPT - 1 : -1].flatten(0, 1)) < tolerance
    return alike and _windows_are_told(packing.windows, split.model.config.get_text_config())


def _windows_are_told(windows: list[int | None], config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        return windows == [window] * config.num_hidden_layers
    known = {"full_attention": None, "sliding_attention": window}
    return set(kinds) <= known.keys() and windows == [known[kind] for kind in kinds]


def _longest_alike(model: Any) -> int | None:
    """Of how many tokens a text may be without changing the rotations of others in its pass."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    found: int | None = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
    return found


@torch.no_grad()
def _sees_ahead(split: SplitModel) -> bool:
    """Whether the first positions' hidden states depend on the last token."""
    rows = _probe(split)[:2]
    rows[1, :-1] = rows[0, :-1]
    hidden_BTD = split.body(input_ids=rows, use_cache=False).last_hidden_state[:, :-1]
    return _difference(hidden_BTD[0], hidden_BTD[1]) > _tolerance(split.model)
