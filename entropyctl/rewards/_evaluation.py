"""A block in which Python evaluates no text but plain arithmetic, whatever the libraries in it do.

Some of the libraries that compare answers hand what a model wrote to `eval` or to sympy's `parse_expr`, which is
`eval` again. Python tells an audit hook of every text that is about to be compiled, so one hook in the worker
process sees them all, also those of libraries that are yet to be written.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A text without a file behind it, as `eval`, `exec`, `compile` and `ast.parse` name it.
_NO_FILE = ("<string>", "<unknown>")
# Parts of Python that write code for themselves when a module is imported.
_OWN_CODE = ("collections", "dataclasses")
_LONGEST = 10_000
_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Call, ast.Load),
    *(ast.operator, ast.unaryop, ast.Tuple, ast.List, ast.Set, ast.Dict),
)
# What sympy turns numbers and names into, and the functions that an answer may use.
_CALLED = re.compile(
    "Integer|Float|Rational|Symbol|Function|[aA]bs|sqrt|cbrt|exp|log|ln|factorial2?|binomial|gamma|erf|"
    "a?(sin|cos|tan)h?|cot|sec|csc|coth"
)
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect")

_armed = False
_installed = False


class Refused(Exception):
    """A library was about to evaluate what a model wrote, and it is not plain arithmetic."""


@contextmanager
def nothing_evaluated() -> Iterator[None]:
    """Until the block ends, refuse to compile text that is more than numbers, names and known functions.

    Raises:
        Refused: in the block, where a library tries to; some catch it themselves.
    """
    global _armed, _installed
    if not _installed:
        sys.addaudithook(_audit)  # there is no way to take a hook off again
        _installed = True
    _armed = True
    try:
        yield
    finally:
        _armed = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    global _armed
    if not _armed:
        return
    if event in _FORBIDDEN:
        raise Refused(f"{event} while an answer is judged")
    if event != "compile" or arguments[1] not in _NO_FILE or arguments[0] is None:
        return
    if sys._getframe(1).f_globals.get("__name__") in _OWN_CODE:
        return
    _armed = False  # parsing is compiling too
    try:
        if not is_arithmetic(arguments[0]):
            raise Refused("the answer is code, not an expression")
    finally:
        _armed = True


def is_arithmetic(source: str | bytes) -> bool:
    """Whether a text, evaluated as Python, can do no more than compute: no attribute, index or unknown function."""
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else str(source)
    if text == "from sympy import *":  # how sympy fills the namespace in which it evaluates
        return True
    if len(text) > _LONGEST:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) and _may_call(node) for node in ast.walk(tree))


def _may_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return True
    called = node.func
    if isinstance(called, ast.Call):  # Function('f')(x)
        return isinstance(called.func, ast.Name) and called.func.id == "Function"
    return isinstance(called, ast.Name) and _CALLED.fullmatch(called.id) is not None and not node.keywords
