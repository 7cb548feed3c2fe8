"""Log-probabilities on fixed tokens, published with each version, by which an engine proves that it holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.policy.versions import Policy

NAME = "probe.json"
TOKENS = 64


class Probe(NamedTuple):
    """Tokens, and what a version thinks of them."""

    tokens: list[int]
    logprobs: npt.NDArray[np.float64]  # [len(tokens) - 1], nats, of each token but the first at temperature 1
    dtype: str = "float32"  # in which the model computed them


def compute_probe(model: Any) -> Probe:
    """What a model thinks of the tokens.

    Tokens from all over the vocabulary, so that no row of the embedding and of the output matrix stands for all.

    Args:
        model: a transformers causal language model.
    """
    import torch

    size = int(model.get_input_embeddings().weight.shape[0])
    size = min(size, int(getattr(model.config.get_text_config(), "vocab_size", size)))
    tokens = np.random.Generator(np.random.Philox(key=0)).integers(size, size=min(TOKENS, _room(model))).tolist()
    ids = torch.tensor([tokens], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        log_p = logits.double().log_softmax(dim=-1)
    logprobs = log_p.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return Probe(tokens, np.array(logprobs, np.float64), str(logits.dtype).removeprefix("torch."))


def write_probe(directory: Path, model: Any, probe: Probe | None = None) -> None:
    """Write a model's probe beside its weights.

    Args:
        directory: of the version.
        model: a transformers causal language model.
        probe: its probe, where that has been computed; a model that is spread over processes cannot do so here.
    """
    probe = compute_probe(model) if probe is None else probe
    facts = {"tokens": probe.tokens, "logprobs": probe.logprobs.tolist(), "dtype": probe.dtype}
    (directory / NAME).write_text(json.dumps(facts), encoding="utf-8")


def _room(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or TOKENS)


def read_probe(policy: Policy) -> Probe | None:
    """The probe of a version; None for one that another program made."""
    path = policy.directory / NAME
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Probe(
        [int(token) for token in found["tokens"]],
        np.array(found["logprobs"], np.float64),
        found.get("dtype", "float32"),
    )
