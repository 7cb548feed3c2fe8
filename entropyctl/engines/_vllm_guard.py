"""What stands before a vLLM server of ours: it answers programs of this machine, never a web page in its browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOOPBACK = (b"127.0.0.1", b"localhost", b"[::1]")
REFUSAL = b'{"error": {"message": "this server answers programs on its own machine alone"}}'


class LoopbackOnly:
    """ASGI middleware that refuses what a browser sends for a page: its routes may exchange the weights.

    A page's request names its origin; one that was rebound to this address names a foreign host.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        headers = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").rpartition(b":")[0] or headers.get(b"host", b"")
        if scope["type"] == "http" and (b"origin" in headers or host not in LOOPBACK):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:
            await self._app(scope, receive, send)
