"""Who may talk to the page's server, and how much: pages of other sites may not, nor who lacks the token."""

from __future__ import annotations

import secrets
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mamoe.commands.app.messages import MOST_BYTES
from mamoe.errors import MamoeError

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class TooLarge(MamoeError):
    """A request is larger than anything the page sends."""

    def __init__(self) -> None:
        super().__init__(f"This is more than the page's server takes in one request ({MOST_BYTES >> 20} MiB).")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no other reaches."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests before anything reads them, and adds the headers that bind the browser to this server.

    Args:
        app: what answers those that may pass.
        token: what requests of data must carry as ``Authorization: Bearer …``; None: the server listens on this
            machine's own address alone, and answers under such a name alone, so that no page of another site reaches
            it by a name of its own that leads here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if (refused := self._refusal(scope)) is not None:
            status, reason = refused
            await JSONResponse({"error": reason}, status_code=status)(scope, receive, send_bound)
            return
        await self._app(scope, _measured(receive), send_bound)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_name_in(host)):
            return 403, f"This server answers on this machine alone, not under the name {host!r:.80}."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "This request comes from a page of another site."
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MOST_BYTES:
            return 413, str(TooLarge())
        if self._token is not None and scope["path"].startswith("/api/"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                return 401, "This needs the token: open the address that `mamoe app` printed."
        return None


def _name_in(host: str) -> str:
    """The name in a Host header, without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _measured(receive: Receive) -> Receive:
    """``receive`` that ends a request whose body is too large, whatever its headers said."""
    taken = 0

    async def receive_some() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_BYTES:
            raise TooLarge
        return message

    return receive_some
