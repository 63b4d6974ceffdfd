"""Whose word is taken for who the client is."""

from __future__ import annotations

import pytest

from serve_lite.proxy.exchange import Exchange
from serve_lite.proxy.forwarded import Forwarding
from serve_lite.proxy.options import ProxyOptions
from tests.proxy.door import open_door


def told(trusted: list[str], forwarded: str, proto: str = "") -> tuple[str, str]:
    """Return the client and the scheme that a peer at 10.0.0.1 makes us believe in."""
    exchange = Exchange()
    exchange.client = ("10.0.0.1", 5)
    exchange.headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    if proto:
        exchange.headers.append((b"x-forwarded-proto", proto.encode()))
    forwarding = Forwarding(trusted)
    if forwarding.trusts("10.0.0.1"):
        forwarding.apply(exchange)
    return exchange.client[0], exchange.scheme


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ([], "1.2.3.4", "10.0.0.1"),
        (["10.0.0.2"], "1.2.3.4", "10.0.0.1"),
        (["10.0.0.1"], "1.2.3.4", "1.2.3.4"),
        (["10.0.0.0/8"], "6.6.6.6, 1.2.3.4", "1.2.3.4"),  # what is before it, the client has made up
        (["10.0.0.0/8"], "6.6.6.6, 1.2.3.4, 10.0.0.7", "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.9, 10.0.0.7", "10.0.0.9"),
        (["10.0.0.0/8"], "1.2.3.4, nonsense", "10.0.0.1"),
        (["10.0.0.0/8"], "1.2.3.4, , 10.0.0.7", "10.0.0.7"),
        (["10.0.0.0/8"], "", "10.0.0.1"),
        (["*"], "6.6.6.6, 1.2.3.4", "6.6.6.6"),
        (["10.0.0.1"], "2001:db8::1", "2001:db8::1"),
        (["::ffff:10.0.0.1"], "1.2.3.4", "10.0.0.1"),  # to be written as what it is
    ],
)
def test_the_client_is_the_last_one_that_nobody_vouches_for(
    trusted: list[str], forwarded: str, client: str
) -> None:
    assert told(trusted, forwarded)[0] == client


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("HTTPS", "https"), ("wss", "https"), ("http, https", "https"), ("ftp", "http")],
)
def test_the_scheme_is_what_the_last_server_says(proto: str, scheme: str) -> None:
    assert told(["10.0.0.1"], "", proto)[1] == scheme
    assert told([], "", proto)[1] == "http"


def test_an_address_within_another_is_the_one_within() -> None:
    assert Forwarding(["10.0.0.0/8"]).trusts("::ffff:10.0.0.1")
    assert not Forwarding(["10.0.0.0/8"]).trusts("")
    assert Forwarding(["*"]).trusts("")


@pytest.mark.parametrize("server", ["native", "hypercorn"])
@pytest.mark.parametrize(("trusted", "client"), [(("127.0.0.1",), "1.2.3.4"), ((), "127.0.0.1")])
async def test_a_trusted_peer_tells_who_the_client_is(
    server: str, trusted: tuple[str, ...], client: str
) -> None:
    options = ProxyOptions(server=server, forwarded_allow_ips=trusted)  # type: ignore[arg-type]
    async with open_door(options) as door:
        connection = await door.connect()
        for _ in range(2):
            await connection.get("/echo", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https")
        for call in door.stage.calls:
            assert call.head.client_host == client
            assert call.head.scheme == ("https" if trusted else "http")
        await connection.close()
