"""HTTP to applications inside the test's own process: the same answers as from a real instance."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import websockets.sync.client
from fastapi import FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

import serve_lite as serve
from serve_lite import testing
from serve_lite.exceptions import RayServeException
from tests.testing.conftest import DEADLINE_S, until

pytestmark = pytest.mark.anyio

events: list[str] = []
gate = threading.Event()


@serve.deployment
class Plain:
    """Answers in every way that a class without an ASGI app can."""

    async def __call__(self, request: Request) -> Any:
        match request.url.path.rpartition("/")[2]:
            case "text":
                return "text"
            case "bytes":
                return b"\x00\x01"
            case "json":
                return {"a": [1, None], "body": (await request.body()).decode()}
            case "nothing":
                return None
            case "fails":
                raise ValueError("no such thing")
            case "response":
                return JSONResponse({"made": "here"}, status_code=418, headers={"x-own": "1"})
            case "stream":
                return StreamingResponse(iter([b"one ", b"two"]), media_type="text/plain")
            case "model":
                return serve.get_multiplexed_model_id()
            case "seen":
                scope = request.scope
                return {name: scope[name] for name in ("path", "root_path", "method", "http_version")}
            case "context":
                context = serve.get_replica_context()
                return [context.app_name, context.deployment]
        return request.url.path


#: method, path, headers, body
REQUESTS: list[tuple[str, str, dict[str, str], bytes | None]] = [
    ("GET", "/text", {}, None),
    ("GET", "/bytes", {}, None),
    ("POST", "/json", {}, b"hello"),
    ("POST", "/json", {}, b"x" * 3_000_000),
    ("GET", "/nothing", {}, None),
    ("GET", "/fails", {}, None),
    ("GET", "/response", {}, None),
    ("GET", "/stream", {}, None),
    ("HEAD", "/text", {}, None),
    ("GET", "/seen?q=%20", {}, None),
    ("PUT", "/seen", {}, b"1"),
    ("GET", "/context", {}, None),
    ("GET", "/model", {"serve_multiplexed_model_id": "m1"}, None),
    ("GET", "/text", {"x-request-id": "mine"}, None),
]


def answers(address: str) -> list[Any]:
    """Ask everything, below the prefix and beside it; return what does not differ from run to run."""
    found: list[Any] = []
    with httpx.Client(base_url=address, timeout=DEADLINE_S, trust_env=False) as client:
        asked = [(m, "/shop" + path, headers, body) for m, path, headers, body in REQUESTS]
        asked += [("GET", path, {}, None) for path in ("/", "/shopping", "/-/routes", "/-/healthz")]
        for method, path, headers, body in asked:
            answer = client.request(method, path, headers=headers, content=body)
            kept = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}
            request_id = answer.headers.get("x-request-id")
            is_ours = request_id == headers.get("x-request-id")
            text = answer.text.replace(request_id, "REQUEST-ID") if request_id else answer.text
            found.append((method, path, answer.status_code, kept, bool(request_id), is_ours, text))
    return found


@pytest.mark.processes
@pytest.mark.usefixtures("shared_instance")
def test_the_answers_are_those_of_an_instance() -> None:
    found = []
    for local in (True, False):
        with testing.running(Plain.bind(), "shop", "/shop", local=local) as app:
            found.append(answers(app.http_address))
    here, there = found
    assert here == there
    assert [status for _, _, status, *_ in here].count(200) > len(REQUESTS) // 2
    assert {status for _, _, status, *_ in here} >= {200, 404, 418, 500}


# --- ASGI applications ---------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> Any:
    events.append("startup")
    yield {"weights": "loaded"}
    events.append("shutdown")


api = FastAPI(lifespan=lifespan)


@serve.deployment
class Doubler:
    def double(self, value: int) -> int:
        return 2 * value


@serve.deployment
@serve.ingress(api)
class Door:
    def __init__(self, doubler: Any) -> None:
        self.doubler = doubler

    @api.get("/double/{value}")
    async def double(self, value: int, request: Request) -> dict[str, Any]:
        doubled = await self.doubler.double.remote(value)
        return {"value": doubled, "weights": request.state.weights, "root": request.scope["root_path"]}

    @api.get("/wait")
    async def wait(self) -> str:
        events.append("waits")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("left")
        return ""

    @api.websocket("/chat")
    async def chat(self, chat: WebSocket) -> None:
        await chat.accept()
        await chat.send_text((await chat.receive_text()).upper())
        await chat.close()


@pytest.fixture
def fresh() -> Iterator[None]:
    events.clear()
    gate.clear()
    yield
    gate.set()


@pytest.mark.usefixtures("private", "fresh")
def test_a_fastapi_ingress_with_lifespan_views_and_web_sockets() -> None:
    with testing.running(Door.bind(Doubler.bind()), route_prefix="/api", local=True) as app:
        assert events == ["startup"]
        answer = app.client.get("/api/double/4")
        assert answer.json() == {"value": 8, "weights": "loaded", "root": "/api"}
        assert app.client.get("/api/double/four").status_code == 422
        assert app.client.get("/api/openapi.json").json()["paths"].keys() >= {"/double/{value}"}
        url = app.http_address.replace("http:", "ws:") + "/api/chat"
        with websockets.sync.client.connect(url, open_timeout=DEADLINE_S) as chat:
            chat.send("hello")
            assert chat.recv(DEADLINE_S) == "HELLO"
    assert events == ["startup", "shutdown"]


@pytest.mark.usefixtures("private", "fresh")
def test_the_same_fastapi_app_serves_each_new_instance() -> None:
    for _ in range(3):
        with testing.running(Door.bind(Doubler.bind()), local=True) as app:
            assert app.client.get("/double/1").json()["value"] == 2
    assert events == ["startup", "shutdown"] * 3


@pytest.mark.usefixtures("private", "fresh")
def test_a_client_that_leaves_cancels_its_request() -> None:
    with testing.running(Door.bind(Doubler.bind()), local=True) as app:
        url = httpx.URL(app.http_address)
        with socket.create_connection((url.host, url.port or 0), DEADLINE_S) as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nhost: here\r\n\r\n")
            until(lambda: "waits" in events, "the handler runs")
            assert "left" not in events
        until(lambda: "left" in events, "the handler was cancelled")


# --- limits and prefixes -------------------------------------------------------------------------


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Narrow:
    async def __call__(self, request: Request) -> str:
        events.append("in")
        while not gate.is_set():
            await anyio.sleep(0.002)
        return "through"


@pytest.mark.usefixtures("private", "fresh")
async def test_a_full_queue_is_answered_503() -> None:
    with testing.running(Narrow.bind(), local=True) as app:
        async with anyio.create_task_group() as group:
            statuses: list[int] = []

            async def ask() -> None:
                statuses.append((await app.async_client.get("/")).status_code)

            group.start_soon(ask)
            while not events:
                await anyio.sleep(0.002)
            for _ in range(3):
                group.start_soon(ask)
            while len(statuses) < 2:
                await anyio.sleep(0.002)
            assert statuses == [503, 503]
            gate.set()
        assert sorted(statuses) == [200, 200, 503, 503]


@pytest.mark.usefixtures("private")
def test_applications_are_found_by_their_prefixes_as_they_come_and_go() -> None:
    with testing.running(Plain.bind(), "one", "/one", local=True) as one:
        with testing.running(Plain.bind(), "two", "/two", local=True) as two:
            assert two.http_address == one.http_address
            assert one.client.get("/two/context").json() == ["two", "Plain"]
            assert one.client.get("/-/routes").json() == {"/one": "one", "/two": "two"}
        assert one.client.get("/two/context").status_code == 404
        assert one.client.get("/one/context").json() == ["one", "Plain"]
        with testing.running(Plain.bind(), "three", None, local=True):
            assert one.client.get("/-/routes").json() == {"/one": "one"}


@pytest.mark.usefixtures("private")
def test_two_owners_of_one_prefix_are_refused_once_there_is_http() -> None:
    with testing.running(Plain.bind(), "one", local=True) as one:
        serve.run(Plain.bind(), name="two", _local_testing_mode=True)  # handles tell them apart
        with pytest.raises(RayServeException, match='Prefix / is being used by application "one"'):
            one.client.get("/")
        serve.delete("two")
        assert one.client.get("/text").text == "text"
        with pytest.raises(RayServeException, match='Prefix / is being used by application "one"'):
            serve.run(Plain.bind(), name="two", _local_testing_mode=True)
        assert one.client.get("/text").text == "text"


@pytest.mark.usefixtures("private")
def test_a_request_id_is_in_the_answer_and_in_the_log(
    caplog: pytest.LogCaptureFixture, private: Path
) -> None:
    with testing.running(Plain.bind(), local=True) as app:
        answer = app.client.get("/fails", headers={"x-request-id": "wanted"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "wanted")
    assert "no such thing" not in json.dumps(answer.text)
    assert "request wanted failed" in caplog.text and "ValueError: no such thing" in caplog.text
