"""Fitted laws for people: the numbers, and in words what they do not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from entropyctl.show.console import print_table
from entropyctl.show.text import number, visible

if TYPE_CHECKING:
    from rich.console import Console

    from entropyctl.laws.derivation import Derived
    from entropyctl.laws.entropy_law import LawFit
    from entropyctl.laws.report import RunLaw, SeveralLaws
    from entropyctl.laws.shared_curve import FTest
    from entropyctl.laws.step_size import StepSize

# Where a test speaks up. Its p is printed, so that a reader may hold it to another level.
LEVEL = 0.05


def print_law(to: Console, run: RunLaw) -> None:
    """Print the law of one run."""
    law = run.law
    low, high = (number(end(run.points.entropy[: law.points])) for end in (min, max))
    quality = f"{law.points} points of H {low} to {high}, rmse {number(law.rmse)}, r2 {number(law.r2)}"
    to.print(f"{formula(law)}   ({quality})")
    print_table(to, ["", "estimate", f"{100 * law.confidence:g} % interval"], _coefficients(law), left=[""])
    for line in [*_prediction(run), *doubts(run)]:
        to.print(line)


def print_laws(to: Console, found: SeveralLaws) -> None:
    """Print the laws of several runs, whether they are one, and how they grow with size."""
    rows = []
    for name, run in found.runs.items():
        law = run.law
        cells = [visible(name), str(law.points), number(law.a), number(law.b), number(law.ceiling)]
        rows.append([*cells, _ends(law.ceiling_interval), number(law.rmse)])
    level = f"{100 * next(iter(found.runs.values())).law.confidence:g} % interval"
    print_table(to, ["run", "points", "a", "b", "ceiling", level, "rmse"], rows, left=["run"])
    pooled = found.shared.pooled
    to.print(f"one curve for all: {formula(pooled) if pooled else 'none, together they do not fall with e^H'}")
    to.print(f"  the same a and b?  {_verdict(found.shared.one_curve, 'one curve')}")
    to.print(f"  the same a?        {_verdict(found.shared.one_slope, 'one a')}")
    for name, run in found.runs.items():
        for line in doubts(run):
            to.print(f"{visible(name)}: {line}")
    _print_scaling(to, found, level)


def print_step_size(to: Console, found: StepSize) -> None:
    """Print the effective step size of a run's updates."""
    of = f"{found.steps} steps"
    to.print(f"realised dH = {found.slope:.4g} x predicted dH   ({of}, {100 * found.explained:.3g} % explained)")
    rows = [
        ["slope", number(found.slope), _ends(found.slope_interval)],
        ["eta = slope x learning rate", number(found.eta), ""],
        ["learning rate", number(found.learning_rate), ""],
    ]
    if found.offset is not None and found.offset_interval is not None:
        rows.append(["offset, nats a step", number(found.offset), _ends(found.offset_interval)])
    print_table(to, ["", "estimate", f"{100 * found.confidence:g} % interval"], rows, left=[""])
    for line in remarks(found):
        to.print(line)


def remarks(found: StepSize) -> list[str]:
    """How often the signs agreed, and what speaks against the slope."""
    lines = [
        f"predicted and realised change had the same sign in {found.same_sign} of {found.steps} steps (by chance as "
        f"often or more: p {number(found.same_sign_p, 2)})"
    ]
    if found.slope_interval[0] <= 0:
        lines.append(
            "The interval of the slope reaches 0: these steps do not show that the changes follow the forecast."
        )
    if found.offset_interval is not None and not found.offset_interval[0] <= 0 <= found.offset_interval[1]:
        lines.append("The offset is not 0: the entropy also moves by something that the forecast does not know.")
    return lines


def print_derivations(to: Console, found: Sequence[Derived]) -> None:
    """Print what was derived, whether it was proved, and how far numbers are from it."""
    for one in found:
        proof = "proved by sympy" if one.proved else "NOT PROVED"
        to.print(f"{one.name}: {one.statement}")
        to.print(f"    {one.derived}   [{proof}; numbers differ by {one.difference:.1g}]")


def formula(law: LawFit) -> str:
    """`R = -0.3 e^H + 0.9`."""
    return f"R = {-law.a:.4g} e^H {'-' if law.b < 0 else '+'} {abs(law.b):.4g}"


