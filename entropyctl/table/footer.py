"""A digest that proves a Parquet footer before anything parses it.

Parquet checks its pages but not its footer: a flipped bit there can hide our metadata, so that a file passes for
another program's, or end the process inside the library. So 24 bytes stand right before the footer, where no
offset points and no reader looks: eight that name them, and the xxh3-128 of the footer and its length.

    ... last page | guard (24) | footer | length (4) | PAR1
"""

from __future__ import annotations

from typing import Any

import xxhash

MAGIC = b"ENTCTLf1"
SIZE = len(MAGIC) + 16
TAIL = 8  # the footer's length and PAR1


class GuardedFile:
    """A file for a Parquet writer that puts the guard before the footer.

    `hold` is called before the writer's last call, which writes the footer, and `release` after it.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._held: list[bytes] | None = None
        self.closed = False

    def write(self, data: Any) -> int:
        """Pass the bytes on, or hold them back."""
        if self._held is None:
            self._raw.write(data)
        else:
            self._held.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """The file is flushed when it is settled."""

    def hold(self) -> None:
        """Hold back what is written from now on."""
        self._held = []

    def release(self) -> None:
        """Write what was held back, with the guard in it."""
        held = b"".join(self._held or [])
        self._held = None
        footer = int.from_bytes(held[-TAIL:-4], "little") + TAIL
        self._raw.write(held[:-footer] + MAGIC + _digest(held[-footer:]) + held[-footer:])


def _digest(footer: bytes) -> bytes:
    return xxhash.xxh3_128_digest(footer)


def footer_is_whole(raw: Any) -> bool:
    """Whether the footer is the one that was written; True where there is no guard to tell.

    Without the guard the file is another program's, or a copy that one made; the seal and the digests of the
    columns still stand.
    """
    size = raw.size()
    if size < TAIL + SIZE:
        return True
    raw.seek(size - TAIL)
    tail = raw.read(TAIL)
    start = size - TAIL - int.from_bytes(tail[:4], "little") - SIZE
    if start < 0:
        return True
    raw.seek(start)
    guard = raw.read(SIZE)
    return not guard.startswith(MAGIC) or guard[len(MAGIC) :] == _digest(raw.read(size - start - SIZE))
