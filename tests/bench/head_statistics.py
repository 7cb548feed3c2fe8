"""The statistics of the output layer, and their gradient, against the bare product of the same shape, in one run.

    python tests/bench/head_statistics.py [--rounds 3] [--shapes small large] [--trl DIRECTORY]

CPU time of one thread, each way beside the product in every round; the last lines are wall time of two threads. Every
figure is the median ratio to the product; peak memory is what a process of its own used beyond its inputs, and beyond
the gradients that it returned. TRL's head is run too where trl 1.16 is installed, or unpacked in DIRECTORY.

What a ratio cannot fall below: the statistics contain the product once, so no head is faster than TRL's by more than
TRL's own ratio. The backward pass makes the logits again, multiplies with the weights, and with the hidden states where
the weights are trained: two products, or three. It could do without the first only by keeping the logits, or by taking
log Z from an earlier pass with the very same weights.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entropyctl.tokenstats import Head, head_statistics, head_statistics_and_top, token_logprobs
from entropyctl.tokenstats import statistics as ours
from entropyctl.tokenstats.compiled import EAGER, kernels

SHAPES = {"small": (4096, 576, 49152), "large": (2048, 896, 151936)}  # tokens, hidden size, vocabulary
Way = Callable[[], object]


def inputs(shape: tuple[int, int, int]) -> tuple[Tensor, Head, Tensor]:
    """Hidden states, a head and tokens, such that probabilities are neither flat nor certain."""
    tokens, size, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(size, vocabulary, bias=False)
    with torch.no_grad():
        linear.weight.normal_(0, 2 / size**0.5, generator=generator)
    hidden = torch.randn(tokens, size, generator=generator)
    return hidden, Head(linear), torch.randint(vocabulary, (tokens,), generator=generator)


def with_kernels(compiled: bool, way: Way) -> Way:
    """The way, with the compiled passes over a tile or with torch's."""

    def run() -> object:
        found = kernels() if compiled else EAGER
        ours._kernels = lambda device: found  # type: ignore[assignment]
        return way()

    return run


def naive(hidden: Tensor, head: Head, tokens: Tensor) -> list[Tensor]:
    """The five statistics with all logits in memory."""
    log_p = torch.log_softmax(hidden @ head.linear.weight.T, dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1)
    sum_p2 = p.square().sum(1)
    expected = sum_p2 * entropy + (p.square() * log_p).sum(1)
    own = log_p.gather(1, tokens[:, None])[:, 0]
    return [own, entropy, sum_p2, expected, own.exp() * (entropy + own)]


