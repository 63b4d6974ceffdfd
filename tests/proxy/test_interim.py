"""What comes before and after an answer: early hints and trailers."""

from __future__ import annotations

import anyio
import pytest

from serve_lite.wire.messages import HttpResponseHead
from tests.proxy.door import PATIENCE_S, Door, encode


@pytest.mark.parametrize("te", [b"TE: trailers\r\n", b"TE: gzip, Trailers\r\n", b""])
async def test_trailers_reach_a_client_that_takes_them(native: Door, te: bytes) -> None:
    client = await native.connect()
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n%b\r\n" % te)
    call = await native.stage.call()
    call.take()
    call.start()
    call.item(b"body")
    call.call.outgoing = None
    call.call.on_end(b"x-sum: 4\r\n")
    await client.head()
    end = b"4\r\nbody\r\n0\r\nx-sum: 4\r\n\r\n" if te else b"4\r\nbody\r\n0\r\n\r\n"
    with anyio.fail_after(PATIENCE_S):
        assert await client.reader.readexactly(len(end)) == end
    assert (await client.get("/hello")).body == b"hello"
    await client.close()


async def test_early_hints_come_before_the_answer(native: Door) -> None:
    client = await native.connect()
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await native.stage.call()
    call.take()
    call.call.on_item(encode(HttpResponseHead(103, b"link: </a.css>; rel=preload\r\n")), [])
    assert await client.head() == (103, {"link": "</a.css>; rel=preload"})
    call.result(200, b"", b"late")
    assert (await client.answer()).body == b"late"
    assert native.statuses() == {200: 1}
    await client.close()
