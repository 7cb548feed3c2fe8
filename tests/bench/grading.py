r"""`--reward math` against a plain serial loop over math-verify, on distinct answers, in one run.

python tests/bench/grading.py [--answers 1200] [--integers 100000]

The mixed set is made of kinds in the shares below (final answers of competition problems are mostly integers); every
answer is there once, so that nothing can be remembered. The loop is `verify(parse(gold), parse(response))`, with
math-verify's own limit of 5 s by SIGALRM. Both start after their imports; ours has a worker on each core.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import time
from collections.abc import Callable

from entropyctl.rewards import GradeInput, Grader

DEADLINE = 2.0
POISON = r"\boxed{(x+1)^{5000}}"
WORDS = "We put the values in, expand, collect terms and divide by the common factor. "


def kinds(i: int, rng: random.Random) -> dict[str, tuple[str, str]]:
    """One answer of each kind with its reference, by number."""
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), i + 100
    return {
        "integer": (str(c), rf"\boxed{{{c}}}"),
        "integer, wrong": (str(c), rf"\boxed{{{c + a}}}"),
        "integer after a long text": (str(c), WORDS * 20 + rf"so \boxed{{{c}}}"),
        "fraction as fraction": (rf"\frac{{{a}}}{{{c}}}", rf"\boxed{{{a}/{c}}}"),
        "fraction as decimal": (rf"\frac{{{c}}}{{8}}", rf"\boxed{{{c / 8}}}"),
        "pair, wrong": (f"({-a}, {c})", rf"\boxed{{({-a}, {c + b})}}"),
        "triple": (f"({a}, {b}, {c})", rf"\boxed{{({a},{b}, {c})}}"),
        "surd": (rf"{a}\sqrt{{{c}}}", rf"\boxed{{\sqrt{{{a * a * c}}}}}"),
        "surd, wrong": (rf"{a}\sqrt{{{c}}}", rf"\boxed{{{b + 100}\sqrt{{{c}}}}}"),
        "without a box": (str(c), WORDS * 5 + f"The answer is {c}."),
        "polynomial": (rf"x^2+{a}x+{c}", rf"\boxed{{{c}+x^2+{a}x}}"),
        "polynomial, wrong": (rf"x^2+{a}x+{c}", rf"\boxed{{x^2+{a}x+{c + b}}}"),
    }


SHARES = {
    "integer": 30,
    "integer, wrong": 25,
    "integer after a long text": 10,
    "fraction as fraction": 8,
    "fraction as decimal": 5,
    "pair, wrong": 4,
    "triple": 2,
    "surd": 4,
    "surd, wrong": 3,
    "without a box": 4,
    "polynomial": 3,
    "polynomial, wrong": 2,
}


def mixed(count: int) -> list[tuple[str, str, str]]:
    """Kind, reference and response, shuffled."""
    rng = random.Random(0)
    found = []
    for i in range(count):
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        found.append((kind, *kinds(i, rng)[kind]))
    return found


def serially(answers: list[tuple[str, str, str]]) -> tuple[list[bool], dict[str, float]]:
    """Verdicts of the plain loop, and seconds by kind."""
    from math_verify import parse, verify

    verdicts, seconds = [], dict.fromkeys(SHARES, 0.0)
    for kind, gold, response in answers:
        began = time.perf_counter()
        verdicts.append(bool(verify(parse(rf"\boxed{{{gold}}}"), parse(response))))
        seconds[kind] += time.perf_counter() - began
    return verdicts, seconds


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def inputs(answers: list[tuple[str, str, str]]) -> list[GradeInput]:
    return [GradeInput(response, gold) for _, gold, response in answers]


def main() -> None:
    """Grade, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=1200)
    parser.add_argument("--integers", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    answers = mixed(options.answers)
    serially(mixed(20))  # imports, and tables that are built at first use
    with Grader("math", timeout=DEADLINE) as grader:
        grader.grade(inputs(mixed(200)[100:]))  # starts every worker
        began = time.perf_counter()
        grades = grader.grade(inputs(answers))
        ours = time.perf_counter() - began
        verdicts, by_kind = serially(answers)
        theirs = sum(by_kind.values())
        different = sum(grade.reward != verdict for grade, verdict in zip(grades, verdicts, strict=True))
        print(f"{len(answers)} distinct answers, {os.cpu_count()} cores, wall-clock seconds")
        print(f"  math-verify one by one {theirs:7.2f} s {len(answers) / theirs:8.0f}/s")
        print(f"  --reward math          {ours:7.2f} s {len(answers) / ours:8.0f}/s   {theirs / ours:.1f}x (goal 5x)")
        print(f"  verdicts that differ   {different} (goal 0)")
        for kind in SHARES:
            some = [answer for answer in answers if answer[0] == kind]
            spent = seconds_of(lambda some=some: grader.grade(inputs(some)))  # type: ignore[misc]
            each = by_kind[kind] / len(some)
            print(f"    {kind:<26} {len(some):4d}   {1000 * each:6.1f} ms one by one, {by_kind[kind] / spent:8.1f}x")
        plain = inputs(answers[:300])
        without = seconds_of(lambda: grader.grade(plain))
        middle = [*plain[:150], GradeInput(POISON, "2"), *plain[150:]]
        began = time.perf_counter()
        found = grader.grade(middle)
        cost = time.perf_counter() - began - without
        print(f"one poisoned answer among 300: {found[150].outcome}, {cost / DEADLINE:.2f} deadlines (goal 1.25)")
        assert [g for i, g in enumerate(found) if i != 150] == grader.grade(plain)
        integers = [GradeInput(rf"so \boxed{{{i}}}", str(i + i % 2)) for i in range(options.integers)]
        print(f"{len(integers)} integers: {seconds_of(lambda: grader.grade(integers)):.2f} s (goal 10 s)")
        same = [GradeInput(WORDS + f"{i}: \\boxed{{\\sqrt{{8}}}}", r"2\sqrt{2}") for i in range(2000)]
        print(f"2000 texts with one answer and one reference: {seconds_of(lambda: grader.grade(same)):.2f} s")


if __name__ == "__main__":
    main()
