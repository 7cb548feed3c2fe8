"""Low-rank adapters (LoRA, 2106.09685) as versions of a policy: the adapter's tensors, and which checkpoint they adapt.

A version that is an adapter holds `adapter_config.json` and `adapter_model.safetensors`, as peft writes them and vLLM
reads them, beside the tokenizer of the checkpoint under it. That stays where it is. There is no `config.json`: with it
transformers would look for a whole model.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from entropyctl.errors import EngineError, InputError, MismatchError
from entropyctl.policy.versions import ADAPTER_CONFIG, MANIFEST, Policy, checked, config_of

TENSORS = "adapter_model.safetensors"


def is_adapter(policy: Policy) -> bool:
    """Whether a version is an adapter, and no whole model."""
    return config_of(policy.directory).name == ADAPTER_CONFIG


def check_whole(policy: Policy, engine: str) -> None:
    """Stop where an engine wants a whole model.

    Raises:
        EngineError: the version is an adapter.
    """
    if is_adapter(policy):
        raise EngineError(
            f"{policy.directory}: is an adapter, and {engine} here loads whole models; train with --lora-publish "
            "merged, or use --engine transformers"
        )


def base_facts(base: Policy, root: Path) -> dict[str, str]:
    """What a version's manifest says of the checkpoint that its adapter stands on.

    Args:
        base: the checkpoint.
        root: the directory of versions, which may be moved with all that is in it.
    """
    place = base.directory.resolve()
    inside = place.parent == root.resolve()
    return {"path": place.name if inside else str(place), "digest": base.digest}


def base_from(facts: dict[str, str], root: Path) -> Policy:
    """The checkpoint that `base_facts` describes.

    Raises:
        InputError: it is gone.
        MismatchError: it has been changed.
    """
    base = Policy(checked(root / facts["path"]), 0)
    if base.digest != facts["digest"]:
        raise MismatchError(
            f"{base.directory}: is {base.digest[:12]}, but an adapter was trained on {facts['digest'][:12]}; put the "
            "checkpoint back as it was"
        )
    return base


def base_of(policy: Policy) -> Policy:
    """The checkpoint under a version that is an adapter.

    Raises:
        InputError: it is gone, or the adapter does not name it.
        MismatchError: it has been changed.
    """
    manifest = policy.directory / MANIFEST
    facts = json.loads(manifest.read_text(encoding="utf-8")).get("base") if manifest.is_file() else None
    if facts is not None:
        return base_from(facts, policy.directory.resolve().parent)
    path = json.loads((policy.directory / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not path or not os.path.isdir(path):
        raise InputError(f"{policy.directory}: adapts '{path}', which is no directory here; give a checkpoint")
    return Policy(checked(Path(path)), 0)


def merge(model: Any, policy: Policy) -> Any:
    """The model under an adapter with the adapter added to its weights.

    Args:
        model: what `base_of` names.
        policy: the version that is an adapter.

    Raises:
        InputError: it does not fit.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings(action="ignore"):  # of layers that hold their matrices the other way round
            merged = PeftModel.from_pretrained(model, policy.directory).merge_and_unload()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{policy.directory}: the adapter cannot be loaded ({reason})") from error
    return merged.requires_grad_(True)  # peft has frozen what it stands on
