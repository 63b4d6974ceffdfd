"""What a trusted server in front says of the real client: `X-Forwarded-For` and `X-Forwarded-Proto`.

Anybody can send these headers, so they are believed only from the addresses that the options name. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from serve_lite.proxy.exchange import Exchange

_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forwarding:
    """Who is trusted, and what they say.

    Args:
        trusted: addresses and networks; `*` is everybody, a client on a Unix socket included.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusts_all = "*" in trusted
        self._networks: list[Network] = [ipaddress.ip_network(t, strict=False) for t in trusted if t != "*"]

    def trusts(self, host: str) -> bool:
        """Whether what this peer says of its clients is believed."""
        if self._trusts_all:
            return True
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def apply(self, exchange: Exchange) -> None:
        """Give an exchange of a trusted peer the client and the scheme that the peer tells of.

        The client is the last address that is not itself trusted: those before it may be made up. Ports and
        anything that is no address are not believed.
        """
        hops, schemes = [], []
        for name, value in exchange.headers:
            if name == _FOR:
                hops += value.split(b",")
            elif name == _PROTO:
                schemes += value.split(b",")
        for hop in reversed(hops):
            host = hop.strip().decode("latin-1")
            if _address(host) is None:
                break
            exchange.client = (host, 0)
            if self._trusts_all or not self.trusts(host):
                break
        if self._trusts_all and hops:
            first = hops[0].strip().decode("latin-1")
            if _address(first) is not None:
                exchange.client = (first, 0)
        if schemes:
            exchange.scheme = _SCHEMES.get(schemes[-1].strip().lower(), exchange.scheme)


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
