"""Stop strings: where a response ends by what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Finds stop strings in a growing response by decoding its tail."""

    def __init__(self, strings: tuple[str, ...], tokenizer: Any) -> None:
        self._strings = strings
        self._tokenizer = tokenizer
        # A token is at least one byte, so a stop string of n bytes lies within the last n tokens.
        self._tail = max((len(s.encode()) for s in strings), default=0) + 1

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completed a stop string."""
        if not self._strings:
            return False
        tail = self._tokenizer.decode(tokens[-self._tail :], skip_special_tokens=True)
        return any(s in tail for s in self._strings)

    def text(self, tokens: Sequence[int]) -> str:
        """The response as text, up to its first stop string."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        found = [at for s in self._strings if (at := text.find(s)) >= 0]
        return text[: min(found)] if found else text
