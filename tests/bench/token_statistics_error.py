"""Errors of the token statistics against float64, for tokens drawn from each distribution, by each way to them.

    python tests/bench/token_statistics_error.py [--passes compiled torch triton] [--rows 64]

Prints the largest absolute error of each statistic and the sign flips of S* and S* - E[S] where the true value is
not numerically zero (above 1e-7 in size). The last rows of each vocabulary start from hidden states, so that the error
of the float32 product is in them. `triton` needs a GPU, or TRITON_INTERPRET=1 and patience (--rows 4).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from entropyctl.dynamics import token_statistics
from entropyctl.tokenstats import Head, block_statistics, head_statistics
from entropyctl.tokenstats import statistics as ours
from entropyctl.tokenstats.compiled import EAGER, Kernels, kernels
from entropyctl.tokenstats.sums import BlockStatistics

SHAPES, TEMPERATURES = ((49_152, 576), (151_936, 896)), (0.6, 1.0)  # vocabulary, hidden size
NAMES = ("logprobs", "entropies", "s_star", "expected_s", "sum_p2")
Compute = Callable[[Tensor, float], BlockStatistics]  # of tokens, at a temperature


def distributions(vocabulary: int, rows: int) -> dict[str, Tensor]:
    """Logits by name."""
    noise = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))
    masked = noise.clone()
    masked[:, ::2] = -torch.inf
    one_hot = torch.full((rows, vocabulary), -torch.inf)
    one_hot[:, 7] = 2.0
    return {
        "standard normal": noise,
        "peaked (x8)": noise * 8,
        "uniform": torch.zeros(rows, vocabulary),
        "magnitude 1e4": noise * 1e4,
        "offset 1e4": noise + 1e4,
        "half -inf": masked,
        "one-hot": one_hot,
    }


def cases(vocabulary: int, size: int, rows: int, device: torch.device) -> Iterator[tuple[str, Tensor, Compute]]:
    """Names, logits in float64, and what computes the statistics."""
    for kind, logits in distributions(vocabulary, rows).items():
        x = logits.to(device)
        yield kind, logits.double(), lambda tokens, t, x=x: block_statistics(x, tokens.to(device), t)
    generator = torch.Generator().manual_seed(2)
    for kind, scale in (("hidden states, flat", 0.5), ("hidden states", 2.0), ("hidden states, peaked", 8.0)):
        linear = torch.nn.Linear(size, vocabulary, bias=False)
        with torch.no_grad():
            linear.weight.normal_(0, scale / size**0.5, generator=generator)
        hidden = torch.randn(rows, size, generator=generator)
        truth = hidden.double() @ linear.weight.detach().double().T
        h, head = hidden.to(device), Head(linear.to(device))
        yield kind, truth, lambda tokens, t, h=h, head=head: head_statistics(h, head, tokens.to(device), t)


def row(logits: Tensor, compute: Compute, temperature: float) -> str:
    """Largest errors and sign flips of one case."""
    drawn = (logits / temperature).softmax(dim=1)
    tokens = torch.multinomial(drawn, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    truth = token_statistics(logits.numpy(), tokens.numpy(), temperature)
    found = BlockStatistics(*(one.cpu() for one in compute(tokens, temperature)))
    errors = [np.abs(getattr(found, n).double().numpy() - getattr(truth, n)).max() for n in NAMES]
    flips = [
        int(((np.sign(a) != np.sign(b)) & (np.abs(b) > 1e-7)).sum())
        for a, b in (
            (found.s_star.double().numpy(), truth.s_star),
            ((found.s_star - found.expected_s).double().numpy(), truth.s_star - truth.expected_s),
        )
    ]
    return "".join(f"{error:>12.1e}" for error in errors) + f"{flips[0]:>10}{flips[1]:>12}"


def passes(name: str) -> tuple[Kernels, torch.device]:
    """The passes over a tile of that name, and where they run."""
    if name != "triton":
        return kernels() if name == "compiled" else EAGER, torch.device("cpu")
    from entropyctl.tokenstats import gpu

    return Kernels(gpu.fold, gpu.pull), torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", nargs="+", default=["compiled", "torch"], choices=["compiled", "torch", "triton"])
    parser.add_argument("--rows", type=int, default=64)
    given = parser.parse_args()
    heading = f"{'passes':<10}{'logits':<22}{'V':>8}{'T':>5}" + "".join(f"{name:>12}" for name in NAMES)
    print(heading + f"{'S* flips':>10}{'S*-E flips':>12}")
    for name in given.passes:
        found, device = passes(name)
        ours._kernels = lambda device, found=found: found  # type: ignore[assignment]
        for vocabulary, size in SHAPES:
            for kind, logits, compute in cases(vocabulary, size, given.rows, device):
                for temperature in TEMPERATURES:
                    print(f"{name:<10}{kind:<22}{vocabulary:>8}{temperature:>5}{row(logits, compute, temperature)}")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
