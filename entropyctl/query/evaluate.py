"""A tree of the language on the rows of a step, and what is wrong with it before any row is read.

Numbers are compared and computed as float64; only a number that was typed is compared with a float32 column as
float32, so that `weights == 0.1` is true of a stored 0.1. What is null stays null: a comparison with null is neither
true nor false, `null and false` is false, `null or true` is true, and so is `x == null` where x is null. A division
by zero, and what is not a number, is null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np

from entropyctl.errors import UsageError
from entropyctl.query.language import COMPARISONS, Apply, Chain, Literal, Name, Tree
from entropyctl.query.value import Array, Kind, Level, Type, Value, numbers, spread, texts, truths

Lookup = Callable[[Name], Value]
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_COMPUTE = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
WORDS: dict[Type, str] = {"number": "a number", "truth": "true or false", "text": "a text", "null": "null"}


def names_in(tree: Tree) -> Iterator[Name]:
    """Every name of a tree."""
    if isinstance(tree, Name):
        yield tree
    elif isinstance(tree, Apply):
        yield from names_in(tree.operand)
    elif isinstance(tree, Chain):
        for operand in tree.operands:
            yield from names_in(operand)


def kind_of(tree: Tree, lookup: Callable[[Name], Kind], flag: str) -> Kind:
    """What a tree stands for.

    Args:
        tree: the tree.
        lookup: what a name stands for.
        flag: the option that held it, for messages.

    Raises:
        UsageError: an operator stands between things that it does not take; names them as they were typed.
    """
    if isinstance(tree, Literal):
        return _literal(tree).kind
    if isinstance(tree, Name):
        return lookup(tree)
    operands = [tree.operand] if isinstance(tree, Apply) else list(tree.operands)
    kinds = [kind_of(operand, lookup, flag) for operand in operands]
    level = Level(max(kind.level for kind in kinds))
    if isinstance(tree, Chain) and tree.operators[0] in COMPARISONS:
        for operator, at in zip(tree.operators, range(len(operands)), strict=False):
            _check_comparison(flag, operator, operands[at : at + 2], kinds[at : at + 2])
        return Kind("truth", level)
    operator = tree.function if isinstance(tree, Apply) else tree.operators[0]
    wanted: Type = "truth" if operator in ("not", "and", "or") else "number"
    for operand, kind in zip(operands, kinds, strict=True):
        if kind.type != wanted:
            what = _what(operand, kind)
            raise UsageError(f"{flag}: {what}, where '{operator}' takes {WORDS[wanted]}; compare it, or take another")
    return Kind(wanted, level)


def _check_comparison(flag: str, operator: str, operands: list[Tree], kinds: list[Kind]) -> None:
    types = {kind.type for kind in kinds}
    equality = operator in ("==", "!=")
    if len(types - {"null"}) <= 1 and (equality or types == {"number"}):
        return
    both = " and ".join(map(_what, operands, kinds))
    takes = "two of one kind" if equality else "numbers"
    raise UsageError(f"{flag}: {both}, where '{operator}' takes {takes}; compare others")


def _what(operand: Tree, kind: Kind) -> str:
    typed = operand.text if len(operand.text) <= 60 else f"{operand.text[:57]}..."
    return f"{typed} is {WORDS[kind.type]}"


def evaluate(tree: Tree, lookup: Lookup, lengths_B: Array) -> Value:
    """What a tree is for the rows of a step.

    Args:
        tree: one that `kind_of` has passed.
        lookup: the values of a name.
        lengths_B: tokens of each row.
    """
    if isinstance(tree, Literal):
        return _literal(tree)
    if isinstance(tree, Name):
        return lookup(tree)
    operands = [tree.operand] if isinstance(tree, Apply) else list(tree.operands)
    values = _levelled([evaluate(operand, lookup, lengths_B) for operand in operands], lengths_B)
    if isinstance(tree, Apply):
        return _applied(tree.function, values[0])
    if tree.operators[0] in COMPARISONS:
        pairs = zip(tree.operators, values, values[1:], strict=False)
        return reduce(lambda a, b: _both("and", a, b), (_compared(operator, a, b) for operator, a, b in pairs))
    found = values[0]
    for operator, value in zip(tree.operators, values[1:], strict=True):
        found = _JOIN.get(operator, _computed)(operator, found, value)
    return found


def _literal(tree: Literal) -> Value:
    if tree.value is None:
        return Value(np.False_, np.True_, Kind("null", Level.ALL))
    make: Callable[[Any], Value] = truths if isinstance(tree.value, bool) else numbers
    return texts(tree.value) if isinstance(tree.value, str) else make(tree.value)


def _levelled(values: list[Value], lengths_B: Array) -> list[Value]:
    """The values, each row's for each of its tokens where one of them is of tokens."""
    if all(value.level is not Level.TOKEN for value in values):
        return values
    return [spread(value, lengths_B) for value in values]


def _applied(function: str, value: Value) -> Value:
    if function == "not":
        return truths(~value.data, value.null, value.level)
    return numbers((np.abs if function == "abs" else np.negative)(_wide(value)), value.null, value.level)


def _wide(value: Value) -> Array:
    return np.asarray(value.data, np.float64)


def _computed(operator: str, a: Value, b: Value) -> Value:
    null = a.null | b.null
    if operator == "/":
        null = null | (_wide(b) == 0)
    with np.errstate(all="ignore"):
        found = _COMPUTE[operator](_wide(a), _wide(b))
    return numbers(found, null, max(a.level, b.level))


def _compared(operator: str, a: Value, b: Value) -> Value:
    level = max(a.level, b.level)
    if "null" in (a.kind.type, b.kind.type):
        other = b if a.kind.type == "null" else a
        return truths(np.broadcast_to(other.null, np.shape(other.data)) == (operator == "=="), level=level)
    found = _COMPARE[operator](_as_typed(a, b), _as_typed(b, a))
    return truths(found, a.null | b.null, level)


def _as_typed(value: Value, other: Value) -> Array:
    """A number that was typed, as the float32 that it is compared with."""
    if value.level is Level.ALL and value.kind.type == "number" and other.data.dtype == np.float32:
        with np.errstate(over="ignore"):
            return np.asarray(value.data, np.float32)
    return np.asarray(value.data)


def _both(_: str, a: Value, b: Value) -> Value:
    """False where one of them is, whatever the other; null where that is open."""
    false = (~a.data & ~a.null) | (~b.data & ~b.null)
    return truths(a.data & b.data, (a.null | b.null) & ~false, max(a.level, b.level))


def _either(_: str, a: Value, b: Value) -> Value:
    """True where one of them is, whatever the other; null where that is open."""
    true = (a.data & ~a.null) | (b.data & ~b.null)
    return truths(true, (a.null | b.null) & ~true, max(a.level, b.level))


_JOIN = {"and": _both, "or": _either}
