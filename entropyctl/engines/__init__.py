"""Ways to generate, one file each, and the rollout that they serve."""

from entropyctl.engines._rollout import encode_prompt, rollout_context, rollout_step
from entropyctl.engines._sampling import Engine, Request, Response, Sampling, uniforms

__all__ = ["Engine", "Request", "Response", "Sampling", "encode_prompt", "rollout_context", "rollout_step", "uniforms"]
