"""What a method remembers from one step to the next, so that running a step again does not count it twice."""

from __future__ import annotations

import json
import math
from typing import Any

from entropyctl.errors import InputError, MismatchError
from entropyctl.table import notice
from entropyctl.table.atomic import write_text


class Memory:
    """A method's state after each step; kept in a JSON file where one is named, else for this run alone.

    A step starts from the state after the greatest step below it, so running it again gives the same numbers and
    leaves the same state. States of later steps stay as they are, and a notice says so where they started from another.
    """

    def __init__(self, path: str | None, stage: str, params: dict[str, Any]) -> None:
        """Read the file, if it is there.

        Args:
            path: the file, or None.
            stage: the stage and its method, `mask entropic`.
            params: the method's parameters; a state made with others is refused.

        Raises:
            InputError: the file is no memory of a method.
            MismatchError: it is of another method, or of other parameters.
        """
        self.path, self._head = path, {"stage": stage, "params": params}
        self._noticed = False
        self._after: dict[int, dict[str, float]] = {}
        if path is None:
            return
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: is no state of a method ({type(error).__name__}); name another file") from None
        self._read(path, data)

    def _read(self, path: str, data: Any) -> None:
        if not isinstance(data, dict) or not isinstance(data.get("steps"), dict):
            raise InputError(f"{path}: is no state of a method; name another file")
        for name, wanted in self._head.items():
            if data.get(name) != json.loads(json.dumps(wanted)):
                raise MismatchError(
                    f"{path}: was kept for {name} {json.dumps(data.get(name))}, not {json.dumps(wanted)}; "
                    "name another file, or use the parameters that it was kept for"
                )
        try:
            self._after = {int(step): {k: float(v) for k, v in state.items()} for step, state in data["steps"].items()}
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"{path}: holds a state that is no number; name another file") from None
        if not all(math.isfinite(v) for state in self._after.values() for v in state.values()):
            raise InputError(f"{path}: holds a state that is no number; name another file")

    def before(self, step: int) -> dict[str, float]:
        """The state that a step starts from; empty for the first."""
        earlier = [number for number in self._after if number < step]
        return dict(self._after[max(earlier)]) if earlier else {}

    def remember(self, step: int, state: dict[str, float] | None) -> None:
        """Keep the state after a step.

        Raises:
            OutputError: the file cannot be written.
        """
        if state is None:
            return
        after = {name: float(value) for name, value in state.items()}
        later = [number for number in self._after if number > step]
        if later and self._after.get(step) != after and not self._noticed:
            self._noticed = True
            notice(
                f"{self.path or self._head['stage']}: step {step} came after step {max(later)}, which started without "
                "what it left; run the later steps again"
            )
        self._after[step] = after
        if self.path is None:
            return
        steps = {str(number): self._after[number] for number in sorted(self._after)}
        text = json.dumps({**self._head, "steps": steps}, indent=1) + "\n"
        write_text(self.path, text)
