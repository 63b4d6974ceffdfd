"""What can be chosen about the HTTP door. Values only; the daemon fills them from the instance's options."""

from __future__ import annotations

from typing import Literal

import msgspec


class ProxyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, times and certificates of one listener."""

    server: Literal["native", "hypercorn"] = "native"  #: which front takes plain HTTP/1.1
    root_path: str = ""  #: path that a server in front of us has stripped
    request_timeout_s: float | None = None  #: for the whole request, waiting and streaming included
    keep_alive_timeout_s: float = 90.0  #: of an idle connection; longer than load balancers keep theirs
    first_byte_timeout_s: float | None = None  #: until the answer begins, once the request has come
    idle_timeout_s: float | None = None  #: between two pieces of a streamed answer
    read_timeout_s: float = 60.0  #: a begun request must have its head and small body whole after about this
    write_timeout_s: float = 60.0  #: a client that takes nothing of its answer for about this long is cut off
    max_header_bytes: int = 64 * 1024  #: request line and headers; more is answered 431
    max_headers: int = 200  #: more is answered 431
    max_body_bytes: int | None = None  #: more is answered 413; None: no limit, bodies are streamed
    max_connections: int | None = None  #: more are answered 503; None: what open descriptors allow
    forwarded_allow_ips: tuple[str, ...] = ()  #: whose `X-Forwarded-...` headers are believed
    backlog: int = 4096  #: connections that wait in the kernel
    debug: bool = False  #: put tracebacks of user code into the body of a 500
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    http3: bool = False  #: on the same port, by UDP; needs certificates
    ssl_ca_certs: str | None = None  #: clients must show a certificate signed by one of these
