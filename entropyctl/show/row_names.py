"""How a row is named: on the command line of `inspect --row`, and in what is printed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from entropyctl.errors import UsageError
from entropyctl.show.text import visible


class Wanted(NamedTuple):
    """Which row: the N-th of the input, or the one of a key."""

    number: int | None = None
    key: tuple[int, str, int] | None = None

    def means(self, key: tuple[int, str, int]) -> bool:
        """Whether this is the row's key, as it is or as it is shown, with escapes for characters that are not."""
        if self.key is None or (self.key[0], self.key[2]) != (key[0], key[2]):
            return False
        return self.key[1] in (key[1], visible(key[1]))


def parse_row(text: str) -> Wanted:
    """`17` or `STEP:PROMPT_ID:SAMPLE`; the prompt's id may hold colons itself.

    Raises:
        UsageError: it is neither.
    """
    step, _, rest = text.partition(":")
    prompt_id, _, sample = rest.rpartition(":")
    if text.isdecimal():
        return Wanted(number=int(text))
    if step.removeprefix("-").isdecimal() and sample.isdecimal():
        return Wanted(key=(int(step), prompt_id, int(sample)))
    raise UsageError(f"--row {text}: must be STEP:PROMPT_ID:SAMPLE, for example 1:p0:0, or the number of a row from 0")


def shown_name(row: Mapping[str, Any]) -> str:
    """A row's name, harmless, and quoted where a shell wants that: `1:p0:3`; its number where it has no key."""
    if row["step"] is None or row["prompt_id"] is None or row["sample"] is None:
        return str(row["number"])
    return shlex.quote(f"{row['step']}:{visible(row['prompt_id'])}:{row['sample']}")
