"""Conversations: what was asked, and what the assistant said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entropyctl.imports._record import Record
from entropyctl.prompts._problem import Messages, plain


def said(messages: Messages, record: Record) -> str:
    """What the assistant says in a conversation, a message to a line.

    Raises:
        InputError: an entry is no message.
    """
    texts = (message.get("content") for message in checked(messages, record) if message.get("role") == "assistant")
    return "\n".join(text for text in texts if isinstance(text, str))


def asked(messages: Messages, record: Record) -> Messages:
    """The messages before the first of the assistant, with their role and what they say."""
    found = []
    for message in checked(messages, record):
        if message.get("role") == "assistant":
            break
        found.append({"role": message.get("role"), "content": plain(message.get("content"))})
    return found


def checked(messages: Any, record: Record) -> Messages:
    """The messages, all of them objects.

    Raises:
        InputError: one is not.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise record.fault("its conversation holds something else than messages; mend or delete it")
    return messages
