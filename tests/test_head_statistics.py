"""The statistics taken tile by tile from hidden states, compiled and in torch, and their gradient, against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropyctl.dynamics import token_statistics
from entropyctl.tokenstats import (
    Head,
    compiled,
    head_statistics,
    head_statistics_and_top,
    statistics,
    token_logprobs,
    token_logprobs_and_entropies,
)
from entropyctl.tokenstats import sums as sums_module
from entropyctl.tokenstats.sums import Sums, fold, merge, new_sums
from entropyctl.tokenstats.sums import statistics as finish

from .conftest import ROOT

NAMES = ("logprobs", "entropies", "s_star", "expected_s", "sum_p2")
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"bias": True, "cap": 6.0, "scale": 1.5},
}
PASSES = ("compiled", "torch")


@pytest.fixture(params=PASSES)
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The passes over a tile that are in use."""
    if request.param == "compiled" and compiled.kernels() is compiled.EAGER:
        pytest.skip("there is no C compiler")
    found = compiled.kernels() if request.param == "compiled" else compiled.EAGER
    monkeypatch.setattr(statistics, "_kernels", lambda device: found)
    return request.param


def make_head(vocabulary: int, size: int, *, bias: bool = False, scale: float = 1.0, cap: float | None = None) -> Head:
    torch.manual_seed(1)
    return Head(torch.nn.Linear(size, vocabulary, bias=bias), scale, cap)


def logits64(hidden: Tensor, head: Head) -> Tensor:
    """As the formula of the output layer is written."""
    bias = 0.0 if head.linear.bias is None else head.linear.bias.double()
    x = (hidden.double() @ head.linear.weight.double().T + bias) * head.scale
    return head.cap * torch.tanh(x / head.cap) if head.cap else x


@pytest.mark.parametrize("count", [1, 7, 1100])
@pytest.mark.parametrize("kind", HEADS)
def test_statistics_are_within_1e_5_of_float64(passes: str, kind: str, count: int) -> None:
    head = make_head(2500, 32, **HEADS[kind])  # three tiles, the last of them narrower
    hidden = 6 * torch.randn(count, 32, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(count) * 997 % 2500
    tokens[0] = 1024  # the first column of a tile
    with torch.no_grad():
        truth = token_statistics(logits64(hidden, head).numpy(), tokens.numpy(), 0.7)
    found = head_statistics(hidden, head, tokens, 0.7)
    for name in NAMES:
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), atol=2e-5, rtol=0, err_msg=name)
    for ours, true in (
        (found.s_star, truth.s_star),
        (found.s_star - found.expected_s, truth.s_star - truth.expected_s),
    ):
        decided = np.abs(true) > 1e-6
        assert (np.sign(ours.numpy()) == np.sign(true))[decided].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_lose_nothing_after_the_product(passes: str, dtype: torch.dtype) -> None:
    head = make_head(2500, 32, bias=True)
    head.linear.to(dtype)
    hidden = torch.randn(40, 32).to(dtype) * 4
    tokens = torch.arange(40) * 61
    with torch.no_grad():
        truth = token_statistics(logits64(hidden, head).numpy(), tokens.numpy(), 1.0)
    found = head_statistics(hidden, head, tokens, 1.0)
    for name in NAMES:
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), atol=2e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_those_of_the_written_formulas(passes: str, kind: str, threads: int) -> None:
    head = make_head(2500, 16, **HEADS[kind])
    hidden = (3 * torch.randn(600, 16, generator=torch.Generator().manual_seed(3))).requires_grad_()
    tokens = torch.arange(600) * 331 % 2500
    by_logprob, by_entropy = torch.linspace(-1, 2, 600), torch.linspace(1, -1, 600)
    inputs = [p for p in (hidden, head.linear.weight, head.linear.bias) if p is not None]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logprobs, entropies = token_logprobs_and_entropies(hidden, head, tokens, 0.7)
        found = torch.autograd.grad((logprobs * by_logprob + entropies * by_entropy).sum(), inputs)
    finally:
        torch.set_num_threads(before)
    log_p = torch.log_softmax(logits64(hidden, head) / 0.7, dim=1)
    total = log_p.gather(1, tokens[:, None])[:, 0] * by_logprob - (log_p.exp() * log_p).sum(1) * by_entropy
    truth = torch.autograd.grad(total.sum(), inputs)
    for ours, true in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, true, atol=1e-5 * float(true.abs().max()), rtol=1e-5)


