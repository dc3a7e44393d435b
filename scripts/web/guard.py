"""What stands before the page: whose requests are answered, and what a browser may load."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
"""Content security policy: a browser loads nothing that does not come from this page."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and sends the policy with every answer.

    A page of somebody else, open in the same browser, can send requests to this machine; its origin gives it away. A
    name of somebody else that leads to this machine (DNS rebinding) is given away by the host.

    Args:
        app: what is guarded.
        hosts: names that requests may be for; empty: any, when others may reach the page and must sign in.
    """

    def __init__(self, app: Any, hosts: tuple[str, ...] = LOCAL):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or (self.hosts and host.rsplit(":", 1)[0] not in self.hosts):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page answers its own visitors alone."})
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *policy]}
            await send(message)

        await self.app(scope, receive, with_policy)
