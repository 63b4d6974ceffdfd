"""Who may talk to the control plane: one gate in front of every route, method and WebSocket.

A control plane on loopback is reachable by every web page in the user's browser, and by every user of the
machine. Two things give web pages away: a `Host` that is not this machine (DNS rebinding), and the `Origin` or
`Sec-Fetch-Site` of another site. Users are told apart by the kernel, which knows whose process is at the other end
of a connection: the instance's own user and root may pass, and others need the token. Whatever is refused is
refused before any route is looked up, for unknown paths and methods too.

A listener that other machines can reach asks everybody for the token. `check_listener` is asked before it is used.
`daemon/admin_server.py` finds out who connects, and `daemon/token.py` has the token.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from serve_lite.exceptions import InstanceError, InvalidConfigError

if TYPE_CHECKING:  # `check_listener` is asked at every start, and needs no web framework
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

#: What a browser says of a request that no other site caused: our own page, or the user typing the address.
OWN_FETCH_SITES = frozenset({b"same-origin", b"none"})

#: What a proxy adds. Whoever asks through one is not the process at the other end of the connection.
FORWARDING = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)

#: Key of a connection's ASGI state: whether its other end is the instance's user or root.
IS_OWNER = "serve_lite.is_owner"

HOW_TO_GET_A_TOKEN = "send `Authorization: Bearer TOKEN`; `serve token show` prints it to the instance's user"

logger = logging.getLogger(__name__)


class Tokens(Protocol):
    """The tokens that count."""

    def accept(self, given: bytes, /) -> bool: ...


class Refusal(msgspec.Struct, frozen=True):
    """Why a request may not pass."""

    status: int
    message: str
    challenge: str = ""  #: the `WWW-Authenticate` header of a 401


def check_listener(host: str, tokens: Tokens | None) -> None:
    """Refuse a control listener that other machines can reach and that asks for no token.

    Raises:
        InvalidConfigError: `host` is not a loopback address and there are no `tokens`.
    """
    if tokens is not None or is_loopback(host):
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

    def __init__(self, app: ASGIApp, *, host: str, address: str, tokens: Tokens | None = None) -> None:
        """Guard `app`; with `tokens`, a request must bear one unless the instance's owner sends it.

        Args:
            host: where it listens, in the words of its user.
            address: where it really does.
        """
        self._app = app
        self._tokens = tokens
        # Other machines reach us by names that we cannot know. There everybody has a token, which a rebound page
        # does not know, so the name no longer matters.
        self._is_exposed = not is_loopback(address)
        self._names = None if self._is_exposed else LOOPBACK_NAMES | {host.strip("[]").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._judge(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(refusal, send, "http.response")
        elif "websocket.http.response" in scope.get("extensions", {}):
            await _answer(refusal, send, "websocket.http.response")
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})

    def _judge(self, scope: Scope) -> Refusal | None:
        headers = scope["headers"]
        is_owner = not self._is_exposed and scope.get("state", {}).get(IS_OWNER, False)
        try:
            return judge(scope.get("scheme", "http"), headers, self._names) or (
                None if self._tokens is None else judge_bearer(headers, self._tokens, is_owner=is_owner)
            )
        except InstanceError as error:
            logger.error("No token is accepted: %s", error)
            return Refusal(401, "The token of this instance cannot be read; its log says why.", "Bearer")


async def _answer(refusal: Refusal, send: Send, kind: str) -> None:
    body = msgspec.json.encode({"error": refusal.message, "path": ""})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.challenge:
        headers.append((b"www-authenticate", refusal.challenge.encode()))
    start: dict[str, Any] = {"type": f"{kind}.start", "status": refusal.status, "headers": headers}
    await send(start)
    await send({"type": f"{kind}.body", "body": body})


def judge(scheme: str, headers: Sequence[tuple[bytes, bytes]], names: Iterable[str] | None) -> Refusal | None:
    """Return why a request is refused for the page that it comes from, or None if it is not.

    Args:
        scheme: "http", "https", "ws" or "wss", as the listener saw it.
        headers: names in lower case.
        names: hosts this listener answers to; None for any.
    """
    hosts = _all(headers, b"host")
    if len(hosts) != 1:
        return Refusal(400, "A request needs exactly one Host header.")
    host = hosts[0].decode("latin-1").strip().lower()
    if names is not None and host_name(host) not in names:
        return Refusal(
            403,
            f"Host {host!r} is not a name of this control plane; it answers to {', '.join(sorted(names))}.",
        )
    for origin in _all(headers, b"origin"):
        if not _is_own_origin(origin.decode("latin-1"), scheme, host):
            return Refusal(403, "Requests from other sites are refused (Origin).")
    for site in _all(headers, b"sec-fetch-site"):
        if site.lower() not in OWN_FETCH_SITES:
            return Refusal(403, "Requests from other sites are refused (Sec-Fetch-Site).")
    return None


def judge_bearer(headers: Sequence[tuple[bytes, bytes]], tokens: Tokens, *, is_owner: bool) -> Refusal | None:
    """Return why a request is refused for who sends it, or None if it is not.

    A token that is borne must be right, whoever bears it: a wrong one is a mistake that should show.

    Args:
        is_owner: the process at the other end is the instance's user's, or root's.

    Raises:
        InstanceError: the tokens cannot be read.
    """
    given = _all(headers, b"authorization")
    if not given:
        if is_owner and not any(name in FORWARDING for name, _ in headers):
            return None
        why = "comes through a proxy" if is_owner else "is not known to come from the instance's user"
        return Refusal(401, f"This request {why}, so it needs a token: {HOW_TO_GET_A_TOKEN}.", "Bearer")
    kind, _, token = given[0].strip().partition(b" ")
    if len(given) > 1 or kind.lower() != b"bearer":
        return Refusal(401, f"The request has no bearer token: {HOW_TO_GET_A_TOKEN}.", "Bearer")
    if not tokens.accept(token.strip()):
        why = "The token is not the one of this instance, or no longer"
        return Refusal(401, f"{why}: {HOW_TO_GET_A_TOKEN}.", 'Bearer error="invalid_token"')
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
