"""Ways to generate, one file each, and the rollout that they serve."""

import importlib.util

from entropyctl.engines._journal import Journal, has_room_beside
from entropyctl.engines._rollout import encode_prompt, rollout_context, rollout_step
from entropyctl.engines._sampling import Engine, Request, Response, Sampling, uniforms

__all__ = [
    "Engine",
    "Journal",
    "Request",
    "Response",
    "Sampling",
    "default_engine",
    "encode_prompt",
    "has_room_beside",
    "rollout_context",
    "rollout_step",
    "uniforms",
]


def default_engine() -> str:
    """`vllm` where it is installed, else `transformers`; imports neither."""
    return "vllm" if importlib.util.find_spec("vllm") is not None else "transformers"
