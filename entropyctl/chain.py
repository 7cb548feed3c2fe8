"""Rollout and score in one process with one copy of the weights, for programs that want scored rows at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from entropyctl.engines import Sampling, rollout_step
from entropyctl.engines.transformers import transformers
from entropyctl.policy import Policy
from entropyctl.policy.scorer import open_scorer
from entropyctl.prompts import load_prompts
from entropyctl.rewards import Grader, grade_rows


def sample_and_score(
    policy: Policy,
    prompts: str,
    reward: str,
    sampling: Sampling,
    *,
    n: int,
    seed: int = 0,
    chat: bool = True,
    columns: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    workers: int | None = None,
    batch_rows: int = 64,
    token_budget: int = 4096,
    dtype: str = "float32",
    device: str = "auto",
    quiet: bool = True,
    announce: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Sample n responses to every problem, grade them, and compute their token statistics.

    Args:
        policy: samples and scores.
        prompts: where the problems come from, as for `load_prompts`.
        reward: the grader, as for `Grader`.
        sampling: how tokens are drawn.
        n: responses to each problem.
        seed: of the sampling.
        chat: apply the tokenizer's chat template to plain prompts.
        columns: which input column is the prompt, the answer, ...
        timeout: seconds that grading one response may take.
        workers: grading processes.
        batch_rows: responses that are sampled side by side.
        token_budget: most tokens in one scoring pass.
        dtype: number type of the weights.
        device: where to compute.
        quiet: show no progress.
        announce: told what the problems were taken for.

    Returns:
        One step (number 0) of a scored table: what `rollout | score` would write.
    """
    problems = load_prompts(prompts, columns=dict(columns or {}), announce=announce)
    with Grader(reward, timeout=timeout, workers=workers) as grader:
        engine = transformers(policy, dtype=dtype, device=device, batch_rows=batch_rows)
        sample, tokenizer = engine.sample, engine.tokenizer
        version = policy.version
        rows = rollout_step(
            problems, sample, tokenizer, sampling, step=0, n=n, seed=seed, policy_version=version, chat=chat
        )
        rows = grade_rows(rows, grader, prompts)
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
