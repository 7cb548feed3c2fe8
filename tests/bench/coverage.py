"""How often the intervals of `eval` hold the truth, on simulated problems whose rates are known.

python tests/bench/coverage.py [--rounds 1000]

Rates of problems are drawn from a beta distribution; a round draws problems, n responses to each, and asks whether the
95 % interval of pass@k over problems holds the mean of all problems, whether that of other samples holds the mean of
these problems, and whether the paired band holds the whole curve of differences to a policy of rates p^0.8.
"""

from __future__ import annotations

import argparse

import numpy as np

from entropyctl.laws.paired import paired_curve
from entropyctl.laws.pass_at_k import pass_curve, sampling_variance
from entropyctl.laws.summary import interval

RATES = {"at both ends": (0.3, 0.5), "in the middle": (2.0, 3.0), "hard": (0.3, 3.0)}
SIZES = ((15, 16), (30, 16), (100, 8), (300, 64))  # problems, responses to each
GRID = 400_000


def truth(p: np.ndarray, n: int) -> np.ndarray:
    """pass@1 to pass@n of problems with these rates, in the mean."""
    left, found = np.ones_like(p), []
    for _ in range(n):
        left = left * (1 - p)
        found.append(1 - left.mean())
    return np.array(found)


def covered(rates: tuple[float, float], problems: int, n: int, rounds: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Shares of the rounds: intervals over problems and of samples at k = 1, n/2, n, and the band over all k."""
    rng = np.random.default_rng([problems, n])
    grid = rng.beta(*rates, GRID)
    curve, other = truth(grid, n), truth(grid**0.8, n)
    ks, sizes = (1, n // 2, n), np.full(problems, n)
    over_problems, of_samples, band = np.zeros(3), np.zeros(3), 0
    for _ in range(rounds):
        p = rng.beta(*rates, problems)
        c = rng.binomial(n, p)
        curve_PK, noise_PK, own = pass_curve(sizes, c, n), sampling_variance(sizes, c, n), truth(p, n)
        for i, k in enumerate(ks):
            found = interval(curve_PK[:, k - 1], noise_PK[:, k - 1], 0.95)
            over_problems[i] += float(found["low"] or 0) <= curve[k - 1] <= float(found["high"] or 0)
            of_samples[i] += float(found["samples_low"] or 0) <= own[k - 1] <= float(found["samples_high"] or 0)
        paired = paired_curve(sizes, c, sizes, rng.binomial(n, p**0.8))
        band += bool(((paired.low <= other - curve) & (other - curve <= paired.high)).all())
    return over_problems / rounds, of_samples / rounds, band / rounds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    rounds = parser.parse_args().rounds
    print(f"share of {rounds} rounds in which a 95 % interval held the truth, at k = 1, n/2, n")
    print(f"{'rates':<14} {'problems':>8} {'n':>4}   {'over problems':<20} {'of samples':<20} band")
    for name, rates in RATES.items():
        for problems, n in SIZES:
            over, of, band = covered(rates, problems, n, rounds)
            shown = [" ".join(f"{share:.3f}" for share in shares) for shares in (over, of)]
            print(f"{name:<14} {problems:8d} {n:4d}   {shown[0]:<20} {shown[1]:<20} {band:.3f}", flush=True)


if __name__ == "__main__":
    main()
