"""One HTTP request: no redirects, replies of bounded size, and time limits that hold for the whole of it.

The standard library's clients limit the time of each read, which a server that sends a byte a minute never exceeds;
here the caller puts one limit around everything with `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from email.message import Message
from http.client import HTTPException, parse_headers
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from entropyctl.errors import UsageError

LARGEST_BODY = 1_000_000
LARGEST_HEAD = 64_000


class TooLarge(Exception):
    """A reply of more bytes than were allowed."""


class BadReply(Exception):
    """Something that is not HTTP."""


class Address(NamedTuple):
    """Where requests go."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    headers: Message
    body: bytes


def parse_address(flag: str, url: str, path: str, *, form: str = "http://HOST:PORT/v1 or https://HOST/v1") -> Address:
    """The address of an endpoint below a base URL.

    Args:
        flag: for messages.
        url: `http://127.0.0.1:8000/v1`, or with `path` at its end.
        path: `/chat/completions`.
        form: what it should look like, for messages.

    Raises:
        UsageError: it is no http or https URL, or it has parts that would be lost or made public.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{flag}: is no URL ({error}); write {form}") from None
    if "@" in parts.netloc:  # not repeated in the message: it is a secret
        raise UsageError(f"{flag}: must hold no name or password; put the key into OPENAI_API_KEY")
    fits = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{flag} {url}: must be {form}, without a query")
    secure = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix(path)
    return Address(secure, parts.hostname or "", port or (443 if secure else 80), base + path)


async def request(
    method: str,
    address: Address,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    largest: int = LARGEST_BODY,
) -> Reply:
    """Send a body and read the reply, of at most `largest` bytes.

    Raises:
        OSError: the connection cannot be made, is not secure, or breaks.
        BadReply: the server does not speak HTTP.
        TooLarge: the reply is too large.
    """
    context = ssl.create_default_context() if address.secure else None
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context, limit=LARGEST_HEAD)
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"{method} {address.path} HTTP/1.1", f"Host: {host}:{address.port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        await writer.drain()
        return await _reply(reader, largest)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, HTTPException, ValueError) as error:
        raise BadReply(f"no whole HTTP reply ({type(error).__name__})") from None
    finally:
        writer.transport.abort()


async def _reply(reader: asyncio.StreamReader, largest: int) -> Reply:
    status = 100
    while 100 <= status < 200:  # those only announce the reply
        head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
        first = re.fullmatch(rb"HTTP/1\.[01] (\d{3})( [^\r\n]*)?\r\n", head.readline())
        if first is None:
            raise BadReply("no HTTP reply")
        status = int(first[1])
    headers = parse_headers(head)
    length = headers.get("Content-Length")
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return Reply(status, headers, await _chunks(reader, largest))
    if length is None:
        return Reply(status, headers, await _rest(reader, largest))
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise BadReply("no HTTP reply")
    if int(length) > largest:
        raise TooLarge
    return Reply(status, headers, await reader.readexactly(int(length)))


async def _rest(reader: asyncio.StreamReader, largest: int) -> bytes:
    body = b""
    while more := await reader.read(1 << 16):
        body += more
        if len(body) > largest:
            raise TooLarge
    return body


async def _chunks(reader: asyncio.StreamReader, largest: int) -> bytes:
    body = bytearray()
    while True:
        size = re.fullmatch(rb"([0-9a-fA-F]{1,8})[ \t]*(;[^\n]*)?\r?\n", await reader.readuntil(b"\n"))
        if size is None:
            raise BadReply("no HTTP reply")
        if (length := int(size[1], 16)) == 0:
            return bytes(body)
        if len(body) + length > largest:
            raise TooLarge
        body += await reader.readexactly(length)
        await reader.readuntil(b"\n")


def in_background(work: Callable[[], Any]) -> Any:
    """Run a coroutine to its end in a thread of its own, which dies with the process.

    The main thread only waits, so a signal ends it at once: within an event loop the exception that a signal raises
    can be taken for that of a callback, and lost.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work()))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()
