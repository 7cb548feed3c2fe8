"""What a policy is asked and how, and the digests by which an evaluation is known again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import xxhash

from entropyctl.engines import Sampling, rollout_context
from entropyctl.policy import Policy
from entropyctl.policy.scorer import scoring_context
from entropyctl.prompts import Problem, prompts_digest
from entropyctl.table.header import Context


@dataclass(frozen=True)
class Task:
    """Everything beside the policy that decides which responses there are and how they are graded.

    Attributes:
        source: where the problems come from, for messages.
        problems: each once, as from `load_prompts`.
        reward: the grader, as for `Grader`.
        sampling: how tokens are drawn.
        seed: of the sampling.
        chat: plain prompts go through the tokenizer's chat template.
        engine: what samples.
        arguments: of the engine.
        dtype: number type of the weights.
    """

    source: str
    problems: Sequence[Problem]
    reward: str
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    chat: bool = True
    engine: str = "transformers"
    arguments: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the task's digest is of; `prompts` is the digest of the problems, wherever they lie."""
        # Where a server listens says nothing of what it answers.
        arguments = {name: value for name, value in sorted(self.arguments.items()) if name != "url"}
        own = {name: getattr(self, name) for name in ("reward", "seed", "chat", "engine", "dtype")}
        return own | {
            "prompts": prompts_digest(self.problems),
            "arguments": arguments,
            "sampling": asdict(self.sampling),
        }

    @cached_property
    def digest(self) -> str:
        """Equal for evaluations whose numbers can be compared."""
        return xxhash.xxh3_64_hexdigest(json.dumps(self.facts, sort_keys=True).encode())

    def key(self, policy: Policy) -> str:
        """Equal for evaluations of one policy on one task, whatever their number of responses."""
        return xxhash.xxh3_64_hexdigest(f"{self.digest} {policy.digest}".encode())

    def series(self, policy: Policy) -> str:
        """Equal for evaluations of the versions of one policy on one task, which are looked at over time."""
        place = os.path.realpath(policy.root or policy.directory.parent)
        return xxhash.xxh3_64_hexdigest(f"{self.digest} {place}".encode())

    def origin(self, policy: Policy) -> dict[str, Any]:
        """What a file made from the task says of its origin: context and inputs of the record."""
        return {
            "context": task_context(self, policy),
            "inputs": [{"path": self.source, "digest": self.facts["prompts"]}],
        }


def task_context(task: Task, policy: Policy) -> Context:
    """What `rollout | score` would say of the responses."""
    sampled = rollout_context(policy, task.sampling)
    return {**sampled, **scoring_context(sampled, policy, task.dtype)}
