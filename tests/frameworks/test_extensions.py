"""ASGI's extensions, from the application in a real replica to the client; on both fronts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
import websockets
from h2.events import InformationalResponseReceived, TrailersReceived

from tests.frameworks.conftest import Served, deploy
from tests.frameworks.menu import Framework
from tests.instances import DEADLINE_S, Instances, until
from tests.proxy.door import Client
from tests.proxy.test_http2 import RawH2

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["native", "hypercorn"])
async def served(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    factory = Instances()
    instance = await factory.start(factory.options(server=request.param))
    folder = tmp_path_factory.mktemp("extensions") / "kitchen"
    yield await deploy(instance, Framework("extensions", "extensions_app", is_at_root=True), folder)
    await factory.close()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    info = served.instance.info
    client = Client(*await asyncio.open_connection(info.http_host, info.http_port))
    yield client
    await client.close()


async def test_early_hints_arrive_before_the_answer_is_made(served: Served, client: Client) -> None:
    client.send(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n")
    with anyio.fail_after(DEADLINE_S):
        head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 103 ")
    assert b"link: </a.css>; rel=preload\r\nlink: </b.js>\r\n" in head
    served.open("hinted")
    assert (await client.answer()).body == b"page"


async def test_early_hints_arrive_in_http_2(served: Served, client: Client) -> None:
    raw = RawH2(client)
    raw.get(1, "/hints")
    hints = await raw.until(InformationalResponseReceived)
    assert [bytes(value) for name, value in hints.headers if name == b"link"] == [
        b"</a.css>; rel=preload", b"</b.js>",
    ]  # fmt: skip
    served.open("hinted")
    assert await raw.body() == b"page"


async def test_trailers_arrive_behind_a_chunked_answer_and_those_of_the_request_are_dropped(
    served: Served, client: Client
) -> None:
    client.send(
        b"POST /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nx-mine: 1\r\n\r\n"
    )
    status, headers = await client.head()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    end = b"b\r\nread: hello\r\n0\r\nx-sum: 11\r\nx-note: done\r\n\r\n"  # and no length, which comes too late
    with anyio.fail_after(DEADLINE_S):
        assert await client.reader.readexactly(len(end)) == end
    assert (await client.get("/trailers")).body == b"read: "  # and none for a client that did not ask


async def test_trailers_arrive_in_http_2_and_those_of_the_request_are_dropped(
    served: Served, client: Client
) -> None:
    raw = RawH2(client)
    pseudo = [(":method", "POST"), (":path", "/trailers"), (":scheme", "http"), (":authority", "a")]
    raw.h2.send_headers(1, [*pseudo, ("te", "trailers")])
    raw.h2.send_data(1, b"hello")
    raw.h2.send_headers(1, [("x-mine", "1")], end_stream=True)
    raw.flush()
    trailers = await raw.until(TrailersReceived)
    assert [(bytes(n), bytes(v)) for n, v in trailers.headers] == [(b"x-sum", b"11"), (b"x-note", b"done")]


async def test_a_client_is_told_to_send_its_body_when_the_application_reads(
    served: Served, client: Client
) -> None:
    client.send(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n")
    await until(lambda: "began" in served.diary(), "the application has the request")
    assert (await served.http.get("/-/healthz")).status_code == 200  # there was time to say it too early
    assert not client.reader._buffer  # type: ignore[attr-defined]  # nothing has come
    served.open("read")
    assert (await client.head())[0] == 100
    client.send(b"x" * 100_000)
    assert (await client.answer()).body == b"read 100000"


async def test_a_client_is_not_told_to_send_a_body_that_nobody_reads(served: Served, client: Client) -> None:
    client.send(b"POST /pass HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"not wanted")
    assert await client.is_closed()


async def test_a_websocket_may_be_refused_with_an_answer_of_its_own(served: Served) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(served.url.replace("http:", "ws:") + "/talk")
    response = refused.value.response
    assert (response.status_code, response.body) == (402, b"pay first")
    assert response.headers["x-reason"] == "late"
    assert response.headers["x-request-id"]
