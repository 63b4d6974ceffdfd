"""API keys and rates at the gRPC door: the same keys, shown as metadata."""

from __future__ import annotations

import math
from typing import Final

from serve_lite.proxy.grpc_exchange import GrpcExchange, Peer
from serve_lite.proxy.guard import API_KEY, AUTHORIZATION, KEY_NAME, Guard, Refusal, take_shown
from serve_lite.wire import grpc_status as status
from serve_lite.wire.messages import GrpcStatus, Headers

_CODES: Final = {401: status.UNAUTHENTICATED, 403: status.PERMISSION_DENIED, 429: status.RESOURCE_EXHAUSTED}
_NO_KEY: Final = (
    "This application needs an API key, in the metadata 'authorization' (Bearer KEY) or 'x-api-key'."
)
_LOOKED_AT: Final = frozenset((API_KEY, AUTHORIZATION, KEY_NAME))


def refuse_grpc(guard: Guard | None, exchange: GrpcExchange) -> GrpcStatus | None:
    """Return the status of a request that is not let in; None: it is, and its metadata are changed."""
    if guard is None:
        return None
    refusal = _ask(guard, exchange)
    if refusal is None:
        return None
    text = _NO_KEY if refusal.status == 401 and not refusal.is_wrong_key else refusal.text
    trailing = []
    if refusal.status == 429:  # gRPC's word for Retry-After (gRFC A6)
        trailing = [("grpc-retry-pushback-ms", b"%d" % math.ceil(refusal.retry_after_s * 1000))]
    return GrpcStatus(_CODES[refusal.status], text, trailing=trailing)


def client_host(peer: Peer) -> str:
    """Return the address of a client; "" if it has none."""
    return peer.address.partition(":")[2].rpartition(":")[0].strip("[]")


def _ask(guard: Guard, exchange: GrpcExchange) -> Refusal | None:
    head, client = exchange.head, client_host(exchange.peer)
    if not guard.needs_key:
        return guard.spend(None, client)
    others: Headers = []
    looked_at: Headers = []
    for field in head.fields:
        (looked_at if field[0].replace(b"_", b"-") in _LOOKED_AT else others).append(field)
    shown, kept = take_shown(looked_at)
    known = guard.identify(shown, head.path.encode("latin-1"))
    if isinstance(known, Refusal):
        return known
    # A new one: requests that are alike share theirs.
    exchange.head = head.with_fields([*others, *kept, (KEY_NAME, known.key.name.encode("ascii"))])
    return guard.spend(known, client)
