"""One request and the way to answer it, the same for every front.

`http1` and `hypercorn_front` make exchanges; `http` reads the request from them, puts its `Work` in, and
answers through them. Everything is a callback on the event loop; nothing here waits.

Answering is either `respond` once, or `start`, any number of `write`, `finish`; `inform` may come before both.
`abort` cuts an answer that has started. After the client has gone all of these do nothing.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from serve_lite.wire.messages import Headers

Buffer = bytes | bytearray | memoryview

SMALL_BODY_BYTES: Final = 64 * 1024  #: a request body up to this is gathered and travels with the request

_NO_FIELDS: Final[dict[bytes, bytes]] = {}


class Work(Protocol):
    """What runs for an exchange. Called by the front; must neither block nor raise."""

    def on_body(self, data: bytes) -> None:
        """A piece of the request body, only after `Exchange.read_body`."""

    def on_body_end(self) -> None:
        """The request body is complete."""

    def on_client_writable(self) -> None:
        """The client took what was written; `write` may be used again."""

    def on_disconnect(self) -> None:
        """The client is gone. Nothing else is called after this."""


class Exchange:
    """One request. Fields are set by the front before `RequestHandler.handle` and not changed later."""

    # Defaults stand on the class: an instance holds only what its request has, which makes it cheap to create.
    method: str = "GET"
    target: bytes = b"/"  #: path and query as received
    headers: Headers
    noted: dict[bytes, bytes] = _NO_FIELDS  #: the few headers that Serve itself looks at, by canonical name
    http_version: str = "1.1"
    scheme: str = "http"
    client: tuple[str, int] = ("", 0)
    server: tuple[str, int] = ("", 0)
    body: bytes = b""
    streams_body: bool = False  #: the body comes through `Work.on_body`; else it is `body`
    expects_continue: bool = (
        False  #: the client sends its body once `read_body` was called (RFC 9110, 10.1.1)
    )
    work: Work | None = None  #: set by the request function
    request_id: bytes = b""  #: set by the request function; sent with every answer

    def respond(self, status: int, headers: bytes, body: Buffer) -> None:
        """Answer at once. `headers` is a ready block of `name: value\\r\\n` lines."""
        raise NotImplementedError

    def start(self, status: int, headers: bytes) -> None:
        """Begin a streamed answer."""
        raise NotImplementedError

    def write(self, data: Buffer) -> bool:
        """Send a piece; False: stop until `Work.on_client_writable`."""
        raise NotImplementedError

    def inform(self, status: int, headers: bytes) -> None:
        """Send an interim answer (1xx), before the answer begins."""
        raise NotImplementedError

    def finish(self, trailers: bytes = b"") -> None:
        """End a streamed answer. `trailers` are lines as in `start`, for a client that can take them."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut an answer that has started, so that the client sees it is not complete."""
        raise NotImplementedError

    def read_body(self) -> None:
        """Let pieces of the request body come (again)."""
        raise NotImplementedError

    def pause_body(self) -> None:
        """Let no more pieces come until `read_body`."""
        raise NotImplementedError


# --- headers that Serve looks at ----------------------------------------------------------------

REQUEST_ID: Final = b"x-request-id"
MODEL_ID: Final = b"serve_multiplexed_model_id"
SESSION_ID: Final = b"x-session-id"
TIMEOUT: Final = b"x-request-timeout-seconds"
DISCONNECT: Final = b"x-request-disconnect-disabled"
TRACEPARENT: Final = b"traceparent"


def _spellings(name: bytes) -> Iterable[bytes]:
    """Return every way to write a name whose underscores a reverse proxy may have made dashes."""
    words = name.split(b"_")
    for marks in itertools.product((b"_", b"-"), repeat=len(words) - 1):
        yield words[0] + b"".join(mark + word for mark, word in zip(marks, words[1:], strict=True))


#: every spelling (lower case) -> canonical name
NOTED: Final[dict[bytes, bytes]] = {
    **{name: name for name in (REQUEST_ID, SESSION_ID, TIMEOUT, DISCONNECT, TRACEPARENT)},
    **dict.fromkeys(_spellings(MODEL_ID), MODEL_ID),
}

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def is_valid_host(host: bytes) -> bool:
    """Whether a Host header is a plain name or address, with or without a port.

    Anything else (`a/b`, `x@y`, nothing) would make an application build a URL with another path or host
    than the one that was routed on.
    """
    return _HOST.fullmatch(host) is not None


def request_ids() -> Callable[[], str]:
    """Return a source of request ids: shaped like a UUID, unique in the world for all practical purposes.

    The first part is random per process and the last counts, which costs a tenth of a new UUID each time.
    """
    first = str(uuid.uuid4())
    count = itertools.count(int(first[24:], 16)).__next__
    prefix = first[:24]
    return lambda: f"{prefix}{count() & 0xFFFFFFFFFFFF:012x}"
