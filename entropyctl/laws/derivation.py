"""The law's formulas and the theorems of S*, derived again with sympy and checked by numbers.

Theorem 3.2 is proved for a vocabulary of any size: all that it needs of the entries that were not sampled are the sum
of their e^z and of their z e^z. The others, which follow from it by summation, are proved over three free logits.
The numbers are of a vocabulary of 50, and of the functions that entropyctl computes with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from entropyctl.dynamics import centred_score, predicted_change, s_star, token_statistics
from entropyctl.laws.entropy_law import fit_law

Floats = npt.NDArray[np.float64]
VOCABULARY = 50
# The largest difference between a derivative and its quotient of differences, in steps of 1e-5 from float64.
TOLERANCE = 1e-7
STEP = 1e-5
# Symbols that stand for more than a letter.
LATEX = {
    "E[S]": r"\operatorname{E}[S]",
    "Cov(log p, g)": r"\operatorname{Cov}(\log p, g)",
    "sum(p^2)": r"\sum_i p_i^2",
    "sum(p^2 log p)": r"\sum_i p_i^2 \log p_i",
    "mean_x": r"\bar{x}",
    "mean_R": r"\bar{R}",
    "mean_x2": r"\overline{x^2}",
    "mean_xR": r"\overline{x R}",
    "Sxx": "S_{xx}",
    "1/m": r"\frac{1}{m}",
}


class Derived(NamedTuple):
    """A statement, what sympy makes of it, and how far numbers are from it."""

    name: str
    statement: str
    derived: str  # what sympy arrives at, as text
    latex: str
    proved: bool
    difference: float

    @property
    def holds(self) -> bool:
        """Whether sympy proved it and the numbers agree."""
        return bool(self.proved and self.difference <= TOLERANCE)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict() | {"difference": float(self.difference), "holds": self.holds}


def derive() -> list[Derived]:
    """Derive everything; imports sympy.

    Papers: R = -a e^H + b in 2505.22617; S* and Theorems 3.2 and 3.3 in 2602.03392.
    """
    return [*_of_the_law(), *_of_the_discriminator()]


def _of_the_law() -> list[Derived]:
    import sympy as sp

    a, b, H, x0 = sp.symbols("a b H x0", real=True)
    R = -a * sp.exp(H) + b
    slope = sp.diff(R, H)
    made = fit_law(np.log([1.0, 2.0, 3.0, 5.0]), [3.0, 2.2, 1.9, 0.4])
    h = STEP
    by_numbers = (made.predict(np.array([1 + h])) - made.predict(np.array([1 - h])))[0] / (2 * h)
    # Least squares: means of x, R, x^2 and xR are all that the sum of squares holds of the points.
    m1, r1, m2, p1 = sp.symbols("mean_x mean_R mean_x2 mean_xR", real=True)
    squares = a**2 * m2 + b**2 - 2 * a * b * m1 + 2 * a * p1 - 2 * b * r1
    found = sp.solve([sp.diff(squares, a), sp.diff(squares, b)], [a, b], dict=True)[0]
    Sxx, Sxy = m2 - m1**2, p1 - m1 * r1
    x, y = np.array([1.0, 2.0, 3.0, 5.0]), np.array([3.0, 2.2, 1.9, 0.4])
    lstsq = np.linalg.lstsq(np.stack([-x, np.ones(4)], axis=1), y, rcond=None)[0]
    # The height at x0 is the sum of weights times R; its variance is s^2 times the sum of their squares.
    d = sp.symbols("d1:4", real=True)
    centred = {d[2]: -d[0] - d[1]}
    spread = sum(di**2 for di in d)
    weights = [sp.Rational(1, 3) + (x0 - m1) * di / spread for di in d]
    variance = sum(w**2 for w in weights) - (sp.Rational(1, 3) + (x0 - m1) ** 2 / spread)
    d_m = x - x.mean()
    weight_m = 1 / 4 + (1 - x.mean()) * d_m / (d_m @ d_m)
    return [
        Derived(
            *("ceiling", "R(H = 0) = b - a", *_shown(R.subs(H, 0)), sp.simplify(R.subs(H, 0) - (b - a)) == 0),
            abs(made.predict(np.array([0.0]))[0] - (made.b - made.a)),
        ),
        Derived(
            *("slope", "dR/dH = -a e^H", *_shown(slope), sp.simplify(slope + a * sp.exp(H)) == 0),
            abs(by_numbers + made.a * np.e),
        ),
        Derived(
            *("least squares", "a = -Sxy / Sxx, b = mean(R) + a mean(x), x = e^H", *_shown(sp.factor(found[a]))),
            bool(sp.simplify(found[a] + Sxy / Sxx) == 0 and sp.simplify(found[b] - r1 - found[a] * m1) == 0),
            float(np.abs(lstsq - [made.a, made.b]).max()),
        ),
        Derived(
            *("variance of the ceiling", "Var = s^2 (1/m + (1 - mean(x))^2 / Sxx)"),
            *_shown(sp.Symbol("s") ** 2 * (sp.Symbol("1/m") + (1 - m1) ** 2 / sp.Symbol("Sxx"))),
            sp.simplify(variance.subs(centred)) == 0,
            abs(float(weight_m @ weight_m) - (1 / 4 + (1 - x.mean()) ** 2 / float(d_m @ d_m))),
        ),
    ]


def _of_the_discriminator() -> list[Derived]:
    import sympy as sp

    z = sp.symbols("x y z", real=True)
    total = sum(sp.exp(zi) for zi in z)
    p = [sp.exp(zi) / total for zi in z]
    logp = [zi - sp.log(total) for zi in z]
    H = -sum(pi * li for pi, li in zip(p, logp, strict=True))
    S = [pi * (H + li) for pi, li in zip(p, logp, strict=True)]
    mean_S = sum(pi * si for pi, si in zip(p, S, strict=True))
    q, h, eta, A, r = sp.symbols("p H eta A r", positive=True)

    def along(direction: list[Any]) -> Any:
        return sum(sp.diff(H, zi) * vi for zi, vi in zip(z, direction, strict=True))

    def zero(expression: Any) -> bool:
        return bool(sp.simplify(expression) == 0)

    score = q * (h + sp.log(q))  # of one token, in its probability and the entropy
    towards_token = [eta * r * A * (int(i == 0) - p[i]) for i in range(3)]
    gains = sp.symbols("g1:4", real=True)
    mean_logp, mean_gain = -H, sum(pi * gi for pi, gi in zip(p, gains, strict=True))
    covariance = sum(pi * li * gi for pi, li, gi in zip(p, logp, gains, strict=True)) - mean_logp * mean_gain
    cov_p = sum(pi * pi * li for pi, li in zip(p, logp, strict=True)) - mean_logp * sum(pi**2 for pi in p)
    lowest = sp.solve(sp.diff(score, q), q)[0]
    numbers = _numbers()
    return [
        Derived(
            *("lemma 3.1", "dp_k / dz_k = p_k (1 - p_k), dp_i / dz_k = -p_i p_k"),
            *_shown(q * (1 - q)),
            zero(sp.diff(p[0], z[0]) - p[0] * (1 - p[0])) and zero(sp.diff(p[1], z[0]) + p[1] * p[0]),
            numbers["lemma"],
        ),
        Derived(
            *("theorem 3.2", "dH / dz_k = -S*, S* = p_k (H + log p_k)"),
            *_shown(-score),
            zero(sp.diff(H, z[0]) + S[0]) and _any_vocabulary(),
            numbers["one logit"],
        ),
        Derived(
            *("theorem 3.3", "dz = eta r A (e_k - p):  dH = -eta r A (S* - E[S])"),
            *_shown(-eta * r * A * (score - sp.Symbol("E[S]"))),
            zero(along(towards_token) + eta * r * A * (S[0] - mean_S)),
            numbers["one step"],
        ),
        Derived(
            *("corollary 3.4", "E_{k~p}[S* - E[S]] = 0, and sum_k S_k = 0"),
            *_shown(sp.Integer(0)),
            zero(sum(pi * (si - mean_S) for pi, si in zip(p, S, strict=True))) and zero(sum(S)),
            numbers["mean"],
        ),
        Derived(
            *("mean score", "E[S] = H sum p^2 + sum p^2 log p = Cov_{i~p}(p_i, log p_i)"),
            *_shown(h * sp.Symbol("sum(p^2)") + sp.Symbol("sum(p^2 log p)")),
            zero(mean_S - cov_p),
            numbers["covariance"],
        ),
        Derived(
            *("entropy mechanism", "dz_i = eta g_i:  dH = -eta Cov_{i~p}(log p_i, g_i)   (2505.22617, lemma 1)"),
            *_shown(-eta * sp.Symbol("Cov(log p, g)")),
            zero(along([eta * gi for gi in gains]) + eta * covariance),
            numbers["any step"],
        ),
        Derived(
            *("sign and least value", "S* = 0 at p = e^-H;  least at p = e^-(H + 1), where S* = -e^-(H + 1) >= -1/e"),
            *_shown(lowest),
            zero(score.subs(q, sp.exp(-h)))
            and zero(lowest - sp.exp(-h - 1))
            and zero(score.subs(q, lowest) + sp.exp(-h - 1))
            and bool(sp.diff(score, q, 2).is_positive),
            numbers["sign"],
        ),
    ]


def _any_vocabulary() -> bool:
    """Theorem 3.2 with the rest of a vocabulary of any size in two symbols."""
    import sympy as sp

    z, rest, rest_z = sp.symbols("z W U", real=True)  # W = sum of the others' e^z, U = sum of their z e^z
    total = rest + sp.exp(z)
    H = sp.log(total) - (rest_z + z * sp.exp(z)) / total
    p = sp.exp(z) / total
    return bool(sp.simplify(sp.diff(H, z) + p * (H + z - sp.log(total))) == 0)


def _numbers() -> dict[str, float]:
    """The largest differences between the functions that entropyctl computes with and quotients of differences."""
    rng = np.random.default_rng(0)
    z_V = 2 * rng.normal(size=VOCABULARY)
    every = np.arange(VOCABULARY)
    one = np.eye(VOCABULARY)
    stats = token_statistics(np.tile(z_V, (VOCABULARY, 1)), every)  # each entry, as if it had been sampled
    p_V, H = np.exp(stats.logprobs), float(stats.entropies[0])
    centred_V = centred_score(stats.s_star, stats.expected_s)
    A_V, r_V = rng.normal(size=VOCABULARY), rng.uniform(0.5, 2, VOCABULARY)
    gain_V = rng.normal(size=VOCABULARY)

    def entropy(logits: Floats) -> Floats:
        return token_statistics(np.atleast_2d(logits), np.zeros(len(np.atleast_2d(logits)), int)).entropies

    def rate(of: Callable[[Floats], Floats], direction: Floats) -> Floats:
        """The derivative of a function of the logits, for each row of directions."""
        return (of(z_V + STEP * direction) - of(z_V - STEP * direction)) / (2 * STEP)

    def probabilities(logits: Floats) -> Floats:
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    steps = (r_V * A_V)[:, None] * (one - p_V)
    predicted_V = predicted_change(A_V, stats.s_star, stats.expected_s, ratios_N=r_V)
    cov = float(p_V @ ((p_V - p_V @ p_V) * (stats.logprobs + H)))
    gain_cov = float(p_V @ ((gain_V - p_V @ gain_V) * (stats.logprobs + H)))
    grid = np.linspace(1e-3, 1, 999)
    floor = -np.exp(-(H + 1))
    lowest = s_star(np.array([-(H + 1)]), np.array([H]))[0]
    at_zero = s_star(np.array([-H]), np.array([H]))[0]
    undershoot = max(0.0, float(floor - s_star(np.log(grid), np.full(999, H)).min()))
    return {
        "lemma": float(np.abs(rate(probabilities, one) - (np.diag(p_V) - np.outer(p_V, p_V))).max()),
        "one logit": float(np.abs(rate(entropy, one) + stats.s_star).max()),
        "one step": float(np.abs(rate(entropy, steps) - predicted_V).max()),
        "mean": max(abs(float(p_V @ centred_V)), abs(float(stats.s_star.sum()))),
        "covariance": abs(float(stats.expected_s[0]) - cov),
        "any step": abs(float(rate(entropy, gain_V)[0]) + gain_cov),
        "sign": max(abs(float(lowest - floor)), abs(float(at_zero)), undershoot),
    }


def _shown(expression: Any) -> tuple[str, str]:
    """An expression as text and as LaTeX."""
    import sympy as sp

    names = {symbol: LATEX[symbol.name] for symbol in expression.free_symbols if symbol.name in LATEX}
    return sp.sstr(expression), sp.latex(expression, symbol_names=names)