def of_trl(trl: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """TRL's log p and the other statistics of those names, with the tile of its own trainer."""
    return trl.ChunkedLogProbFunction.apply(hidden, weight, None, tokens, 1.0, 32768, None, 1.0, names)


def forward_ways(shape: tuple[int, int, int], trl: Any) -> dict[str, Way]:
    """Ways to the statistics, the bare product first."""
    hidden, head, tokens = inputs(shape)
    weight = head.linear.weight.detach()
    out = torch.empty(shape[0], shape[2])
    ways: dict[str, Way] = {
        "product": lambda: torch.mm(hidden, weight.T, out=out),
        "five, compiled": with_kernels(True, lambda: head_statistics(hidden, head, tokens, 1.0)),
        "five, torch": with_kernels(False, lambda: head_statistics(hidden, head, tokens, 1.0)),
        "five and top 20, compiled": with_kernels(True, lambda: head_statistics_and_top(hidden, head, tokens, 1.0, 20)),
        "five, naive": lambda: naive(hidden, head, tokens),
    }
    if trl is not None:
        ways["three, TRL"] = lambda: of_trl(trl, hidden, weight, tokens, ("entropy", "log_sum_sq_probs"))
    return {name: torch.no_grad()(way) for name, way in ways.items()}


def backward_ways(shape: tuple[int, int, int], trl: Any) -> dict[str, Way]:
    """Ways to the gradient of log p alone; the forward pass is made beforehand."""
    hidden, head, tokens = inputs(shape)
    weight, out = head.linear.weight.detach(), torch.empty(shape[0], shape[2])
    hidden.requires_grad_()

    def backward(trains: bool, logprobs: Callable[[], Tensor]) -> Way:
        def run() -> object:
            head.linear.weight.requires_grad_(trains)
            hidden.grad = head.linear.weight.grad = None
            total = logprobs().sum()
            began = time.thread_time()
            total.backward()
            return time.thread_time() - began

        return run

    def own() -> Tensor:
        return token_logprobs(hidden, head, tokens, 1.0)

    ways: dict[str, Way] = {"product": lambda: torch.mm(hidden.detach(), weight.T, out=out)}
    for name, compiled in (("compiled", True), ("torch", False)):
        ways[f"at hidden states, {name}"] = with_kernels(compiled, backward(False, own))
        ways[f"and at weights, {name}"] = with_kernels(compiled, backward(True, own))
    if trl is not None:
        ways["and at weights, TRL"] = backward(True, lambda: of_trl(trl, hidden, head.linear.weight, tokens, ())[0])
    return ways


def ratios(ways: dict[str, Way], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median over rounds of each way's time over the product's; the first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        seconds = {}
        for name, way in ways.items():
            began = clock()
            own = way()
            seconds[name] = own if isinstance(own, float) else clock() - began
            del own
        for name in ways if number else ():
            found[name].append(seconds[name] / seconds["product"])
    return {name: statistics.median(values) for name, values in found.items()}


def peak_beyond_inputs(name: str, shape_name: str) -> float:
    """MiB that one way used beyond its inputs and the libraries, in a process of its own."""
    code = f"from tests.bench.head_statistics import print_peak; print_peak({name!r}, {shape_name!r})"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def print_peak(name: str, shape_name: str) -> None:
    """The peak memory of one way, printed."""
    torch.set_num_threads(1 if name != "backward, two threads" else 2)
    hidden, head, tokens = inputs(SHAPES[shape_name])
    if name.startswith("backward"):
        few = hidden[:8].clone().requires_grad_()
        token_logprobs(few, head, tokens[:8], 1.0).sum().backward()  # libraries, and the compiled passes
        head.linear.weight.grad = None
        hidden.requires_grad_()
        before = memory("VmRSS")
        token_logprobs(hidden, head, tokens, 1.0).sum().backward()
        before += 4 * (hidden.numel() + head.linear.weight.numel()) / 2**20
    else:
        with torch.no_grad():
            head_statistics(hidden[:8], head, tokens[:8], 1.0)
            before = memory("VmRSS")
            naive(hidden, head, tokens) if name == "naive" else head_statistics(hidden, head, tokens, 1.0)
    print(memory("VmHWM") - before)


def memory(field: str) -> float:
    """MiB of this process; its peak (VmHWM), unlike that of getrusage, is not the one of who started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--trl", help="directory with trl unpacked")
    given = parser.parse_args()
    if given.trl:
        sys.path.insert(0, given.trl)
    try:
        trl = importlib.import_module("trl.kernels.chunked_logprob")
    except ImportError:
        trl = None
        print("trl is not installed; its head is left out")
    print("compiled passes:", "yes" if kernels() is not EAGER else "no, there is no compiler")
    for name in given.shapes:
        shape = SHAPES[name]
        print("T={} D={} V={}".format(*shape))
        torch.set_num_threads(1)
        for title, ways in (("forward", forward_ways(shape, trl)), ("backward of log p", backward_ways(shape, trl))):
            found = ratios(ways, given.rounds, time.thread_time)
            print(f"  {title}, CPU time:", ", ".join(f"{k} {v:.2f}" for k, v in found.items() if k != "product"))
        torch.set_num_threads(2)
        both = {k: v for k, v in forward_ways(shape, None).items() if k in ("product", "five, compiled", "five, torch")}
        found = ratios(both, given.rounds, time.perf_counter)
        print("  two threads, wall time:", ", ".join(f"{k} {v:.2f}" for k, v in found.items() if k != "product"))
        peaks = {way: peak_beyond_inputs(way, name) for way in ("five", "naive", "backward", "backward, two threads")}
        print("  memory beyond inputs:", ", ".join(f"{k} {v:.0f} MiB" for k, v in peaks.items()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
