"""The text of tokens, by the tokenizer of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from entropyctl.errors import InputError
from entropyctl.table import notice

Decode = Callable[[Sequence[int]], str]
# Bytes of UTF-8, and so the most tokens that a character can be spread over: bytes that make none are not waited for.
LONGEST_CHARACTER = 4


class Tokenizer(NamedTuple):
    """What is needed of a tokenizer to show tokens."""

    decode: Decode
    size: int  # tokens that it knows


def open_tokenizer(directory: str) -> Tokenizer | None:
    """The tokenizer in a directory; None, with a notice, where the library is not installed.

    Raises:
        InputError: there is none.
    """
    path = Path(directory, "tokenizer.json")
    if not path.is_file():
        raise InputError(f"{directory}: holds no tokenizer.json; name the directory of a checkpoint that has one")
    try:
        from tokenizers import Tokenizer as Fast
    except ImportError:
        notice("the tokenizers library is not installed, so tokens are shown as numbers; install entropyctl[model]")
        return None
    try:
        fast = Fast.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"{path}: is no tokenizer ({error}); take another checkpoint") from None
    return Tokenizer(lambda ids: str(fast.decode(list(ids), skip_special_tokens=False)), int(fast.get_vocab_size()))


def decoder(directory: str | None) -> Decode | None:
    """Text of token ids by the tokenizer in a directory; None where none is named, or `open_tokenizer` has none."""
    found = open_tokenizer(directory) if directory else None
    return found.decode if found else None


def token_pieces(decode: Decode, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to the tokens before it.

    A token that ends within a character adds nothing; the token that completes the character adds it. A token is
    decoded behind its predecessor, because some tokenizers drop the space of a first word.
    """
    pieces: list[str] = []
    begin = shown = 0
    for end in range(1, len(ids) + 1):
        before, text = decode(ids[begin:shown]), decode(ids[begin:end])
        if text.endswith("\ufffd") and end < len(ids) and end - shown < LONGEST_CHARACTER:
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        begin, shown = shown, end
    return pieces
