"""Sampling with a transformers model in this process: batched, cached, seeded per response."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropyctl.engines._sampling import (
    BATCH_ROWS,
    Done,
    Engine,
    Request,
    Response,
    Sampler,
    Sampling,
    batches,
    check_room,
    ignore,
)
from entropyctl.engines._stopping import StopStrings
from entropyctl.errors import EngineError, UsageError
from entropyctl.policy import Policy
from entropyctl.policy.checkpoint import end_tokens, load_model, load_tokenizer, parse_device, parse_dtype, reload
from entropyctl.tokenstats import attention

# The batch is shortened when no more than this share still goes on; doing it more often costs more than it saves.
COMPACT_BELOW = 0.75


def transformers(
    policy: Policy, *, dtype: str, device: str, batch_rows: int | None, arguments: dict[str, str]
) -> Engine:
    """Sampling with a transformers model in this process.

    Args:
        policy: the checkpoint.
        dtype: number type of the weights.
        device: where to compute.
        batch_rows: responses that are sampled side by side; 64 when not given.
        arguments: none; vLLM has some.

    Raises:
        InputError: the checkpoint cannot be loaded.
        UsageError: there are arguments.
    """
    if arguments:
        raise UsageError(f"--engine-arg {next(iter(arguments))}: transformers has no arguments; they are vLLM's")
    model = load_model(policy, parse_dtype(dtype), parse_device(device))
    attention.install(model)  # the one that scores: where they differ, as in Gemma 2, so would the log-probabilities
    tokenizer = load_tokenizer(policy)
    return Engine(
        sampler(model, tokenizer, batch_rows or BATCH_ROWS), tokenizer, partial(reload, model), lambda: None, model
    )


def sampler(model: Any, tokenizer: Any, batch_rows: int) -> Sampler:
    """A sampler over a loaded model.

    Every prompt of a batch is prefilled once, whatever the number of its samples. A token is drawn by inverting
    the cumulative distribution at the request's own random number, in float64, over token ids in order.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        batch_rows: responses that are sampled side by side.

    Returns:
        A function of requests and sampling parameters that answers in the order of the requests. It raises a
        UsageError, before anything is sampled, for a prompt that leaves no room for its response.
    """
    ends = end_tokens(model, tokenizer)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def sample(requests: Sequence[Request], sampling: Sampling, done: Done = ignore) -> list[Response]:
        if positions is not None:
            check_room(requests, sampling.max_tokens, positions)
        answers: dict[int, Response] = {}
        for chosen in batches(requests, batch_rows):
            batch = _Batch([requests[i] for i in chosen], sampling, tokenizer, ends)
            for i, answer in zip(chosen, batch.run(model), strict=True):
                answers[i] = answer
                done(i, answer)
        return [answers[i] for i in range(len(requests))]

    return sample


class _Batch:
    """Responses that are sampled side by side, one token each at a time."""

    def __init__(self, requests: list[Request], sampling: Sampling, tokenizer: Any, ends: set[int]) -> None:
        self.requests = requests
        self.sampling = sampling
        self.tokenizer = tokenizer
        self.ends = ends
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self.finished: list[str | None] = [None] * len(requests)
        stops = sampling.stop
        self.stops = [StopStrings(tuple(dict.fromkeys((*stops, *r.stop))), tokenizer) for r in requests]

    @torch.no_grad()
    def run(self, model: Any) -> list[Response]:
        """Sample every response to its end."""
        logits_RV, cache, mask_RT = self._prefill(model)
        active = list(range(len(self.requests)))
        while True:
            drawn = self._draw(logits_RV, active)
            alive = [row for row, i in enumerate(active) if self.finished[i] is None]
            if not alive:
                return [self._response(i) for i in range(len(self.requests))]
            if len(alive) <= COMPACT_BELOW * len(active):
                keep = torch.tensor(alive, device=mask_RT.device)
                cache.batch_select_indices(keep)
                mask_RT, drawn, active = mask_RT[keep], drawn[keep], [active[row] for row in alive]
            mask_RT = torch.cat([mask_RT, mask_RT.new_ones(len(active), 1)], dim=1)
            position_R1 = mask_RT.sum(dim=1, keepdim=True) - 1
            out = model(
                input_ids=drawn[:, None],
                attention_mask=mask_RT,
                position_ids=position_R1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_RV = out.logits[:, -1]

    def _prefill(self, model: Any) -> tuple[Tensor, Any, Tensor]:
        """Logits after the prompts, the cache and the attention mask, a row for each request."""
        device = next(model.parameters()).device
        unique = list(dict.fromkeys(tuple(r.prompt_tokens) for r in self.requests))
        row_of = {prompt: row for row, prompt in enumerate(unique)}
        longest = max(len(prompt) for prompt in unique)
        ids_PT = torch.zeros(len(unique), longest, dtype=torch.int64)
        mask_PT = torch.zeros_like(ids_PT)
        for row, prompt in enumerate(unique):  # padded on the left, so that all responses begin in one column
            ids_PT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_PT[row, longest - len(prompt) :] = 1
        ids_PT, mask_PT = ids_PT.to(device), mask_PT.to(device)
        out = model(
            input_ids=ids_PT,
            attention_mask=mask_PT,
            position_ids=(mask_PT.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.tensor([row_of[tuple(r.prompt_tokens)] for r in self.requests], device=device)
        out.past_key_values.batch_select_indices(rows)
        return out.logits[:, -1][rows], out.past_key_values, mask_PT[rows]

    def _draw(self, logits_RV: Tensor, active: list[int]) -> Tensor:
        """Draw the next token of every active response and note which have ended."""
        at = [len(self.tokens[i]) for i in active]
        # A response that has ended stays in the batch until it is compacted; its draws are thrown away.
        last = self.sampling.max_tokens - 1
        u_R = np.array([self.requests[i].uniforms[min(t, last)] for i, t in zip(active, at, strict=True)])
        token_R, logprob_R = draw(logits_RV, torch.from_numpy(u_R).to(logits_RV.device), self.sampling)
        for i, token, logprob in zip(active, token_R.tolist(), logprob_R.tolist(), strict=True):
            if self.finished[i] is None:
                self._append(i, token, logprob)
        return token_R

    def _append(self, i: int, token: int, logprob: float) -> None:
        self.tokens[i].append(token)
        self.logprobs[i].append(logprob)
        if token in self.ends or self.stops[i].reached(self.tokens[i]):
            self.finished[i] = "stop"
        elif len(self.tokens[i]) >= self.sampling.max_tokens:
            self.finished[i] = "length"

    def _response(self, i: int) -> Response:
        text = self.stops[i].text(self.tokens[i])
        return Response(self.tokens[i], self.logprobs[i], self.finished[i] or "abort", text)


def draw(logits_RV: Tensor, u_R: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token for each row, and its log-probability under the distribution that is drawn from.

    Args:
        logits_RV: as the model gives them.
        u_R: a number in [0, 1) for each row; not used where sampling is greedy.
        sampling: temperature, top-k and top-p.

    Returns:
        `[R]` int64 tokens and `[R]` float64 log-probabilities, nats.

    Raises:
        EngineError: the model computed NaN.
    """
    logits_RV = logits_RV.double()
    d_RV = (logits_RV - logits_RV.amax(dim=1, keepdim=True)) / sampling.temperature
    if sampling.truncates:
        d_RV = truncate(d_RV, sampling.top_k, sampling.top_p)
    cdf_RV = d_RV.exp().cumsum(dim=1)
    total_R1 = cdf_RV[:, -1:]
    if not bool(torch.isfinite(total_R1).all()):
        raise EngineError(
            "the model computed logits that are not numbers; check the checkpoint, or use --dtype float32"
        )
    if sampling.greedy:
        token_R1 = d_RV.argmax(dim=1, keepdim=True)
    else:
        # right=True: never a token of probability 0, which adds nothing to the cumulative sum
        token_R1 = torch.searchsorted(cdf_RV, u_R[:, None] * total_R1, right=True).clamp_(max=cdf_RV.shape[1] - 1)
    return token_R1[:, 0], (d_RV.gather(1, token_R1) - total_R1.log())[:, 0]


def truncate(d_RV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with -inf outside the top k, then outside the smallest set of probability top_p or more."""
    if 0 < top_k < d_RV.shape[1]:
        smallest_R1 = d_RV.topk(top_k, dim=1).values[:, -1:]
        d_RV = d_RV.masked_fill(d_RV < smallest_R1, -torch.inf)
    if top_p < 1:
        sorted_RV, order_RV = d_RV.sort(dim=1, descending=True, stable=True)
        p_RV = sorted_RV.softmax(dim=1)
        beyond_RV = p_RV.cumsum(dim=1) - p_RV >= top_p
        d_RV = d_RV.masked_fill(beyond_RV.gather(1, order_RV.argsort(dim=1)), -torch.inf)
    return d_RV
