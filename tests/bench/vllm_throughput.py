"""Sampling through `rollout`'s vLLM engine against a bare `LLM.generate` on the same prompts, in one process.

python tests/bench/vllm_throughput.py POLICY [--prompts 8] [--samples 8] [--tokens 64] [--rounds 5]

Both run on the same engine, one after the other in turn. The bare call has one request per prompt with n samples and no
seeds; ours has a request with a seed for each sample, and makes a table of the answers. Rates are of sampled tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from entropyctl.engines import Sampling, rollout_step
from entropyctl.engines.vllm import vllm
from entropyctl.policy import find_policy
from entropyctl.prompts import Problem


def main() -> None:
    """Measure in turn, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("policy")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    policy = find_policy(options.policy)
    arguments = {"max_model_len": "1024"}
    engine = vllm(policy, dtype="float32", device="auto", batch_rows=None, arguments=arguments)
    from vllm import SamplingParams

    problems = [Problem(f"p{i}", f"Question {i}: what is {i} times {i + 3}?\nAnswer:") for i in range(options.prompts)]
    ids = [{"prompt_token_ids": engine.tokenizer(problem.prompt).input_ids} for problem in problems]
    running = engine.load.__self__  # type: ignore[attr-defined]
    ends = list(running._ends)
    bare = SamplingParams(
        n=options.samples, max_tokens=options.tokens, stop_token_ids=ends, logprobs=0, detokenize=False
    )
    answers = {}

    def ours(step: int) -> int:
        rows = rollout_step(
            problems,
            engine.sample,
            engine.tokenizer,
            Sampling(max_tokens=options.tokens),
            step=step,
            n=options.samples,
            seed=0,
            policy_version=0,
            chat=False,
        )
        return sum(len(tokens) for tokens in rows["tokens"].to_pylist())

    def theirs(step: int) -> int:
        found = running._llm.generate(ids, bare, use_tqdm=False)
        return sum(len(answer.token_ids) for output in found for answer in output.outputs)

    for name, way in (("bare LLM.generate", theirs), ("rollout", ours)):
        way(0)
        answers[name] = (way, [])
    for step in range(1, options.rounds + 1):
        for way, rates in answers.values():
            began = time.perf_counter()
            tokens = way(step)
            rates.append(tokens / (time.perf_counter() - began))
    rates = {name: statistics.median(found) for name, (_, found) in answers.items()}
    for name, rate in rates.items():
        print(f"{name:<20} {rate:8.1f} tokens/s", file=sys.stderr)
    print(f"rollout at {rates['rollout'] / rates['bare LLM.generate']:.1%} of the bare call", file=sys.stderr)
    engine.close()


if __name__ == "__main__":
    main()
