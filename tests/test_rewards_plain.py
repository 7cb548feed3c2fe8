r"""What is decided without math-verify is decided as math-verify does."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropyctl.rewards._plain import Plain, equal, plain


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("42", ["42"]),
        ("+5", ["5"]),
        ("-0.5", ["-1/2"]),
        (".5", ["1/2"]),
        ("6/4", ["3/2"]),
        (r"-\frac{-1}{2}", ["1/2"]),
        (r"\dfrac{3}{4}", ["3/4"]),
        (r"\left( 1,\, 2 \right)", ["1", "2"]),
        ("- 4 / 3", ["-4/3"]),
        ("[0.5, 3)", ["1/2", "3"]),
        ("(1,2,3)", ["1", "2", "3"]),
        ("(100, 2)", ["100", "2"]),
    ],
)
def test_what_is_plain(text: str, values: list[str]) -> None:
    found = plain(text)
    assert found is not None and found.values == tuple(Fraction(value) for value in values)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-",
            "x",
            "5.",
            "1e3",
            "2 1/2%",
            "1,000",
            "(1,000)",
            "50%",
            "3/0",
            "1/2/3",
            "[1,2,3]",
            "((1,2),3)",
            "1,2",
        ),
        *(r"\frac12", r"\{1,2\}", "1234567890.1234567", "12345678901234567", "(1,x)", r"\sqrt{2}", "１２"),
        *("2 1/2", "10 000", r"10\,000", r"(1,\,000)", r"\frac\,{1}{2}", r"\fr ac{1}{2}", r"\left3", r"\right(1,2)"),
        *("(1,\xa02)", "(1,\x0b2)", "\u22121"),
    ],
)
def test_what_is_left_to_math_verify(text: str) -> None:
    assert plain(text) is None


@pytest.mark.timeout(60)
def test_a_long_text_is_read_once() -> None:
    assert plain("(" + "," * 1_000_000) is None


@pytest.mark.parametrize(
    ("gold", "found", "verdict"),
    [
        ("1/3", "0.333333", None),  # six decimals decide
        ("0.5", "1/2", True),
        ("0.5", "0.51", False),
        ("(1,2)", "(1,3)", False),
        ("(1,2)", "[1,2]", False),
        ("(3,1)", "[3,1]", True),  # no interval: a point
        ("(1,2,3)", "(1,2)", False),
        ("(1,2)", "3", None),
        ("(0,0)", "(0,0]", None),
        ("(0,0)", "[0,0]", None),  # a point or the set of one number
    ],
)
def test_verdicts(gold: str, found: str, verdict: bool | None) -> None:
    one, other = plain(gold), plain(found)
    assert isinstance(one, Plain) and isinstance(other, Plain)
    assert equal(one, other) is verdict


NUMBERS = st.one_of(
    st.integers(-12, 12).map(str),
    st.sampled_from(["100", "-250", "999", "1000"]),
    st.tuples(st.integers(-3, 3), st.integers(0, 99)).map(lambda x: f"{x[0]}.{x[1]}"),
    st.tuples(st.integers(-6, 6), st.integers(1, 6)).map(lambda x: f"{x[0]}/{x[1]}"),
    st.tuples(st.integers(-6, 6), st.integers(1, 6)).map(lambda x: rf"\frac{{{x[0]}}}{{{x[1]}}}"),
)
PAIRS = st.tuples(st.sampled_from("(["), NUMBERS, NUMBERS, st.sampled_from(")]")).map(
    lambda x: f"{x[0]}{x[1]}, {x[2]}{x[3]}"  # with a space: without one, (23,145) may be a number in brackets
)
TRIPLES = st.lists(NUMBERS, min_size=3, max_size=4).map(lambda x: f"({', '.join(x)})")


@settings(max_examples=120)
@given(st.one_of(*(st.tuples(kind, kind) for kind in (NUMBERS, PAIRS, TRIPLES)), *(NUMBERS, PAIRS)))
def test_math_verify_says_the_same(answers: tuple[str, str] | str) -> None:
    # One answer stands for two of the same value, which two draws seldom have.
    gold, found = answers if isinstance(answers, tuple) else (answers, answers.replace("(", "( "))
    assert contradicted([(gold, found)]) == []


MESSES = [" ", r"\,", r"\;", r"\ ", r"\  ", r"\left", r"\right", "\n", "\t", "\xa0", *r"0,-+./(]{}$%\^=٣"]


@pytest.mark.parametrize(
    "text",
    [
        *("(1,2)", "[1, 2, 3]", "(0,5]", "1/2", "-3.5", r"\frac{1}{2}", "1000", "(1/2,3.5)"),
        *(r"\left(1,2\right)", r"\left[0,\frac{3}{4}\right)"),
    ],
)
def test_math_verify_says_the_same_of_a_text_with_something_that_nobody_expects(text: str) -> None:
    pairs = []
    for mess in MESSES:
        for place in range(len(text) + 1):
            messy = text[:place] + mess + text[place:]
            tidy = re.sub(r"\s|\\(?:left|right)|\\[ ,;]", "", messy)
            pairs += [(messy, tidy), (tidy, messy), (messy, text), (text, messy)]
    assert contradicted(pairs) == []


def contradicted(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs that are decided here and that math-verify decides otherwise."""
    math_verify = pytest.importorskip("math_verify")

    @cache
    def parsed(text: str) -> list:
        return math_verify.parse(rf"\boxed{{{text}}}", parsing_timeout=None)

    contradictions = []
    for gold, found in pairs:
        one, other = plain(gold), plain(found)
        verdict = equal(one, other) if one and other else None
        if verdict is not None and math_verify.verify(parsed(gold), parsed(found), timeout_seconds=None) is not verdict:
            contradictions.append((gold, found))
    return contradictions