@pytest.mark.parametrize(("threads", "shares"), [(1, 2**23), (3, 2**23), (3, 100 * 16 * 3)])
def test_gradients_of_sixteen_bit_weights_are_summed_in_float32(
    threads: int, shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens threads add up at once: rounded to bfloat16 once, at the end."""
    monkeypatch.setattr(statistics, "SHARES", shares)
    head = make_head(2500, 16)
    head.linear.bfloat16()
    hidden = (3 * torch.randn(1100, 16, generator=torch.Generator().manual_seed(3))).bfloat16().requires_grad_()
    tokens, inputs = torch.arange(1100) * 331 % 2500, [hidden, head.linear.weight]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = torch.autograd.grad(token_logprobs(hidden, head, tokens, 0.7).sum(), inputs)
    finally:
        torch.set_num_threads(before)
    wide = [one.detach().double().requires_grad_() for one in inputs]
    log_p = torch.log_softmax(wide[0] @ wide[1].T / 0.7, dim=1)
    truth = torch.autograd.grad(log_p.gather(1, tokens[:, None]).sum(), wide)
    for ours, true in zip(found, truth, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), true, atol=1e-5 * float(true.abs().max()), rtol=2**-8)


@pytest.mark.parametrize("threads", [1, 3])
def test_later_passes_add_to_the_gradient_of_the_weights_in_place(passes: str, threads: int) -> None:
    """A hook of the weights is given a matrix by the first backward pass, and by none that follows."""
    heads = [make_head(2500, 16, bias=True) for _ in range(2)]
    before, seen = torch.get_num_threads(), []
    heads[0].linear.weight.register_hook(lambda gradient: seen.append(gradient is not None))
    torch.set_num_threads(threads)
    try:
        for seed in range(3):
            hidden = torch.randn(1100, 16, generator=torch.Generator().manual_seed(seed))
            tokens = torch.arange(1100) * (331 + seed) % 2500
            for head, accumulates in zip(heads, (True, False), strict=True):
                token_logprobs(hidden, head, tokens, 0.7, accumulates=accumulates).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert seen == [True, False, False]
    for name in ("weight", "bias"):
        ours, theirs = (getattr(head.linear, name).grad for head in heads)
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def test_padding_behind_the_vocabulary_has_no_probability_and_no_gradient(passes: str) -> None:
    """As in vLLM, whose layers are padded in memory; whatever stands there."""
    whole = make_head(2500, 16, bias=True)
    with torch.no_grad():
        for one in (whole.linear.weight, whole.linear.bias):
            one[2000:] = 50.0
    padded, cut = replace(whole, vocabulary=2000), make_head(2000, 16, bias=True)
    with torch.no_grad():
        cut.linear.weight.copy_(whole.linear.weight[:2000])
        cut.linear.bias.copy_(whole.linear.bias[:2000])
    hidden, tokens = torch.randn(9, 16), torch.arange(9) * 249
    assert torch.equal(padded(hidden), cut(hidden))
    for one, other in zip(*(head_statistics(hidden, head, tokens, 0.7) for head in (padded, cut)), strict=True):
        assert torch.equal(one, other)
    for head in (padded, cut):
        sum(token_logprobs_and_entropies(hidden, head, tokens, 0.7)).sum().backward()
    assert torch.equal(whole.linear.weight.grad[:2000], cut.linear.weight.grad)
    assert torch.equal(whole.linear.bias.grad[:2000], cut.linear.bias.grad)
    assert not whole.linear.weight.grad[2000:].any() and not whole.linear.bias.grad[2000:].any()


def test_only_the_gradients_that_are_asked_for_are_made(passes: str) -> None:
    head = make_head(300, 8)
    head.linear.weight.requires_grad_(False)
    hidden = torch.randn(5, 8, requires_grad=True)
    logprobs, entropies = token_logprobs_and_entropies(hidden, head, torch.arange(5), 1.0)
    logprobs.sum().backward()
    assert hidden.grad is not None and head.linear.weight.grad is None
    assert entropies.requires_grad


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_stay_none(passes: str, bad: float) -> None:
    """A mask of them would pass unseen; who writes the table refuses NaN."""
    head = make_head(2500, 4, bias=True)
    with torch.no_grad():
        head.linear.bias[2000] = bad
    found = head_statistics(torch.ones(2, 4), head, torch.tensor([3, 7]), 1.0)
    assert all(torch.isnan(one).all() for one in found)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("k", [1, 5, 1100])
def test_the_likeliest_tokens_are_those_of_all_logits(
    passes: str, kind: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums_module, "KEYS_AT_ONCE", 15_000)  # fourteen rows of a tile
    head = make_head(2500, 32, **HEADS[kind])
    hidden = 6 * torch.randn(40, 32, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(40) * 61
    found, top = head_statistics_and_top(hidden, head, tokens, 0.7, k)
    log_p = torch.log_softmax(logits64(hidden, head) / 0.7, dim=1)
    truth = torch.topk(log_p, k)
    assert (torch.gather(log_p, 1, top.tokens) - truth.values).abs().max() < 1e-5  # float32 may swap neighbours
    assert (top.tokens[:, :1] == truth.indices[:, :1]).all()
    assert all(len(set(row)) == k for row in top.tokens.tolist())
    torch.testing.assert_close(top.logprobs, truth.values.float(), atol=2e-5, rtol=0)
    for one, other in zip(found, head_statistics(hidden, head, tokens, 0.7), strict=True):
        assert torch.equal(one, other)


def test_of_equal_logits_the_lower_token_is_the_likelier(passes: str) -> None:
    head = make_head(3000, 2, bias=True)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.fill_(-torch.inf)
        head.linear.bias[[2999, 1024, 1023, 7]] = torch.tensor([0.0, -0.0, 1.0, 0.0])
    top = head_statistics_and_top(torch.ones(3, 2), head, torch.tensor([7, 7, 7]), 1.0, 6)[1]
    assert top.tokens.tolist() == [[1023, 7, 1024, 2999, 0, 1]] * 3
    assert torch.isneginf(top.logprobs[:, 4:]).all() and torch.isfinite(top.logprobs[:, :4]).all()


ROWS = st.lists(st.floats(-60, 60, width=32) | st.just(-np.inf), min_size=2, max_size=9)


def sums_of(row: list[float], token: int, beta: float) -> Sums:
    sums = new_sums(1, torch.device("cpu"))
    fold(torch.tensor([row]), torch.tensor([token]), beta, sums)
    return sums


@settings(deadline=None, max_examples=60)
@given(ROWS, ROWS, st.integers(0, 17), st.floats(0.3, 3))
def test_the_parts_of_a_vocabulary_have_the_sums_of_the_whole(
    first: list[float], second: list[float], token: int, beta: float
) -> None:
    token %= len(first) + len(second)
    both = merge(sums_of(first, token, beta), sums_of(second, token - len(first), beta), beta)
    whole = sums_of([*first, *second], token, beta)
    if np.isfinite([*first, *second]).any():
        for name, ours, true in zip(NAMES, finish(both, beta), finish(whole, beta), strict=True):
            torch.testing.assert_close(ours, true, atol=1e-6, rtol=1e-6, msg=name)


SHARDED = """
import sys, torch, torch.distributed as dist
from entropyctl.tokenstats import Head
from entropyctl.tokenstats.head import Weights
from entropyctl.tokenstats.statistics import vocabulary_sums
from entropyctl.tokenstats.sums import merge_over_processes, statistics
dist.init_process_group("gloo")
rank = dist.get_rank()
generator = torch.Generator().manual_seed(0)
weight, hidden = (torch.randn(size, 16, generator=generator) for size in (3001, 50))
tokens = torch.arange(50) * 59 % 3001
start, end = ((0, 1700), (1700, 3001))[rank]
own = vocabulary_sums(hidden, Weights(weight[start:end], None, 1.0, None), tokens - start, 1.25)
found = statistics(merge_over_processes(own, 1.25), 1.25)
whole = statistics(vocabulary_sums(hidden, Weights(weight, None, 1.0, None), tokens, 1.25), 1.25)
sys.stdout.write(f"{max(float((a - b).abs().max()) for a, b in zip(found, whole))}\\n")
dist.destroy_process_group()
"""


def test_a_head_that_two_processes_share_has_the_statistics_of_one(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "shared.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    errors = [float(line) for line in ran.stdout.split()]
    assert len(errors) == 2 and max(errors) <= 5e-6, ran  # log p of -30 in float32


@pytest.mark.parametrize("part", compiled.Kernels._fields)
def test_a_compiler_whose_code_computes_something_else_is_left_alone(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*given: object) -> None: ...

    monkeypatch.setattr(compiled, "_build", Path)
    monkeypatch.setattr(compiled, "_load", lambda path: compiled.EAGER._replace(**{part: nothing}))
    assert compiled.kernels.__wrapped__() is compiled.EAGER
    good = compiled.Kernels(*compiled.EAGER)
    monkeypatch.setattr(compiled, "_load", lambda path: good)
    assert compiled.kernels.__wrapped__() is good


KERNELS = "from entropyctl.tokenstats import compiled as c; print(c.kernels() is c.EAGER)"


@pytest.mark.parametrize("missing", ["PATH", "XDG_CACHE_HOME"])
def test_without_a_compiler_or_a_place_to_write_torch_does_the_work(missing: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    environment[missing] = str(tmp_path / "file")  # no directory
    ran = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_the_compiled_passes_are_made_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    made = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KERNELS], env=environment, check=True, capture_output=True)
        made.append([(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "entropyctl").iterdir()])
    assert made[0] == made[1]
    assert len(made[0]) == (1 if compiled.kernels() is not compiled.EAGER else 0)
