"""The output layer of a causal language model, apart from its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from entropyctl.errors import EngineError

Head = Callable[[Tensor], Tensor]


def find_head(model: Any) -> tuple[Any, Head]:
    """The model's body (ids to hidden states) and its head (hidden states to logits).

    Heads differ in what follows the matrix product: Gemma caps logits by a tanh, Cohere multiplies and Granite
    divides them. A short sequence is sent both ways, and a model whose head does something else is refused.

    Args:
        model: a transformers causal language model.

    Raises:
        EngineError: the head is not understood.
    """
    body, linear, config = model.base_model, model.get_output_embeddings(), model.config
    text_config = config.get_text_config()
    cap = getattr(text_config, "final_logit_softcapping", None)
    scale = getattr(text_config, "logit_scale", None) or 1.0
    if divisor := getattr(text_config, "logits_scaling", None):
        scale = scale / divisor

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = linear(hidden)
        if scale != 1.0:
            logits = logits * scale
        return cap * torch.tanh(logits / cap) if cap else logits

    _prove(model, body, head)
    return body, head


def _prove(model: Any, body: Any, head: Head) -> None:
    device = next(model.parameters()).device
    size = model.get_output_embeddings().weight.shape[0]
    ids = (torch.arange(5, device=device) * 7919 % size)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        apart = head(body(input_ids=ids, use_cache=False).last_hidden_state).float()
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
    error = (whole - apart).abs().max().item()
    if error > tolerance * max(1.0, whole.abs().max().item()):
        kind = type(model).__name__
        raise EngineError(
            f"{kind}: its output layer is not understood (logits differ by {error:.3g}); report the model"
        )
