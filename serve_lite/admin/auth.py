"""Who may talk to the control plane: one gate in front of every route, method and WebSocket.

A control plane on loopback is reachable by every web page in the user's browser. Two things give such
pages away: a `Host` that is not this machine (DNS rebinding), and the `Origin` or `Sec-Fetch-Site` of
another site. Both are refused before any route is looked up, for unknown paths and methods too.

A listener that is not on loopback must have a token; `check_listener` is asked before the socket is bound.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from serve_lite.exceptions import InvalidConfigError

if TYPE_CHECKING:  # `check_listener` is asked at every start, and needs no web framework
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

#: What a browser says of a request that no other site caused: our own page, or the user typing the address.
OWN_FETCH_SITES = frozenset({b"same-origin", b"none"})


class Refusal(msgspec.Struct, frozen=True):
    """Why a request may not pass."""

    status: int
    message: str


def check_listener(host: str, token: str | None) -> None:
    """Refuse a control listener that other machines can reach and that asks for no token.

    Raises:
        InvalidConfigError: `host` is not a loopback address and `token` is empty.
    """
    if token or is_loopback(host):
        return
    raise InvalidConfigError(
        f"The control plane would listen on {host!r}, where other machines can reach it and start any code. "
        "Set a token for it, or listen on 127.0.0.1."
    )


def is_loopback(host: str) -> bool:
    """Tell whether `host` (a name or an address) can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware that answers 400, 401 or 403 itself, and passes on what is allowed."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None = None) -> None:
        """Guard `app`, which listens on `host`; with a `token`, every request must bear it."""
        self._app = app
        self._token = token
        # A wildcard address is reached by names we cannot know. It has a token (`check_listener`), and a
        # rebound page does not know the token, so the name no longer matters.
        is_wildcard = host in ("", "0.0.0.0", "::")
        self._names = None if is_wildcard and token else LOOPBACK_NAMES | {host.strip("[]").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = judge(scope.get("scheme", "http"), scope["headers"], self._names, self._token)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await _answer(refusal, send)


async def _answer(refusal: Refusal, send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = msgspec.json.encode({"error": refusal.message, "path": ""})
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def judge(
    scheme: str,
    headers: Sequence[tuple[bytes, bytes]],
    names: Iterable[str] | None,
    token: str | None,
) -> Refusal | None:
    """Return why this request is refused, or None if it may pass.

    Args:
        scheme: "http", "https", "ws" or "wss", as the listener saw it.
        headers: names in lower case.
        names: hosts this listener answers to; None for any.
        token: what the request must bear; None for nothing.
    """
    hosts = _all(headers, b"host")
    if len(hosts) != 1:
        return Refusal(400, "A request needs exactly one Host header.")
    host = hosts[0].decode("latin-1").strip().lower()
    if names is not None and host_name(host) not in names:
        return Refusal(403, f"Host {host!r} is not a name of this control plane.")
    for origin in _all(headers, b"origin"):
        if not _is_own_origin(origin.decode("latin-1"), scheme, host):
            return Refusal(403, "Requests from other sites are refused.")
    for site in _all(headers, b"sec-fetch-site"):
        if site.lower() not in OWN_FETCH_SITES:
            return Refusal(403, "Requests from other sites are refused.")
    if token and not _bears(headers, token):
        return Refusal(401, "This control plane needs a token: Authorization: Bearer <token>.")
    return None


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; "" if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  (raises for a port that is no number)
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return ""
    return (parts.hostname or "").removesuffix(".")


def _all(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _is_own_origin(origin: str, scheme: str, host: str) -> bool:
    web_scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return origin.strip().lower() == f"{web_scheme}://{host}"


def _bears(headers: Sequence[tuple[bytes, bytes]], token: str) -> bool:
    given = _all(headers, b"authorization")
    return len(given) == 1 and hmac.compare_digest(given[0], b"Bearer " + token.encode())
