"""The passes over a tile on a GPU, against those of torch and float64: on one, or in Triton's interpreter.

The interpreter is chosen for a process as a whole, before Triton is imported: TRITON_INTERPRET=1 pytest this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropyctl.dynamics import token_statistics
from entropyctl.tokenstats import Head, compiled, head_statistics, statistics, token_logprobs_and_entropies
from entropyctl.tokenstats.compiled import EAGER, Kernels
from entropyctl.tokenstats.sums import Pull, new_sums
from entropyctl.tokenstats.sums import statistics as finish

from .conftest import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("there is no GPU; with TRITON_INTERPRET=1 these run on a CPU", allow_module_level=True)

import triton  # noqa: E402

from entropyctl.tokenstats import gpu  # noqa: E402

# The interpreter computes with numpy, which remarks upon inf - inf and on overflow.
pytestmark = [pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")]
NAMES = ("logprobs", "entropies", "s_star", "expected_s", "sum_p2")
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TRITON = Kernels(gpu.fold, gpu.pull)
# Around a block's end, and one logit alone.
WIDTHS = st.sampled_from([1, 2, 63, 64, 65, 1000, 1023, 1024, 1025, 2500])
NUMBERS = st.floats(-90, 90, width=32) | st.sampled_from([-np.inf, np.nan, np.inf, 1e4, -1e4, 3e38, -3e38, 0.0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The interpreter exchanges Triton's operators for the time of a launch: two at once would meet the wrong ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes through the passes of Triton, whatever the device."""
    monkeypatch.setattr(statistics, "_kernels", lambda device: TRITON)


def tiles_of(widths: list[int], numbers: list[float], seed: int) -> list[Tensor]:
    """Tiles of three rows, noise with some numbers strewn in; each a part of a wider one, as slices of logits are."""
    generator = torch.Generator().manual_seed(seed)
    tiles = []
    for width in widths:
        x = torch.randn(3, width + 5, generator=generator) * 8
        for number in numbers:
            row, column = (int(torch.randint(size, (), generator=generator)) for size in x.shape)
            x[row, column] = number
        tiles.append(x.to(DEVICE)[:, :width])
    return tiles


def copy_of(tile: Tensor) -> Tensor:
    """The same, with the gap between rows, which clone() closes."""
    return torch.empty_strided(tile.shape, tile.stride(), device=tile.device).copy_(tile)


def through(kernels: Kernels, tiles: list[Tensor], tokens: Tensor, beta: float) -> list[Tensor]:
    """The statistics, and the gradient at every tile."""
    sums, left = new_sums(3, DEVICE), 0
    for tile in tiles:
        kernels.fold(copy_of(tile), tokens - left, beta, sums)
        left += tile.shape[1]
    found = finish(sums, beta)
    by_logprob, by_entropy = (torch.tensor(weights, device=DEVICE) for weights in ([1.0, -2.0, 0.5], [0.3, 0.0, -1.0]))
    given = Pull(sums.top, sums.sums[:, 0].log().float(), found.entropies, by_logprob, by_entropy)
    left = 0
    for tile in tiles:
        gradient = copy_of(tile)
        kernels.pull(gradient, tokens - left, beta, given)
        left += tile.shape[1]
        found = (*found, gradient)
    return [one.cpu() for one in found]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(WIDTHS, min_size=1, max_size=3),
    st.lists(NUMBERS, max_size=9),
    st.integers(0, 7500),
    st.floats(0.2, 4),
    st.integers(0, 99),
)
def test_they_compute_what_those_of_torch_do(
    widths: list[int], numbers: list[float], token: int, beta: float, seed: int
) -> None:
    """Also for -inf, NaN and what overflows."""
    tiles = tiles_of(widths, numbers, seed)
    tokens = (torch.tensor([0, 1, 2], device=DEVICE) * 700 + token) % sum(widths)
    ours, theirs = (through(kernels, tiles, tokens, beta) for kernels in (TRITON, EAGER))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5, equal_nan=True)


