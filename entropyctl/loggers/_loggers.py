"""Several loggers as one, none of which can lose a step or hold up the work."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any

from entropyctl import registry
from entropyctl.errors import UsageError
from entropyctl.loggers._run import Opened, Run, numbers
from entropyctl.table import notice

KIND = "loggers"


def parse_loggers(words: Sequence[str] | None) -> tuple[str, ...]:
    """The loggers that were asked for, each NAME or NAME:DESTINATION; what cannot be is said before any work is done.

    Raises:
        UsageError: one does not exist, or is named twice.
        ModuleNotFoundError: the package of one is not installed.
    """
    found: dict[str, str] = {}
    for word in words or ():
        name, colon, _ = word.partition(":")
        if not registry.is_known(KIND, name):
            raise UsageError(f"--log {word}: there is no '{name}'; known: {', '.join(registry.names(KIND))}")
        if name in found:
            raise UsageError(f"--log {word}: {name} is named twice; leave one out")
        if registry.source_file(KIND, name) is not None and importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)  # ours are called as their packages are
        if colon and not _takes_destination(name):
            raise UsageError(f"--log {word}: {name} takes no destination; its own variables say where it logs")
        found[name] = word
    return tuple(found.values())


def _takes_destination(name: str) -> bool:
    return "destination" in registry.inputs_of(registry.load_function(KIND, name))


class Loggers:
    """The loggers of a run. One that fails is left out from then on, with a notice."""

    def __init__(self, words: Sequence[str], run: Run, quiet: bool = False) -> None:
        """Say which; they are opened when there is something to log, and closed by `with`.

        Args:
            words: as `parse_loggers` returned them.
            run: whose scalars they get.
            quiet: leave out what the loggers themselves say.
        """
        self.run, self._words, self._quiet = run, tuple(words), quiet
        self._open: dict[str, Opened] = {}

    def log(self, x: int, values: Mapping[str, Any]) -> None:
        """Log what is a finite number, at a place on the run's axis.

        Args:
            x: a step, or a version of the policy.
            values: by name; entries that are no numbers are left out, and so is that of the axis.
        """
        words, self._words = self._words, ()
        for word in words:
            self._begin(word)
        axis = self.run.axis.partition("/")[2]
        scalars = {f"{self.run.stage}/{name}": float(v) for name, v in numbers(values).items() if name != axis}
        for word, opened in list(self._open.items()):
            with self._guarded(word, "goes on without it"):
                opened.log(x, scalars)

    def _begin(self, word: str) -> None:
        name, _, destination = word.partition(":")
        with self._guarded(word, "goes on without it"):
            given = (destination or None,) if _takes_destination(name) else ()
            self._open[word] = registry.load_function(KIND, name)(self.run, *given)

    @contextmanager
    def _guarded(self, word: str, then: str) -> Iterator[None]:
        """Run a logger's code: what it prints is for people, and what it raises ends it alone."""
        with ExitStack() as stack:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if self._quiet else None
            stack.enter_context(redirect_stdout(nowhere or sys.stderr))
            if nowhere is not None:
                stack.enter_context(redirect_stderr(nowhere))
            try:
                yield
                return
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self._open.pop(word, None)
        notice(f"{self.run.stage}: --log {word}: {reason}; {then}")

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for word, opened in list(self._open.items()):
            with self._guarded(word, "what it had not sent may be lost"):
                opened.close()


open_loggers = Loggers
