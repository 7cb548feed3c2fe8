"""Sampling with vLLM's offline engine in this process: tokens in, tokens out."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from entropyctl.collector import collect_as_usual
from entropyctl.engines._probe import check_probe
from entropyctl.engines._sampling import Done, Engine, Request, Response, Sampling, check_room, ignore
from entropyctl.engines._stopping import StopStrings
from entropyctl.engines._vllm_request import check_greedy, sampling_parameters, stop_strings
from entropyctl.engines._vllm_setup import engine_arguments, prepare_process, require_vllm
from entropyctl.errors import EngineError, one_line
from entropyctl.policy import Policy
from entropyctl.policy.adapter import check_whole
from entropyctl.policy.checkpoint import load_tokenizer, stated_ends
from entropyctl.table import notice


def vllm(policy: Policy, *, dtype: str, device: str, batch_rows: int | None, arguments: dict[str, str]) -> Engine:
    """Sampling with vLLM's offline engine in this process.

    Args:
        policy: the checkpoint.
        dtype: number type of the weights.
        device: `auto`, or what the installed vLLM was built for.
        batch_rows: responses that are sampled side by side; vLLM's own number without it.
        arguments: vLLM's engine arguments by name, as text.

    Raises:
        UsageError: vLLM is not here, is for another device, or knows no such argument.
        EngineError: it does not start.
    """
    require_vllm()
    with warnings.catch_warnings(action="ignore"):  # of the libraries that it imports
        prepare_process(device)
    options = engine_arguments(arguments, dtype=dtype, batch_rows=batch_rows)
    running = _Running(policy, options)
    return Engine(running.sample, running.tokenizer, running.load, running.close)


class _Running:
    """vLLM with the weights of one version, which may be exchanged for those of another."""

    def __init__(self, policy: Policy, options: dict[str, Any]) -> None:
        self.tokenizer = load_tokenizer(policy)
        self._ends = stated_ends(policy, self.tokenizer)
        self._options = options
        self._llm: Any = None  # while it is being started, and after it could not be
        self._start(policy)

    def _start(self, policy: Policy) -> None:
        from vllm import LLM

        check_whole(policy, "vLLM")
        collect_as_usual()
        directory = str(policy.directory.resolve())
        try:
            with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
                self._llm = LLM(model=directory, tokenizer=directory, **self._options)
        except Exception as error:
            # Whatever goes wrong inside, the last line says what; its log stands above on stderr.
            reason = one_line(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
            raise EngineError(f"{policy.directory}: vLLM does not start ({reason}); see --engine-arg") from error
        check_probe(policy, self._logprobs_of, self._options["dtype"])

    def sample(self, requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
        """Answer the requests in their order; each sample is a request of its own, with its own seed."""
        from vllm import SamplingParams

        check_greedy(sampling)
        check_room(requests, sampling.max_tokens, int(self._llm.model_config.max_model_len))
        stops = [stop_strings(request, sampling) for request in requests]
        params = [SamplingParams(**sampling_parameters(request, sampling, self._ends)) for request in requests]
        prompts = [{"prompt_token_ids": request.prompt_tokens} for request in requests]
        answers: dict[int, Response] = {}
        with redirect_stdout(sys.stderr):
            # What LLM.generate does, but for handing out each response as it finishes.
            engine = self._llm.llm_engine
            for i, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
                engine.add_request(str(i), prompt, one)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        i = int(output.request_id)
                        answers[i] = self._response(output.outputs[0], stops[i])
                        done(i, answers[i])
        return [answers[i] for i in range(len(requests))]

    def _response(self, answer: Any, stop: tuple[str, ...]) -> Response:
        tokens = list(answer.token_ids)
        logprobs = [float(of[token].logprob) for of, token in zip(answer.logprobs, tokens, strict=True)]
        text = StopStrings(stop, self.tokenizer).text(tokens)
        return Response(tokens, logprobs, answer.finish_reason or "abort", text)

    def load(self, policy: Policy) -> None:
        """Take another version's weights, prove by its probe that they are in, and else start again with them."""
        if self._llm is None:
            self._start(policy)
            return
        check_whole(policy, "vLLM")
        directory = str(policy.directory.resolve())
        try:
            with redirect_stdout(sys.stderr):
                self._llm.collective_rpc("entropyctl_load", args=(directory,))
                self._llm.reset_prefix_cache()
            check_probe(policy, self._logprobs_of, self._options["dtype"])
        except Exception as error:
            notice(f"rollout: vLLM did not take {policy.directory} ({one_line(str(error))}); starting it again")
            self.close()
            self._start(policy)

    def _logprobs_of(self, tokens: list[int]) -> list[float]:
        """Log-probability of every token but the first, given those before it, at temperature 1."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        with redirect_stdout(sys.stderr):
            (output,) = self._llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
        found = zip(output.prompt_logprobs[1:], tokens[1:], strict=True)
        return [float(of[token].logprob) for of, token in found]

    def close(self) -> None:
        """End the engine's processes and give its memory back."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
