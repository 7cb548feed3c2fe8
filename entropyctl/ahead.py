"""Making the next thing while the last one is in use."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The items, each made in a thread while the one before it is in use.

    What making an item raises, asking for it raises; who stops asking waits for the item in the making.
    """
    from concurrent.futures import ThreadPoolExecutor

    source, end = iter(items), object()

    def following() -> Any:
        return next(source, end)

    with ThreadPoolExecutor(1, "ahead") as thread:
        later = thread.submit(following)
        while (item := later.result()) is not end:
            later = thread.submit(following)
            yield item
