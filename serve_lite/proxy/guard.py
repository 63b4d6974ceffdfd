"""Who is let in to an application: API keys and rates. One `Guard` for each route that has any of them.

Routes without have none, and their requests pay nothing for it. What a client has shown is taken out of the request,
and the key's name put in (`x-serve-api-key-name`), so that applications know their clients and no secrets. A refused
request has used nothing of any rate.

`grpc_guard` asks on behalf of gRPC.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from serve_lite.proxy.answers import TEXT
from serve_lite.proxy.exchange import Exchange
from serve_lite.proxy.key_file import KeyFile
from serve_lite.proxy.keys import PREFIX, KnownKey, is_below
from serve_lite.proxy.routes import decode_path
from serve_lite.rates import Rate, parse_rate, take
from serve_lite.wire.messages import Headers, RouteTarget

KEY_NAME: Final = b"x-serve-api-key-name"
AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"

_OWN_HEADERS: Final = frozenset((KEY_NAME, API_KEY))
_PREFLIGHT: Final = b"access-control-request-method"
_MOST_CLIENTS: Final = 10_000  #: whose rates are remembered, for each application
_IPV6_SITE_BITS: Final = 64  #: of an address; whoever has one has all the others of its network

_CHALLENGE: Final = b'www-authenticate: Bearer realm="serve"'
_NO_KEY: Final = 'This application needs an API key: "Authorization: Bearer KEY" or "X-API-Key: KEY".'
_WRONG_KEY: Final = "The API key is not valid."
_RAN_OUT: Final = "The API key has expired."


class Refusal(NamedTuple):
    """Why a request is not let in."""

    status: Literal[401, 403, 429]
    text: str
    retry_after_s: float = 0.0
    is_wrong_key: bool = False  #: one was shown

    def headers(self) -> bytes:
        """Return the lines that tell an HTTP client what to do."""
        if self.status == 401:
            return _CHALLENGE + (b', error="invalid_token"\r\n' if self.is_wrong_key else b"\r\n")
        if self.status == 429:
            return b"retry-after: %d\r\n" % max(1, math.ceil(self.retry_after_s))
        return b""


class Buckets:
    """The buckets of one rate's clients, bounded: those that are full are forgotten, then those used least lately."""

    def __init__(self, most: int = _MOST_CLIENTS) -> None:
        self._full_at: dict[str, float] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._full_at)

    def full_at(self, client: str) -> float:
        """Return when a client's bucket will be full."""
        return self._full_at.get(client, 0.0)

    def put(self, client: str, full_at: float, now: float) -> None:
        """Note when a client's bucket will be full."""
        buckets = self._full_at
        buckets.pop(client, None)  # so that the one used last stands last
        buckets[client] = full_at
        if len(buckets) > self._most:
            kept = [(name, at) for name, at in buckets.items() if at > now]
            self._full_at = dict(kept[-(self._most * 3 // 4) :])


class Doorkeeper:
    """What all guards of an instance share: the keys, how much of their rates is used, and the clocks."""

    def __init__(
        self,
        keys: KeyFile | None = None,
        *,
        requires_key: bool = False,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self.keys = keys
        self.requires_key = requires_key  #: of applications that do not say
        self.clock, self.calendar = clock, calendar
        self.of_keys = Buckets()
        self._rates_of_apps: dict[tuple[str, str], tuple[Buckets, Buckets]] = {}
        self.is_on_duty = False  #: some application asks for keys

    def guard_of(self, target: RouteTarget) -> Guard | None:
        """Return who guards an application's route; None if everybody may come in as often as they like."""
        needs_key = self._needs_key(target)
        if not needs_key and target.rate is None and target.client_rate is None:
            return None
        # What is used of a rate outlives new routes, unless the rate itself is new.
        kept = (target.app, f"{target.rate} {target.client_rate}")
        buckets = self._rates_of_apps.setdefault(kept, (Buckets(), Buckets()))
        return Guard(self, target, needs_key, *buckets)

    def look_at(self, targets: Iterable[RouteTarget]) -> None:
        """Take note of the routes in force: forget what has been used of the rates of applications that are gone."""
        targets = tuple(targets)
        self.is_on_duty = any(map(self._needs_key, targets))
        kept = {(target.app, f"{target.rate} {target.client_rate}") for target in targets}
        self._rates_of_apps = {key: value for key, value in self._rates_of_apps.items() if key in kept}

    def _needs_key(self, target: RouteTarget) -> bool:
        return self.requires_key if target.requires_key is None else target.requires_key


class Guard:
    """Lets requests in to one application."""

    def __init__(
        self, keeper: Doorkeeper, target: RouteTarget, needs_key: bool, of_app: Buckets, of_clients: Buckets
    ) -> None:
        self._keeper = keeper
        self._app = target.app
        self._needs_key = needs_key
        self._rate = None if target.rate is None else parse_rate(target.rate)
        self._client_rate = None if target.client_rate is None else parse_rate(target.client_rate)
        self._of_app, self._of_clients = of_app, of_clients

    def refuse(self, exchange: Exchange) -> Refusal | None:
        """Return why an HTTP request or WebSocket is not let in; None: it is, and its headers are changed."""
        if not self._needs_key:
            return self.spend(None, exchange.client[0])
        shown, exchange.headers = take_shown(exchange.headers)
        path = decode_path(exchange.target.partition(b"?")[0])
        if not shown and _is_preflight(exchange):
            return self.spend(None, exchange.client[0])
        known = self.identify(shown, path)
        if isinstance(known, Refusal):
            return known
        exchange.headers.append((KEY_NAME, known.key.name.encode("ascii")))
        return self.spend(known, exchange.client[0])

    @property
    def needs_key(self) -> bool:
        return self._needs_key

    def identify(self, shown: bytes, path: bytes) -> KnownKey | Refusal:
        """Return the key that was shown, if it opens this path of the application.

        Args:
            shown: empty if there was none.
            path: decoded; of gRPC, the method.
        """
        if not shown:
            return Refusal(401, _NO_KEY)
        known = self._keeper.keys.ring.find(shown) if self._keeper.keys is not None else None
        if known is None:
            return Refusal(401, _WRONG_KEY, is_wrong_key=True)
        if known.expires_at <= self._keeper.calendar():
            return Refusal(401, _RAN_OUT, is_wrong_key=True)
        key = known.key
        if key.apps and self._app not in key.apps:
            return Refusal(403, f"The API key {key.name!r} is not for this application.")
        if known.routes and not is_below(path, known.routes):
            return Refusal(403, f"The API key {key.name!r} is not for this path.")
        return known

    def spend(self, known: KnownKey | None, client: str) -> Refusal | None:
        """Count a request against every rate that it comes under; return why it is too much."""
        now = self._keeper.clock()
        asked: list[tuple[str, Buckets, str, Rate]] = []
        if known is not None and known.rate is not None:
            asked.append((f"the API key {known.key.name!r}", self._keeper.of_keys, known.key.id, known.rate))
        elif self._client_rate is not None:
            whose = f"key {known.key.id}" if known is not None else site_of(client)
            asked.append(("a client", self._of_clients, whose, self._client_rate))
        if self._rate is not None:
            asked.append(("this application", self._of_app, "", self._rate))
        granted = []
        for what, buckets, whose, rate in asked:
            full_at, wait_s = take(rate, buckets.full_at(whose), now)
            if wait_s:
                return Refusal(429, f"Too many requests for {what}; try again in {wait_s:.1f} s.", wait_s)
            granted.append((buckets, whose, full_at))
        for buckets, whose, full_at in granted:
            buckets.put(whose, full_at, now)
        return None


def refuse_http(guard: Guard, exchange: Exchange) -> tuple[int, str, bytes] | None:
    """Return status, text and headers of the answer to a request that is not let in; None if it is."""
    refusal = guard.refuse(exchange)
    if refusal is None:
        return None
    text = f"{refusal.text} (request {exchange.request_id.decode('ascii')})"
    return refusal.status, text, TEXT + refusal.headers()


def take_shown(headers: Headers) -> tuple[bytes, Headers]:
    """Return the key that headers show (empty: none), and the headers without it.

    `X-API-Key` goes before `Authorization`, which then may be the application's own. Two keys are none that is valid.
    """
    own = [value for name, value in headers if name == API_KEY]
    bearers = [bearer for name, value in headers if name == AUTHORIZATION and (bearer := _bearer(value))]
    shown = own or bearers
    is_carrier = not own
    kept = [
        (name, value)
        for name, value in headers
        if name.replace(b"_", b"-") not in _OWN_HEADERS  # WSGI makes no difference between the two
        and not (name == AUTHORIZATION and (is_carrier or _bearer(value).startswith(PREFIX.encode())))
    ]
    return (shown[0] if len(shown) == 1 else b", ".join(shown)), kept


def site_of(address: str) -> str:
    """Return what stands for a client: its address, of IPv6 the network that a site has."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, _IPV6_SITE_BITS), strict=False))


def _bearer(value: bytes) -> bytes:
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_preflight(exchange: Exchange) -> bool:
    """Whether a browser asks whether it may ask: it shows no key with that, and the application has to answer it."""
    if exchange.method != "OPTIONS" or exchange.streams_body or exchange.body:
        return False
    names = [name for name, _ in exchange.headers]
    return b"origin" in names and _PREFLIGHT in names
