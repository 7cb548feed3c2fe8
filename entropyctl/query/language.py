"""The language of conditions and quantities: text to a tree, by a parser of its own.

    condition  = all {"or" all}                      all     = negation {"and" negation}
    negation   = {"not"} comparison                  comparison = sum {("<" | "<=" | ">" | ">=" | "==" | "!=") sum}
    sum        = product {("+" | "-") product}       product = sign {("*" | "/") sign}
    sign       = {"+" | "-"} atom
    atom       = number | "'" text "'" | "true" | "false" | "null" | name | "`" name "`" | "abs" "(" condition ")"
               | "(" condition ")"

Operators bind as in Python, and comparisons chain as there: `0 < reward < 1`. A text may stand in either kind of
quotes. A name in backquotes is a column whatever characters it has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from entropyctl.errors import UsageError

LONGEST = 10_000  # characters
DEEPEST = 50  # parentheses within one another
EXAMPLE = "'reward > 0 and entropies > 2'"

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
WORDS = ("and", "or", "not", "abs", "true", "false", "null")
CONSTANTS = {"true": True, "false": False, "null": None}
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<quoted>`[^`]+`)"
    r"|(?P<name>[^\W\d]\w*)|(?P<sign><=|>=|==|!=|[<>+\-*/(),])"
)


@dataclass(frozen=True)
class Literal:
    """A number, a text, a truth, or null."""

    value: float | str | bool | None
    text: str


@dataclass(frozen=True)
class Name:
    """A column, or what is made from columns; between backquotes (`quoted`) always a column."""

    name: str
    quoted: bool
    text: str


@dataclass(frozen=True)
class Apply:
    """`not`, `-` or `abs` of something."""

    function: str
    operand: Tree
    text: str


@dataclass(frozen=True)
class Chain:
    """Operands with operators of one level between them, from left to right."""

    operators: tuple[str, ...]
    operands: tuple[Tree, ...]
    text: str


Tree = Literal | Name | Apply | Chain


def parse(flag: str, text: str) -> Tree:
    """The tree of a text.

    Args:
        flag: the option that held it, for messages.
        text: what was typed.

    Raises:
        UsageError: it does not follow the grammar; says what stands where.
    """
    parser = _Parser(flag, text)
    tree = parser.condition()
    parser.end()
    return tree


def parse_list(flag: str, text: str) -> list[Tree]:
    """The trees of a text in which commas separate quantities.

    Raises:
        UsageError: one of them does not follow the grammar.
    """
    parser = _Parser(flag, text)
    trees = [parser.condition()]
    while parser.take(","):
        trees.append(parser.condition())
    parser.end()
    return trees


@dataclass(frozen=True)
class _Word:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    def __init__(self, flag: str, text: str) -> None:
        self._flag, self._text, self._depth, self._next = flag, text, 0, 0
        if len(text) > LONGEST:
            raise UsageError(f"{flag}: is longer than {LONGEST} characters; shorten it")
        self._words = self._split()

    def _split(self) -> list[_Word]:
        words, at = list[_Word](), self._past_space(0)
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise self._misplaced(_Word("", self._text[at], at, at + 1))
            words.append(_Word(found.lastgroup or "", found[0], at, found.end()))
            at = self._past_space(found.end())
        return words

    def _past_space(self, at: int) -> int:
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        return at

    def _misplaced(self, word: _Word) -> UsageError:
        found = f"'{word.text}'" if word.text else "the end"
        hint = "; equality is ==" if word.text == "=" else ""
        return UsageError(
            f"{self._flag}: {found} at character {word.start + 1} does not fit there{hint}; write for example {EXAMPLE}"
        )

    def _word(self) -> _Word:
        end = len(self._text)
        return self._words[self._next] if self._next < len(self._words) else _Word("end", "", end, end)

    def take(self, *choices: str) -> str | None:
        """The next word, if it is one of these signs or words of the language."""
        word = self._word()
        if word.kind in ("sign", "name") and word.text in choices:
            self._next += 1
            return word.text
        return None

    def end(self) -> None:
        """Stop unless all has been read."""
        word = self._word()
        if word.kind != "end":
            raise self._misplaced(word)

    def condition(self) -> Tree:
        return self._chain(("or",), self._all)

    def _all(self) -> Tree:
        return self._chain(("and",), self._negation)

    def _negation(self) -> Tree:
        return self._signed("not", ("not",), self._comparison)

    def _comparison(self) -> Tree:
        return self._chain(COMPARISONS, self._sum)

    def _sum(self) -> Tree:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Tree:
        return self._chain(("*", "/"), self._sign)

    def _sign(self) -> Tree:
        return self._signed("-", ("-", "+"), self._atom)

    def _chain(self, operators: tuple[str, ...], operand: Callable[[], Tree]) -> Tree:
        start, operands, between = self._word().start, [operand()], list[str]()
        while (operator := self.take(*operators)) is not None:
            between.append(operator)
            operands.append(operand())
        return Chain(tuple(between), tuple(operands), self._since(start)) if between else operands[0]

    def _signed(self, function: str, signs: tuple[str, ...], operand: Callable[[], Tree]) -> Tree:
        """An operand behind any number of signs, of which two undo each other."""
        start, odd = self._word().start, False
        while (sign := self.take(*signs)) is not None:
            odd ^= sign == function
        tree = operand()
        return Apply(function, tree, self._since(start)) if odd else tree

    def _atom(self) -> Tree:
        word = self._word()
        self._next += 1
        if word.kind == "number":
            return self._number(word)
        if word.kind == "text":
            return Literal(word.text[1:-1], word.text)
        if word.kind == "quoted":
            return Name(word.text[1:-1], True, word.text)
        if word.kind == "name" and word.text in CONSTANTS:
            return Literal(CONSTANTS[word.text], word.text)
        if word.kind == "name" and word.text == "abs":
            self._expect("(")
            return Apply("abs", self._inside(), self._since(word.start))
        if word.kind == "name" and word.text not in WORDS:
            return Name(word.text, False, word.text)
        if word.text == "(":
            return self._inside()
        raise self._misplaced(word)

    def _inside(self) -> Tree:
        """What stands in parentheses, the first of which has been taken."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise UsageError(f"{self._flag}: has more than {DEEPEST} parentheses within one another; take some away")
        tree = self.condition()
        self._expect(")")
        self._depth -= 1
        return tree

    def _expect(self, sign: str) -> None:
        if not self.take(sign):
            raise self._misplaced(self._word())

    def _number(self, word: _Word) -> Literal:
        value = float(word.text)
        if not math.isfinite(value):
            raise UsageError(
                f"{self._flag}: the number at character {word.start + 1} is too large; write a smaller one"
            )
        return Literal(value, word.text)

    def _since(self, start: int) -> str:
        return self._text[start : self._words[self._next - 1].end]
