"""The output layer of a language model, a tile of the vocabulary at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """What makes logits of hidden states: cap tanh(scale (h W^T + b) / cap), without cap the product alone.

    Attributes:
        weight: `[V, D]`; its rows are the vocabulary.
        bias: `[V]` or None.
        scale: Cohere multiplies by it, Granite divides.
        cap: Gemma's soft cap, or None.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None


@dataclass(frozen=True)
class Head:
    """An output layer; called with hidden states it gives all logits.

    Its vocabulary is what a model's configuration calls vocab_size, as in transformers, whose layers have exactly as
    many rows, and in vLLM, which pads them in memory and cuts the logits of that off. Rows behind it have no
    probability. Those between the tokenizer's last token and vocab_size do: both sample from them too.

    Attributes:
        linear: the model's layer; its weights are looked up at each use, since a model that is spread over processes
            has them only for the time of a pass.
        scale: as in Weights.
        cap: as in Weights.
        vocabulary: how many rows are the vocabulary, from the first; None for all.
    """

    linear: Any
    scale: float = 1.0
    cap: float | None = None
    vocabulary: int | None = None

    @property
    def weights(self) -> Weights:
        """As they are now, without padding."""
        weight, bias = self.linear.weight, getattr(self.linear, "bias", None)
        if self.vocabulary is not None and self.vocabulary < weight.shape[0]:
            weight, bias = weight[: self.vocabulary], None if bias is None else bias[: self.vocabulary]
        return Weights(weight, bias, self.scale, self.cap)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` of hidden states `[..., D]`, in the model's type."""
        logits: Tensor = self.linear(hidden)[..., : self.vocabulary]
        if self.scale != 1.0:
            logits = logits * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def tile_logits(hidden_ND: Tensor, weights: Weights, start: int, end: int, out: Tensor | None = None) -> Tensor:
    """Logits of the vocabulary's rows `start` to `end`, `[N, end - start]`, in float32 whatever the types.

    Rounding logits to bfloat16 changes the sign of S* - E[S] for one token in a hundred, so a product of 16-bit numbers
    is accumulated, and kept, in float32.

    Args:
        hidden_ND: of any floating type.
        weights: of the output layer.
        start: first row.
        end: row after the last.
        out: float32 memory for at least as many numbers, where the product can be put.
    """
    logits_NV = product(hidden_ND, weights.weight[start:end].T, out)
    if weights.bias is not None:
        logits_NV += weights.bias[start:end]
    if weights.scale != 1.0:
        logits_NV *= weights.scale
    return logits_NV.div_(weights.cap).tanh_().mul_(weights.cap) if weights.cap else logits_NV


def through_cap(gradient_NV: Tensor, logits_NV: Tensor | None, weights: Weights) -> Tensor:
    """The gradient at h W^T + b from that at the logits, in place.

    Args:
        gradient_NV: at the logits.
        logits_NV: those; needed where they are capped.
        weights: of the output layer.
    """
    if weights.cap:
        assert logits_NV is not None
        gradient_NV *= logits_NV.div_(weights.cap).square_().neg_().add_(1.0)
    return gradient_NV.mul_(weights.scale) if weights.scale != 1.0 else gradient_NV


def product(first: Tensor, second: Tensor, out: Tensor | None = None) -> Tensor:
    """A matrix product in float32: of 16-bit numbers where the device multiplies them so, else of float32 ones."""
    shape = (first.shape[0], second.shape[1])
    place = None if out is None else out.view(-1)[: shape[0] * shape[1]].view(shape)
    if first.is_cuda and first.dtype != torch.float32:
        return torch.mm(first, second.to(first.dtype), out_dtype=torch.float32, out=place)
    return torch.mm(first.float(), second.float(), out=place)
