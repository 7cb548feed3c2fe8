"""Training a low-rank adapter in place of the weights (LoRA, 2106.09685): W + (alpha / r) B A, where A and B move."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from entropyctl.errors import MismatchError, UsageError
from entropyctl.policy import Policy
from entropyctl.policy.adapter import TENSORS, base_facts, base_from, is_adapter
from entropyctl.policy.versions import ADAPTER_CONFIG
from entropyctl.tokenstats import SplitModel

PUBLISH = ("merged", "adapter")
ALL = "all-linear"
NAME = "default"  # peft's, for the only adapter


@dataclass(frozen=True)
class Lora:
    """Shape of an adapter."""

    r: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = (ALL,)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"r": self.r, "alpha": self.alpha, "targets": list(self.targets)}


def parse_lora(text: str | None) -> Lora | None:
    """`r=16,alpha=32,dropout=0,targets=q_proj+v_proj`; what is not given is as in `Lora`, alpha twice r.

    Raises:
        UsageError: it cannot be understood.
    """
    if text is None:
        return None
    given = dict(part.partition("=")[::2] for part in text.split(","))
    if unknown := given.keys() - {"r", "alpha", "dropout", "targets"}:
        raise UsageError(f"--lora {text}: has no '{min(unknown)}'; give r=16,alpha=32,targets={ALL}, or fewer of them")
    try:
        r = int(given.get("r", 16))
        alpha, dropout = float(given.get("alpha", 2 * r)), float(given.get("dropout", 0))
    except ValueError as error:
        raise UsageError(f"--lora {text}: {error}; give r=16,alpha=32,targets={ALL}, or fewer of them") from None
    if r < 1 or not 0 < alpha < float("inf"):
        raise UsageError(f"--lora {text}: r must be at least 1 and alpha above 0")
    if dropout:
        raise UsageError(f"--lora {text}: with dropout another policy is trained than was sampled; give dropout=0")
    return Lora(r, alpha, tuple(sorted(given.get("targets", ALL).split("+"))))


@dataclass(frozen=True)
class Adapter:
    """An adapter in training."""

    lora: Lora
    base: Policy  # the checkpoint that it stands on
    publish: str  # as what versions hold it: merged or adapter
    config: Any  # peft's

    def facts(self, root: Path) -> dict[str, Any]:
        """What the next run continues with."""
        return {"lora": self.lora.facts(), "base": base_facts(self.base, root)}


def base_to_train(policy: Policy, lora: Lora, facts: dict[str, Any]) -> Policy:
    """The checkpoint under the adapter: that of the run which is continued, else the policy itself.

    Args:
        policy: the version to train.
        lora: the adapter's shape.
        facts: of the trainer's state beside the version.

    Raises:
        MismatchError: that run's adapter has another shape, or its checkpoint has changed.
        InputError: its checkpoint is gone.
    """
    if "lora" not in facts or policy.root is None:
        if is_adapter(policy):
            raise MismatchError(
                f"{policy.directory}: is an adapter, and the trainer's state is not at hand; give the directory of "
                "versions that has both, or train without --lora"
            )
        return policy
    if facts["lora"] != lora.facts():
        known = facts["lora"]
        raise MismatchError(
            f"{policy.directory}: the adapter in training has r={known['r']},alpha={known['alpha']:g},targets="
            f"{'+'.join(known['targets'])}; give --lora that, or move trainer-{policy.directory.name} away to begin "
            "another"
        )
    return base_from(facts["base"], policy.root)


def adapt(split: SplitModel, lora: Lora) -> Any:
    """Put a fresh adapter into a model, of which it alone can be trained from then on; the model's function stays.

    Its A is the same in every run and every process.

    Args:
        split: the model, proved; is changed.
        lora: the adapter's shape.

    Returns:
        peft's configuration of it.

    Raises:
        UsageError: the model has no such layers, or one of them cannot be adapted here.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = ALL if lora.targets == (ALL,) else list(lora.targets)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    tables = (split.model.get_output_embeddings(), split.model.get_input_embeddings())
    # peft warns where GPT-2's layers hold their matrices the other way round, and does the right thing.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, split.model, adapter_name=NAME)
        except ValueError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"--lora targets={'+'.join(lora.targets)}: {reason}") from error
    if tables != (split.model.get_output_embeddings(), split.model.get_input_embeddings()):
        raise UsageError("--lora: embeddings and output layer cannot be adapted here; leave them out of targets")
    config.target_modules = sorted({name.rpartition(".")[2] for name, _ in adapted(split.model)})
    return config


def adapted(model: Any) -> list[tuple[str, Any]]:
    """The layers that have an adapter, by name."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model with an adapter under the names that they have without, the adapter left out."""
    return {name.replace(".base_layer", ""): w for name, w in weights.items() if ".lora_" not in name}


def merged_weights(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapter added to the weights that it adapts.

    Args:
        model: with the adapter, for its layers.
        weights: all of the model's, by name, each whole.
    """
    found = plain_names(weights)
    for name, layer in adapted(model):
        A, B = (weights[f"{name}.lora_{part}.{NAME}.weight"] for part in "AB")
        delta = layer.scaling[NAME] * (B.float() @ A.float())
        own = weights[f"{name}.base_layer.weight"]
        found[f"{name}.weight"] = own + (delta.T if layer.fan_in_fan_out else delta).to(own.dtype)
    return found


def saver(model: Any, adapter: Adapter, weights: dict[str, Tensor]) -> Callable[[Path], None]:
    """Writes what a version holds: the whole model with the adapter merged, or the adapter alone.

    Args:
        model: with the adapter.
        adapter: in training.
        weights: all of the model's, by name, each whole.
    """
    if adapter.publish == "merged":
        merged = merged_weights(model, weights)
        return lambda path: model.save_pretrained(path, state_dict=merged)

    def save(path: Path) -> None:
        own = {name: w.contiguous() for name, w in weights.items() if ".lora_" in name}
        named = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": w for name, w in own.items()}
        save_file(named, path / TENSORS, metadata={"format": "pt"})
        config = adapter.config.to_dict()
        config |= {"target_modules": list(adapter.config.target_modules), "inference_mode": True}
        config |= {"base_model_name_or_path": str(adapter.base.directory.resolve())}
        (path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1, default=str), encoding="utf-8")

    return save