def test_what_is_run_to_be_timed_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuner runs every setting on the first tile of a size, whose sums must come in once."""
    runs = []

    def timed(run: Callable[[], None], quantiles: object) -> list[float]:
        for _ in range(2):
            run()
            runs.append(run)
        return [1.0] * 3

    monkeypatch.setattr(gpu, "_tuned", {})
    for kernel in (gpu._fold, gpu._pull):
        monkeypatch.setattr(kernel, "cache", {})
        monkeypatch.setattr(kernel, "early_config_prune", None)
        monkeypatch.setattr(kernel, "cache_results", False)
        monkeypatch.setattr(kernel, "_do_bench", timed)
    tiles = tiles_of([700, 4096], [], 3)  # one of each size
    tokens = torch.tensor([0, 700, 4795], device=DEVICE)
    for one, other in zip(through(TRITON, tiles, tokens, 1.4), through(EAGER, tiles, tokens, 1.4), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert len(runs) == 2 * 2 * 2 * len(gpu.SETTINGS)


@pytest.mark.parametrize("block", sorted({block for block, _ in gpu.SETTINGS}))
def test_every_setting_gives_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_tuned", {})
    for kernel in (gpu._fold, gpu._pull):
        monkeypatch.setattr(kernel, "configs", [triton.Config({"BLOCK": block})])
    tiles = tiles_of([4096, 4096, 700], [-np.inf], 3)
    tokens = torch.tensor([0, 4096, 8891], device=DEVICE)
    for one, other in zip(through(TRITON, tiles, tokens, 1.4), through(EAGER, tiles, tokens, 1.4), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [0.02, 1.0, 8.0, 1e3])
def test_statistics_are_within_2e_5_of_float64(in_triton: None, size: float) -> None:
    """Flat to certain; in the middle no sign of S* or S* - E[S] is another."""
    torch.manual_seed(1)
    head = Head(torch.nn.Linear(32, 9000, bias=True).to(DEVICE), 1.5)
    hidden = size * torch.randn(6, 32, device=DEVICE)
    tokens = torch.tensor([0, 4095, 4096, 8191, 8192, 8999], device=DEVICE)
    with torch.no_grad():
        logits = (hidden.double() @ head.linear.weight.double().T + head.linear.bias.double()) * 1.5
        truth = token_statistics(logits.cpu().numpy(), tokens.cpu().numpy(), 0.7)
    found = head_statistics(hidden, head, tokens, 0.7)
    for name in NAMES:
        ours = getattr(found, name).cpu()
        np.testing.assert_allclose(ours, getattr(truth, name), atol=2e-5, rtol=2e-6, err_msg=name)
    for ours, true in (
        (found.s_star, truth.s_star),
        (found.s_star - found.expected_s, truth.s_star - truth.expected_s),
    ):
        decided = np.abs(true) > 1e-6
        assert (np.sign(ours.cpu().numpy()) == np.sign(true))[decided].all()


@pytest.mark.parametrize("cap", [None, 6.0])
def test_gradients_are_those_of_the_written_formulas(in_triton: None, cap: float | None) -> None:
    torch.manual_seed(2)
    head = Head(torch.nn.Linear(16, 5000, bias=True).to(DEVICE), 0.8, cap)
    hidden = (3 * torch.randn(5, 16, device=DEVICE)).requires_grad_()
    tokens = torch.tensor([0, 1, 4095, 4096, 4999], device=DEVICE)
    by_logprob, by_entropy = (torch.linspace(*ends, 5, device=DEVICE) for ends in ((-1, 2), (1, -1)))
    inputs = [hidden, head.linear.weight, head.linear.bias]
    logprobs, entropies = token_logprobs_and_entropies(hidden, head, tokens, 0.7)
    found = torch.autograd.grad((logprobs * by_logprob + entropies * by_entropy).sum(), inputs)
    x = (hidden.double() @ head.linear.weight.double().T + head.linear.bias.double()) * 0.8
    log_p = torch.log_softmax((cap * torch.tanh(x / cap) if cap else x) / 0.7, dim=1)
    total = log_p.gather(1, tokens[:, None])[:, 0] * by_logprob - (log_p.exp() * log_p).sum(1) * by_entropy
    for ours, true in zip(found, torch.autograd.grad(total.sum(), inputs), strict=True):
        torch.testing.assert_close(ours, true, atol=1e-5 * float(true.abs().max()), rtol=1e-5)


def test_no_tokens_are_no_work() -> None:
    head = Head(torch.nn.Linear(4, 10).to(DEVICE))
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert all(len(one) == 0 for one in head_statistics(torch.empty(0, 4, device=DEVICE), head, none, 1.0))


def test_a_device_on_which_they_fail_or_are_wrong_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("no kernel image is available")

    def drifts(x: Tensor, tokens: Tensor, beta: float, given: Pull) -> None:
        EAGER.pull(x, tokens, beta * 1.01, given)

    assert gpu.kernels.__wrapped__(DEVICE) == TRITON
    monkeypatch.setattr(gpu, "pull", drifts)
    assert gpu.kernels.__wrapped__(DEVICE) is compiled.EAGER
    monkeypatch.setattr(gpu, "pull", fails)
    assert gpu.kernels.__wrapped__(DEVICE) is compiled.EAGER


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from entropyctl.tokenstats import gpu

numbers = {"width": "i32", "stride": "i32", "size": "i32", "beta": "fp32", "token": "*i64", "BLOCK": "constexpr"}
exact = dict.fromkeys(("top", "sums", "target"), "*fp64")
for kernel in (gpu._fold.fn, gpu._pull.fn):
    types = {name: (numbers | exact).get(name, "*fp32") for name in kernel.arg_names}
    for capability in (80, 90):
        for block, warps in gpu.SETTINGS:
            made = triton.compile(
                ASTSource(kernel, types, constexprs={"BLOCK": block}),
                target=GPUTarget("cuda", capability, 32),
                options={"num_warps": warps, **gpu.OPTIONS},
            )
            sys.stdout.write(f"{len(made.asm['cubin'])} ")
"""


def test_they_compile_for_the_gpus_of_today() -> None:
    """Machine code of every setting for an A100 and an H100, which needs none of them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [int(size) > 1000 for size in ran.stdout.split()] == [True] * 16
