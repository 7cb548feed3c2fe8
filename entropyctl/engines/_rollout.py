"""From problems to rows of the rollouts table: prompts as tokens, n responses each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from entropyctl.engines._sampling import Request, Response, Sampler, Sampling, uniforms
from entropyctl.errors import InputError
from entropyctl.policy import Policy
from entropyctl.prompts import Problem
from entropyctl.table.columns import list_column, row_column, row_lengths, with_column
from entropyctl.table.header import Context
from entropyctl.table.types import list_of


def encode_prompt(problem: Problem, tokenizer: Any, *, chat: bool = True) -> list[int]:
    """A problem's prompt as token ids.

    A conversation always goes through the chat template; a plain string does when the tokenizer has one, as the
    words of the user, unless it is a few-shot prompt to be completed or `chat` is off.

    Raises:
        InputError: a conversation for a tokenizer without a chat template, or an empty prompt.
    """
    prompt = problem.prompt
    templated = bool(tokenizer.chat_template)
    if isinstance(prompt, str) and (problem.completion or not chat or not templated):
        ids = tokenizer(prompt).input_ids
    else:
        if not templated:
            raise InputError(
                f"prompt {problem.prompt_id}: is a conversation, but the tokenizer has no chat template; "
                "give prompts as plain strings, or a policy with a template"
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        ids = ids["input_ids"]
    if not ids:
        raise InputError(f"prompt {problem.prompt_id}: has no tokens; give it some text")
    return [int(i) for i in ids]


def rollout_context(policy: Policy, sampling: Sampling) -> Context:
    """What a file of rollouts says of how it was sampled."""
    return {
        "sampling": sampling.context(),
        "tokenizer": policy.tokenizer_digest,
        "policies": {str(policy.version): policy.digest},
    }


def rollout_step(
    problems: Sequence[Problem],
    sample: Sampler,
    tokenizer: Any,
    sampling: Sampling,
    *,
    step: int,
    n: int,
    seed: int,
    policy_version: int,
    first: int = 0,
    chat: bool = True,
    greedy_baseline: bool = False,
) -> pa.Table:
    """Sample n responses to each problem: one step of the rollouts table.

    Args:
        problems: the step's problems, each once.
        sample: an engine's sampler.
        tokenizer: of the policy.
        sampling: how tokens are drawn.
        step: number of the step.
        n: responses per problem, numbered from `first` on to n - 1.
        seed: of the run.
        policy_version: of the policy that samples.
        first: number of the first response; those before it are there already.
        chat: apply the tokenizer's chat template to plain prompts.
        greedy_baseline: one more response to each problem, of the most probable tokens, as its last row.

    Returns:
        `len(problems) * (n - first)` rows, or one more for each problem; those of a problem stand together. A greedy
        row has True in the column `greedy` and False in its whole loss_mask: it is compared with, never trained on.
    """
    requests = []
    for problem in problems:
        prompt = encode_prompt(problem, tokenizer, chat=chat)
        for i in range(first, n):
            numbers = uniforms(seed, step, problem.prompt_id, i, sampling.max_tokens)
            requests.append(Request(problem.prompt_id, i, prompt, numbers, tuple(problem.stop)))
    responses = sample(requests, sampling)
    rows = [problem for problem in problems for _ in range(first, n)]
    table = _table(rows, requests, responses, step=step, seed=seed, policy_version=policy_version)
    if not greedy_baseline:
        return table
    # In batches of their own: the others' log-probabilities depend on their neighbours in the last bits.
    unused = np.zeros(sampling.max_tokens)
    extra = [one._replace(sample=n, uniforms=unused) for one in requests[:: n - first]]
    responses = sample(extra, replace(sampling, greedy=True))
    greedy = _table(problems, extra, responses, step=step, seed=seed, policy_version=policy_version)
    return _interleaved(table, greedy, n - first)


def _interleaved(sampled: pa.Table, greedy: pa.Table, n: int) -> pa.Table:
    """The greedy row of each problem behind its n others."""
    lengths = row_lengths(greedy["tokens"])
    untrained = list_column(np.zeros(lengths.sum(), bool), lengths, pa.bool_())
    both = pa.concat_tables([sampled, with_column(greedy, "loss_mask", untrained)])
    flags = np.arange(both.num_rows) >= sampled.num_rows
    problem = np.where(flags, np.arange(both.num_rows) - sampled.num_rows, np.arange(both.num_rows) // n)
    both = both.append_column("greedy", row_column(flags, pa.bool_()))
    return both.take(row_column(np.argsort(problem, kind="stable"), pa.int64()))


def _table(
    problems: Sequence[Problem],
    requests: Sequence[Request],
    responses: Sequence[Response],
    *,
    step: int,
    seed: int,
    policy_version: int,
) -> pa.Table:
    count = len(problems)
    lengths = np.array([len(r.tokens) for r in responses], np.int64)
    tokens = np.array([t for r in responses for t in r.tokens], np.int32)
    logprobs = np.array([x for r in responses for x in r.logprobs], np.float32)

    def text(values: Sequence[str | None]) -> pa.Array:
        return pa.array(values, pa.string())

    return pa.table(
        {
            "step": pa.array([step] * count, pa.int64()),
            "prompt_id": text([p.prompt_id for p in problems]),
            "sample": pa.array([r.sample for r in requests], pa.int32()),
            "prompt": text([p.prompt if isinstance(p.prompt, str) else _json(p.prompt) for p in problems]),
            "answer": text([p.answer for p in problems]),
            "data_source": text([p.data_source for p in problems]),
            "extra": text([_json(p.extra) for p in problems]),
            "prompt_tokens": pa.array([r.prompt_tokens for r in requests], list_of(pa.int32())),
            "tokens": list_column(tokens, lengths, pa.int32()),
            "response": text([r.text for r in responses]),
            "rollout_logprobs": list_column(logprobs, lengths, pa.float32()),
            "finish_reason": text([r.finish_reason for r in responses]),
            "loss_mask": list_column(np.ones(len(tokens), bool), lengths, pa.bool_()),
            "policy_version": pa.array([policy_version] * count, pa.int64()),
            "seed": pa.array([seed] * count, pa.int64()),
        }
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
