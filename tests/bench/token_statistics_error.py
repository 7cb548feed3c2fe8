"""Errors of the token statistics against float64, for tokens drawn from each distribution.

    python tests/bench/token_statistics_error.py

Prints the largest absolute error of each statistic and the sign flips of S* and S* - E[S] where the true value is
not numerically zero (above 1e-7 in size).
"""

from __future__ import annotations

import numpy as np
import torch

from entropyctl.dynamics import token_statistics
from entropyctl.tokenstats import block_statistics

ROWS, VOCABULARIES, TEMPERATURES = 64, (49_152, 151_936), (0.6, 1.0)
NAMES = ("logprobs", "entropies", "s_star", "expected_s", "sum_p2")


def distributions(vocabulary: int) -> dict[str, torch.Tensor]:
    """Logits by name."""
    noise = torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(0))
    masked = noise.clone()
    masked[:, ::2] = -torch.inf
    one_hot = torch.full((ROWS, vocabulary), -torch.inf)
    one_hot[:, 7] = 2.0
    return {
        "standard normal": noise,
        "peaked (x8)": noise * 8,
        "uniform": torch.zeros(ROWS, vocabulary),
        "magnitude 1e4": noise * 1e4,
        "offset 1e4": noise + 1e4,
        "half -inf": masked,
        "one-hot": one_hot,
    }


def main() -> None:
    """Print the table."""
    print(
        f"{'logits':<18}{'V':>8}{'T':>5}"
        + "".join(f"{name:>12}" for name in NAMES)
        + f"{'S* flips':>10}{'S*-E flips':>12}"
    )
    for vocabulary in VOCABULARIES:
        for kind, logits in distributions(vocabulary).items():
            for temperature in TEMPERATURES:
                p = (logits.double() / temperature).softmax(dim=1)
                tokens = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(1))[:, 0]
                truth = token_statistics(logits.double().numpy(), tokens.numpy(), temperature)
                found = block_statistics(logits, tokens, temperature)
                errors = [np.abs(getattr(found, n).double().numpy() - getattr(truth, n)).max() for n in NAMES]
                flips = [
                    int(((np.sign(a) != np.sign(b)) & (np.abs(b) > 1e-7)).sum())
                    for a, b in (
                        (found.s_star.double().numpy(), truth.s_star),
                        ((found.s_star - found.expected_s).double().numpy(), truth.s_star - truth.expected_s),
                    )
                ]
                cells = "".join(f"{error:>12.1e}" for error in errors)
                print(f"{kind:<18}{vocabulary:>8}{temperature:>5}{cells}{flips[0]:>10}{flips[1]:>12}")


if __name__ == "__main__":
    main()
