"""Rollout and score in one process with one copy of the weights, for programs that want scored rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from entropyctl.engines import Sampling, rollout_context, rollout_step
from entropyctl.engines.transformers import transformers
from entropyctl.policy import Policy
from entropyctl.policy.scorer import open_scorer, scoring_context
from entropyctl.prompts import Problem
from entropyctl.rewards import Grader, grade_rows
from entropyctl.table.header import Context


def sample_and_score(
    policy: Policy,
    problems: Sequence[Problem],
    reward: str,
    sampling: Sampling,
    *,
    n: int,
    seed: int = 0,
    chat: bool = True,
    timeout: float = 5.0,
    workers: int | None = None,
    batch_rows: int = 64,
    token_budget: int = 4096,
    dtype: str = "float32",
    device: str = "auto",
    quiet: bool = True,
    name: str = "the problems",
) -> pa.Table:
    """Sample n responses to every problem, grade them, and compute their token statistics.

    Args:
        policy: samples and scores.
        problems: each once, as from `load_prompts`.
        reward: the grader, as for `Grader`.
        sampling: how tokens are drawn.
        n: responses to each problem.
        seed: of the sampling.
        chat: apply the tokenizer's chat template to plain prompts.
        timeout: seconds that grading one response may take.
        workers: grading processes.
        batch_rows: responses that are sampled side by side.
        token_budget: most tokens in one scoring pass.
        dtype: number type of the weights.
        device: where to compute.
        quiet: show no progress.
        name: of the problems, for messages.

    Returns:
        One step (number 0) of a scored table: what `rollout | score` would write, with the context of `chain_context`.
    """
    with Grader(reward, timeout=timeout, workers=workers) as grader:
        engine = transformers(policy, dtype=dtype, device=device, batch_rows=batch_rows, arguments={})
        sample, tokenizer = engine.sample, engine.tokenizer
        version = policy.version
        rows = rollout_step(
            problems, sample, tokenizer, sampling, step=0, n=n, seed=seed, policy_version=version, chat=chat
        )
        rows = grade_rows(rows, grader, name)
    scorer = open_scorer(
        policy,
        sampling.temperature,
        dtype=dtype,
        device=device,
        token_budget=token_budget,
        quiet=quiet,
        model=engine.model,
    )
    return scorer.score(rows)


def chain_context(policy: Policy, sampling: Sampling, dtype: str) -> Context:
    """What `rollout | score` would say of the rows that `sample_and_score` returns."""
    sampled = rollout_context(policy, sampling)
    return {**sampled, **scoring_context(sampled, policy, dtype)}
