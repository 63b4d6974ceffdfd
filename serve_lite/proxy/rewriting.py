"""Requests read strictly and written out anew, for a parser that is more lenient than ours. Sans-I/O.

hypercorn's own HTTP/1 parser takes several things for requests that another one takes for something else, which is
what smuggling lives on. So it never sees a client's bytes: it gets what `requests` made of them. Next: `entry`.
"""

from __future__ import annotations

from typing import Final

from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.requests import SLICE_BYTES, Http1Request, RequestReader, render_head

#: Stands in for what was refused, so that the refusal is answered in its turn.
_SUBSTITUTE: Final = b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n"


class RequestRewriter:
    """Feed what a client sends; pass on what `feed` returns.

    After `is_over` feed nothing more: see `refusal`, `is_cut` and `upgrade` for the reason.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self.num_passed = 0  #: requests passed on, the substitute for a refused one not counted
        self.is_cut = False  #: the request being passed on goes wrong in its body; it cannot be completed
        self._reader: RequestReader[Http1Request] = RequestReader(Http1Request, options)
        self._expecting: set[int] = set()  #: numbers of requests that wait for `100 Continue`
        self._is_ended = (
            False  #: the last request of the connection was passed on; what follows it is nobody's
        )
        self._unended: Http1Request | None = None  #: its head was passed on, its end has not come

    @property
    def refusal(self) -> tuple[int, str] | None:
        """Status and text for the request that was refused."""
        return None if self._is_ended else self._reader.refusal

    @property
    def upgrade(self) -> str:
        """The protocol that whatever follows belongs to; "" while it is HTTP/1."""
        return self._reader.upgrade

    @property
    def rest(self) -> bytes:
        """What followed the head of an upgrade; it is not HTTP/1."""
        return self._reader.rest

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be fed."""
        return self._reader.is_over and not self._is_ended

    @property
    def is_within_request(self) -> bool:
        """Whether a request has begun to come and not come to its end."""
        return not self._is_ended and (self._reader.has_partial_head or self._reader.current is not None)

    @property
    def is_within_passed_body(self) -> bool:
        """Whether a request was passed on whose body has not come to its end."""
        return self._unended is not None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what the other parser is to read."""
        if self._is_ended:
            return b""
        out: list[bytes] = []
        reader, view = self._reader, memoryview(data)
        for at in range(0, len(data), SLICE_BYTES):
            reader.feed(view[at : at + SLICE_BYTES])
            if self._unended is not None:
                self._pass_body(self._unended, out)
                if self._is_ended:
                    return b"".join(out)
            for request in reader.ready:
                if request.expects_continue:
                    self._expecting.add(self.num_passed)
                    request.headers = [pair for pair in request.headers if pair[0] != b"expect"]
                self.num_passed += 1
                out.append(render_head(request))
                self._pass_body(request, out)
                if self._is_ended:
                    return b"".join(out)
            reader.ready = []
            if reader.is_over:
                break
        if reader.handover is not None:
            out.append(reader.handover[: len(reader.handover) - len(reader.rest)])
        elif reader.refusal is not None:
            self._pass_refusal(out)
        return b"".join(out)

    def is_refused(self, number: int) -> bool:
        """Whether the n-th request passed on, from 0, is answered with `refusal`."""
        return self.refusal is not None and number == self.num_passed - self.is_cut

    def expects_continue(self, number: int) -> bool:
        """Whether the n-th request passed on, from 0, waits for `100 Continue`. Tells it once.

        The other parser is not told: it would say so before it is known whether anybody reads the body.
        """
        expects = number in self._expecting
        self._expecting.discard(number)
        return expects

    def refuse(self, status: int, text: str) -> bytes:
        """Give up the request that is coming; return what the other parser is to read."""
        self._reader.refusal = (status, text)
        out: list[bytes] = []
        self._pass_refusal(out)
        return b"".join(out)

    def close(self) -> None:
        """Let go of the parser."""
        self._reader.close()

    def _pass_refusal(self, out: list[bytes]) -> None:
        if self._unended is not None:
            self.is_cut = True
        else:
            out.append(_SUBSTITUTE)

    def _pass_body(self, request: Http1Request, out: list[bytes]) -> None:
        """Pass on what has come of a body, framed as its head says."""
        data = request.body or b"".join(request.pieces)
        request.pieces = []
        is_chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
        if data:
            out += (b"%x\r\n" % len(data), data, b"\r\n") if is_chunked else (data,)
        if request.is_complete and is_chunked:
            out.append(b"0\r\n\r\n")
        self._unended = None if request.is_complete else request
        self._is_ended = request.is_complete and not request.keeps_alive
