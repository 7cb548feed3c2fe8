"""Loading a checkpoint's model and tokenizer: local files, safetensors, no code from the checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers

from entropyctl.collector import collect_as_usual
from entropyctl.errors import InputError, UsageError
from entropyctl.policy.adapter import base_of, is_adapter, merge
from entropyctl.policy.holding import held
from entropyctl.policy.versions import Policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)


def parse_dtype(name: str) -> torch.dtype:
    """A number type by name.

    Raises:
        UsageError: lists the known ones.
    """
    if name not in DTYPES:
        raise UsageError(f"--dtype: there is no '{name}'; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def parse_device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: there is no device '{name}'; known: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no GPU is visible; use --device cpu, or set CUDA_VISIBLE_DEVICES")
    return device


def load_model(policy: Policy, dtype: torch.dtype, device: torch.device) -> Any:
    """The causal language model, in evaluation mode.

    Raises:
        InputError: the directory holds no model that can be loaded.
    """
    if is_adapter(policy):
        # Added up in float32: in 16 bits a weight would lose most of what the adapter adds to it.
        with held(policy):
            return merge(load_model(base_of(policy), torch.float32, device), policy).to(dtype).eval()
    return _load(transformers.AutoModelForCausalLM, policy, dtype, device, "a causal language model")


def reload(model: Any, policy: Policy) -> None:
    """Take the weights of another version of the policy; the model stays the same object.

    Args:
        model: as `load_model` returned it.
        policy: the version.

    Raises:
        InputError: it cannot be loaded, or is of another shape.
    """
    weight = next(model.parameters())
    fresh = load_model(policy, weight.dtype, weight.device)
    try:
        model.load_state_dict(fresh.state_dict())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{policy.directory}: is no version of the model that runs ({reason})") from None


def load_critic(policy: Policy, dtype: torch.dtype, device: torch.device) -> Any:
    """The token classifier with one label that a critic is, in evaluation mode.

    Raises:
        InputError: the directory holds no such model.
    """
    check_critic_labels(policy)
    return load_classifier(policy, dtype, device, CRITIC)


def load_classifier(policy: Policy, dtype: torch.dtype, device: torch.device, wanted: str) -> Any:
    """A token classifier, in evaluation mode.

    Args:
        policy: the checkpoint.
        dtype: number type of the weights.
        device: where to compute.
        wanted: what the checkpoint must be, for the message.

    Raises:
        InputError: the directory holds no such model.
    """
    return _load(transformers.AutoModelForTokenClassification, policy, dtype, device, wanted)


CRITIC = "a token-classification checkpoint with one label, such as examples/critic_from_policy.py makes of a policy"


def check_critic_labels(policy: Policy) -> None:
    """Stop where a checkpoint can be no critic, by its configuration alone.

    Raises:
        InputError: it has not one label.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(
            policy.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{policy.directory}: cannot be loaded ({reason}); give {CRITIC}") from error
    if config.num_labels != 1:
        raise InputError(f"{policy.directory}: has {config.num_labels} labels and is no critic; give {CRITIC}")


def _load(kind: Any, policy: Policy, dtype: torch.dtype, device: torch.device, wanted: str) -> Any:
    collect_as_usual()
    try:
        with held(policy):
            model, found = kind.from_pretrained(
                policy.directory,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except InputError:
        raise
    except Exception as error:
        # Whatever a broken checkpoint provokes inside the libraries, the user's fault is the file.
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{policy.directory}: cannot be loaded ({reason}); give {wanted}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers would make them up at random, as for the head of another kind of model.
        raise InputError(f"{policy.directory}: has no weights '{missing[0]}'; give {wanted}")
    return model.to(device).eval()


def load_tokenizer(policy: Policy) -> Any:
    """The tokenizer.

    Raises:
        InputError: the directory holds none.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            policy.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{policy.directory}: has no usable tokenizer ({reason}); copy its files there") from error


def stated_ends(policy: Policy, tokenizer: Any) -> set[int]:
    """`end_tokens` of a checkpoint whose model another program runs."""
    config = transformers.AutoConfig.from_pretrained(policy.directory, local_files_only=True, trust_remote_code=False)
    try:
        generation = transformers.GenerationConfig.from_pretrained(policy.directory, local_files_only=True)
    except OSError:
        generation = transformers.GenerationConfig.from_model_config(config)
    return _ends(generation, config, tokenizer)


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Ids of the tokens that end a response."""
    return _ends(model.generation_config, model.config, tokenizer)


def _ends(generation: Any, config: Any, tokenizer: Any) -> set[int]:
    ends: set[int] = set()
    for source in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        ends.update(source if isinstance(source, list | tuple) else [] if source is None else [source])
    return ends