def _ends(interval: tuple[float, float]) -> str:
    return f"{number(interval[0])} to {number(interval[1])}"


def _coefficients(law: LawFit) -> list[list[str]]:
    names = (("a", "a"), ("b", "b"), ("ceiling b - a", "ceiling"))
    return [[label, number(getattr(law, name)), _ends(getattr(law, f"{name}_interval"))] for label, name in names]


def _prediction(run: RunLaw) -> list[str]:
    ahead = run.prediction
    if ahead is None:
        return []
    what = f"{run.points.order_is}s after {number(ahead.until)}"
    level = f"{100 * run.law.confidence:g} %"
    return [
        f"fitted up to {run.points.order_is} {number(ahead.until)}; over the {ahead.points} {what}: "
        f"rmse {number(ahead.rmse)}, predicted less measured {ahead.bias:+.4g} on average",
        f"the last: predicted {number(ahead.last_predicted)} ({number(ahead.last_low)} to {number(ahead.last_high)}), "
        f"measured {number(ahead.last)}; {ahead.inside} of {ahead.points} lie within their {level} interval",
    ]


def doubts(run: RunLaw) -> list[str]:
    """What speaks against reading more into the numbers than they hold."""
    law, seen, found = run.law, run.diagnostics, []

    def place(point: int) -> str:
        return f"{run.points.order_is} {number(run.points.order[point], 6)}"

    if law.a_interval[0] <= 0:
        found.append("The interval of a reaches 0: these points do not show that performance falls with e^H.")
    if min(run.points.performance) >= 0 and max(run.points.performance) <= 1 < law.ceiling:
        found.append(
            "The ceiling is above 1, where no share of right answers lies: the law does not hold down to H = 0."
        )
    if seen.dependence_p is not None and seen.dependence_p < LEVEL:
        found.append(
            f"Residuals are like the ones before them (Durbin-Watson {number(seen.durbin_watson, 3)}, "
            f"p {number(seen.dependence_p, 2)}): the intervals are narrower than they should be."
        )
    if seen.curvature_p is not None and seen.curvature_p < LEVEL:
        found.append(
            f"Residuals are bent (a term in e^2H has p {number(seen.curvature_p, 2)}): "
            "the law does not hold over this whole range, and least of all beyond it."
        )
    if seen.outlier is not None and seen.outlier_p is not None and seen.outlier_p < LEVEL:
        found.append(f"The point at {place(seen.outlier)} lies off the others (p {number(seen.outlier_p, 2)}).")
    low, high = law.ceiling_interval
    without = seen.ceiling_without
    if without is not None and seen.ceiling_mover is not None and not low <= without[0] <= without[1] <= high:
        found.append(
            f"Without the point at {place(seen.ceiling_mover)} the ceiling would lie outside its interval "
            f"({_ends(without)} without any one point)."
        )
    return found


def _verdict(test: FTest, what: str) -> str:
    if test.p is None:
        return "every run lies on its law without a residual: there is nothing to test by"
    text = f"F {number(test.F)} on {test.freedom[0]} and {test.freedom[1]} degrees of freedom, p {number(test.p, 2)}: "
    if test.p < LEVEL:
        return f"{text}no, {what} does not hold for all of these runs"
    return f"{text}nothing here speaks against {what} (which is no proof of it)"


def _print_scaling(to: Console, found: SeveralLaws, level: str) -> None:
    if found.scaling is None:
        return
    fitted = found.scaling.as_dict()
    rows = [
        [name, number(of["intercept"]), number(of["slope"]), _ends((of["slope_low"], of["slope_high"]))]
        for name, of in fitted.items()
    ]
    to.print()
    print_table(to, ["in ln N", "at 1 billion", "per ln N", level], rows, left=["in ln N"])
    largest, smallest = max(found.sizes.values()), min(found.sizes.values())
    for size in found.predicted_sizes:
        predicted = found.scaling.predict(size)
        parts = [f"{name} {number(value)} ({_ends(ends)})" for name, (value, ends) in predicted.items()]
        far = "" if smallest <= size <= largest else f"; {number(smallest)} to {number(largest)} were measured"
        to.print(f"a model of {size:g} billion: {', '.join(parts)}{far}")
        if predicted["a"][0] <= 0:
            to.print("  its a is not above 0, so the law does not reach to this size")
