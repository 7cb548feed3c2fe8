"""The output layer on a GPU in bfloat16: time and memory against the bare product and the kernels of other projects.

    python tests/bench/head_statistics_gpu.py [--rounds 10] [--tokens 8192]

Median milliseconds, their ratio to one cuBLAS product of the same shape, and MiB of memory beyond the inputs, gradients
included. cut-cross-entropy, Liger and TRL are run where they are installed; none of them computes all five statistics,
so each row says what it computes. Liger makes the gradient in its forward pass, so it has one row alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from entropyctl.tokenstats import Head, head_statistics, token_logprobs
from entropyctl.tokenstats import statistics as ours
from entropyctl.tokenstats.compiled import EAGER

SHAPES = {"Qwen2.5-0.5B": (896, 151936), "Qwen2.5-7B": (3584, 152064)}  # hidden size, vocabulary
Way = Callable[[], object]


def inputs(count: int, size: int, vocabulary: int, device: str) -> tuple[Tensor, Head, Tensor]:
    """Hidden states, a head and tokens."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(size, vocabulary, bias=False, device=device, dtype=torch.bfloat16)
    torch.nn.init.normal_(linear.weight, 0, 2 / size**0.5)
    hidden = torch.randn(count, size, device=device, dtype=torch.bfloat16)
    return hidden.requires_grad_(), Head(linear), torch.randint(vocabulary, (count,), device=device)


def in_torch(way: Way) -> Way:
    """The way with torch's passes in the place of Triton's."""

    def run() -> object:
        chosen = ours._kernels
        ours._kernels = lambda device: EAGER  # type: ignore[assignment]
        try:
            return way()
        finally:
            ours._kernels = chosen  # type: ignore[assignment]

    return run


def module(name: str) -> Any:
    """Another project's, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        print(f"{name} is not installed; left out")
        return None


def ways(hidden: Tensor, head: Head, tokens: Tensor, others: dict[str, Any]) -> dict[str, Way]:
    """What is timed, the bare product first."""
    weight = head.linear.weight

    def gradient(loss: Callable[[], Tensor]) -> Way:
        def run() -> object:
            loss().float().sum().backward()
            hidden.grad = weight.grad = None
            return None

        return run

    found: dict[str, Way] = {
        "product": torch.no_grad()(lambda: hidden @ weight.T),
        "five statistics": torch.no_grad()(lambda: head_statistics(hidden, head, tokens, 1.0)),
        "log p, forward and backward": gradient(lambda: token_logprobs(hidden, head, tokens, 1.0)),
    }
    found["five statistics, torch"] = in_torch(found["five statistics"])
    if (trl := others["trl.kernels.chunked_logprob"]) is not None:
        apply = trl.ChunkedLogProbFunction.apply
        three = (hidden, weight, None, tokens, 1.0, 32768, None, 1.0, ("entropy", "log_sum_sq_probs"))
        found["TRL, three statistics"] = torch.no_grad()(lambda: apply(*three))
        found["TRL, log p, forward and backward"] = gradient(lambda: apply(*three[:-1], ())[0])
    if (cut := others["cut_cross_entropy"]) is not None:
        found["cut-cross-entropy, log p"] = torch.no_grad()(
            lambda: cut.linear_cross_entropy(hidden, weight, tokens, reduction="none")
        )
        found["cut-cross-entropy, forward and backward"] = gradient(
            lambda: cut.linear_cross_entropy(hidden, weight, tokens, reduction="none")
        )
    if (liger := others["liger_kernel.transformers"]) is not None:
        loss = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")
        found["Liger, sum of log p, forward and backward"] = gradient(lambda: loss(weight, hidden, tokens))
    return found


def measured(way: Way, rounds: int) -> tuple[float, float]:
    """Median milliseconds, and MiB beyond what was there before."""
    way()  # compiles, and finds its settings
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    for _ in range(rounds):
        began = time.perf_counter()
        way()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times), (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=8192)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU")
    others = {
        name: module(name) for name in ("trl.kernels.chunked_logprob", "cut_cross_entropy", "liger_kernel.transformers")
    }
    print(
        torch.cuda.get_device_name(),
        "- passes of",
        "torch" if ours._kernels(torch.device("cuda")) is EAGER else "Triton",
    )
    for name, (size, vocabulary) in SHAPES.items():
        hidden, head, tokens = inputs(given.tokens, size, vocabulary, "cuda")
        print(f"{name}: T={given.tokens} D={size} V={vocabulary}")
        base = 0.0
        for title, way in ways(hidden, head, tokens, others).items():
            milliseconds, memory = measured(way, given.rounds)
            base = base or milliseconds
            rate = 2 * given.tokens * size * vocabulary / milliseconds / 1e9
            rest = f"{milliseconds / base:>7.2f}x{memory:>8.0f} MiB{rate:>8.0f} TFLOP/s"
            print(f"  {title:<42}{milliseconds:>9.2f} ms{rest}")


if __name__ == "__main__":
    main()
