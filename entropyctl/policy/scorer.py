"""A loaded policy that scores the steps of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.errors import MismatchError
from entropyctl.policy import Policy, find_policy
from entropyctl.policy.checkpoint import load_model, parse_device, parse_dtype
from entropyctl.progress import progress
from entropyctl.table import Source
from entropyctl.table.columns import flat_values, row_lengths
from entropyctl.table.header import Context
from entropyctl.tokenstats import SplitModel, split_model
from entropyctl.tokenstats.table import add_statistics


@dataclass
class Scorer:
    """A policy ready to score; it remembers the mean entropy, and how far sampling and scoring disagree."""

    policy: Policy
    split: SplitModel
    temperature: float
    token_budget: int
    quiet: bool
    tokens: int = 0
    entropy: float = 0.0
    mismatch: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Tokens, their mean entropy, and the largest |log p - rollout log p|, over all steps so far."""
        return {"tokens": self.tokens, "entropy": self.entropy / max(self.tokens, 1), "largest_mismatch": self.mismatch}

    def score(self, rows: pa.Table) -> pa.Table:
        """The rows of a step with the token statistics of the policy."""
        tokens = int(row_lengths(rows["tokens"]).sum())
        with progress("score", tokens, quiet=self.quiet) as advance:
            rows = add_statistics(
                rows,
                self.split,
                temperature=self.temperature,
                token_budget=self.token_budget,
                advance=advance,
            )
        self.tokens += tokens
        self.entropy += float(flat_values(rows["entropies"]).sum(dtype=np.float64))
        if "rollout_logprobs" in rows.column_names and tokens:
            gap_N = flat_values(rows["logprobs"]) - flat_values(rows["rollout_logprobs"])
            self.mismatch = max(self.mismatch, float(np.abs(gap_N).max()))
        return rows


def open_scorer(
    policy: Policy,
    temperature: float,
    *,
    dtype: str,
    device: str,
    token_budget: int,
    quiet: bool,
    model: Any = None,
) -> Scorer:
    """Load a policy to score with.

    Args:
        policy: the checkpoint.
        temperature: of the sampling.
        dtype: number type of the weights.
        device: where to compute.
        model: the checkpoint's model, where an engine has loaded it already.
        token_budget: most tokens in one forward pass.
        quiet: show no progress.

    Raises:
        InputError: the checkpoint cannot be loaded.
        EngineError: its output layer is not understood.
    """
    if model is None:
        model = load_model(policy, parse_dtype(dtype), parse_device(device))
    return Scorer(policy, split_model(model), temperature, token_budget, quiet)


def check_sampler(source: Source, path: str, allow: tuple[str, ...]) -> Policy:
    """The policy to score with, if it is the one that sampled the rows.

    Args:
        source: rollouts.
        path: the `--policy` argument.
        allow: fields that may differ: `policies` (score with another policy), `tokenizer`.

    Raises:
        MismatchError: another policy or tokenizer sampled.
    """
    policy = find_policy(path)
    sampled = source.context.get("policies", {})
    if sampled and set(sampled.values()) != {policy.digest} and "policies" not in allow:
        versions = ", ".join(f"version {v} ({digest[:12]})" for v, digest in sampled.items())
        raise MismatchError(
            f"{source.path}: was sampled by {versions}, but {policy.directory} is {policy.digest[:12]}; "
            "give the policy that sampled, or score with another one by --allow-mismatch policies"
        )
    tokenizer = source.context.get("tokenizer")
    if tokenizer not in (None, policy.tokenizer_digest) and "tokenizer" not in allow:
        raise MismatchError(
            f"{source.path}: was sampled with another tokenizer than that of {policy.directory}; "
            "give a policy with the same one, or --allow-mismatch tokenizer"
        )
    return policy


def scoring_context(sampled: Context, policy: Policy, dtype: str) -> Context:
    """What a scored file says of its scoring: for each version that sampled, the digest of the policy that scored."""
    versions = sampled.get("policies") or {str(policy.version): policy.digest}
    return {"scoring": {"policies": dict.fromkeys(versions, policy.digest), "dtype": dtype}}
