"""One response as vLLM is asked for it, in this process or over HTTP."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from entropyctl.engines._sampling import Request, Sampling, sample_seed
from entropyctl.errors import UsageError


def check_greedy(sampling: Sampling) -> None:
    """Stop where a greedy token's log-probability would be that of another distribution.

    Raises:
        UsageError: greedy, at a temperature or with a truncation.
    """
    if sampling.greedy and (sampling.truncates or sampling.temperature != 1):
        raise UsageError(
            "--greedy-baseline: vLLM knows a greedy token's log-probability at --temperature 1 without --top-k and "
            "--top-p alone; leave these, or use --engine transformers"
        )


def stop_strings(request: Request, sampling: Sampling) -> tuple[str, ...]:
    """Where a response ends by what it says: the command's strings, then the prompt's own."""
    return tuple(dict.fromkeys((*sampling.stop, *request.stop)))


def sampling_parameters(request: Request, sampling: Sampling, ends: Collection[int]) -> dict[str, Any]:
    """vLLM's sampling parameters for one response, by name.

    Args:
        request: the response; its seed is its own.
        sampling: how tokens are drawn.
        ends: tokens that end a response.
    """
    stop = list(stop_strings(request, sampling))
    return {
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_tokens,
        "seed": None if sampling.greedy else sample_seed(request),
        "stop": stop,
        "stop_token_ids": sorted(ends),
        "logprobs": 0,
        "detokenize": bool(stop),
        "skip_special_tokens": True,
    }
