"""ASGI and WSGI frameworks, unchanged, as ingress: the same cases for each of them."""

from __future__ import annotations

import anyio
import httpx
import pytest
import websockets

from tests.frameworks import kitchen
from tests.frameworks.conftest import FILE, Served
from tests.instances import DEADLINE_S, until

pytestmark = pytest.mark.anyio

PLAIN = {"accept-encoding": "identity"}  #: what compressing middleware is to leave alone


def needs(served: Served, *abilities: str) -> None:
    """Leave a case out that is not for this framework."""
    if missing := served.framework.lacks.intersection(abilities):
        pytest.skip(f"{served.framework.name} has no {', '.join(missing)} of its own")


async def test_json_goes_both_ways(served: Served) -> None:
    got = await served.http.get(f"{served.prefix}/json?a=1&b=%C3%BC%20x")
    assert (got.status_code, got.json()) == (200, {"query": {"a": "1", "b": "ü x"}})
    order = {"dish": "söup", "count": 2}
    posted = await served.http.post(f"{served.prefix}/json", json=order)
    assert (posted.status_code, posted.json()) == (201, order)


async def test_a_form_is_read(served: Served) -> None:
    answer = await served.http.post(f"{served.prefix}/form", data={"name": "Änn", "tag": ["a", "b"]})
    assert answer.json() == {"name": "Änn", "tags": ["a", "b"]}


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_an_uploaded_file_is_read(served: Served, size: int) -> None:
    files = {"file": ("menu.txt", b"x" * (size - 3) + b"end", "text/plain")}
    answer = await served.http.post(f"{served.prefix}/upload", files=files)
    assert answer.json() == {"name": "menu.txt", "size": size, "end": "end"}


async def test_cookies_are_set_and_come_back(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_S) as client:
        first = await client.get("/cookies")
        assert first.json() == {}
        assert len(first.headers.get_list("set-cookie")) == 2
        assert (await client.get("/cookies")).json() == {"visit": "first", "taste": "salty"}


async def test_a_redirect_stays_below_the_prefix(served: Served) -> None:
    answer = await served.http.get(f"{served.prefix}/redirect")
    assert answer.status_code in (302, 307)
    assert httpx.URL(answer.headers["location"]).path == f"{served.prefix}/json"
    followed = await served.http.get(f"{served.prefix}/redirect", follow_redirects=True)
    assert followed.json() == {"query": {}}


async def test_what_started_with_the_application_is_there(served: Served) -> None:
    needs(served, "lifespan")
    assert (await served.http.get(f"{served.prefix}/state")).json() == {"menu": "soup"}
    assert [line for line in served.diary() if line in ("started", "stopped")] == ["started"]


async def test_an_exception_is_told_in_the_log_and_not_to_the_client(served: Served) -> None:
    answer = await served.http.get(f"{served.prefix}/fail")
    assert answer.status_code == 500
    assert kitchen.SECRET not in answer.text and "Traceback" not in answer.text
    assert answer.headers["x-request-id"]
    await until(lambda: f"RuntimeError: {kitchen.SECRET}" in served.log(), "the log has it")
    assert "Traceback" in served.log()
    assert (await served.http.get(f"{served.prefix}/json")).status_code == 200


async def test_an_unknown_path_is_not_found_by_the_application(served: Served) -> None:
    answer = await served.http.get(f"{served.prefix}/nowhere")
    assert answer.status_code == 404
    assert "/-/routes" not in answer.text  # which would be our own


async def test_events_arrive_one_by_one(served: Served) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with served.http.stream("GET", f"{served.prefix}/events", headers=PLAIN) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = (line.replace(": ", ":") async for line in answer.aiter_lines() if line)
            assert "data:one" in await anext(lines)
            served.open("events")  # only now the application goes on
            assert "data:two" in [line async for line in lines]


async def test_a_file_is_served(served: Served) -> None:
    needs(served, "file")
    whole = await served.http.get(f"{served.prefix}/file", headers=PLAIN)
    assert (whole.status_code, whole.content) == (200, FILE)
    assert whole.headers["content-length"] == str(len(FILE))
    assert "file.bin" in whole.headers["content-disposition"]


async def test_a_part_of_a_file_is_served(served: Served) -> None:
    needs(served, "file", "range")
    part = await served.http.get(f"{served.prefix}/file", headers={**PLAIN, "range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, FILE[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(FILE)}"
    end = await served.http.get(f"{served.prefix}/file", headers={**PLAIN, "range": "bytes=102000-"})
    assert (end.status_code, end.content) == (206, FILE[102000:])
    beyond = await served.http.get(f"{served.prefix}/file", headers={**PLAIN, "range": "bytes=900000-"})
    assert beyond.status_code == 416


async def test_head_has_the_headers_and_no_body(served: Served) -> None:
    answer = await served.http.head(f"{served.prefix}/json")
    assert answer.status_code in (200, 405)  # not every framework derives HEAD from GET
    assert answer.content == b""
    assert (await served.http.get(f"{served.prefix}/json")).json() == {"query": {}}


async def test_a_background_task_does_not_hold_up_the_answer(served: Served) -> None:
    needs(served, "background")
    answer = await served.http.get(f"{served.prefix}/background")
    assert (answer.status_code, answer.text.strip('"')) == (200, "served")
    assert "washed up" not in served.diary()
    served.open("background")
    await until(lambda: "washed up" in served.diary(), "the task goes on after the answer")


async def test_middleware_compresses_and_allows_another_origin(served: Served) -> None:
    headers = {"origin": kitchen.SITE, "accept-encoding": "gzip"}
    answer = await served.http.get(f"{served.prefix}/large", headers=headers)
    assert answer.headers["access-control-allow-origin"] == kitchen.SITE
    assert answer.text == kitchen.LARGE
    if "gzip" not in served.framework.lacks:
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.num_bytes_downloaded < len(kitchen.LARGE) / 2
    stranger = await served.http.get(f"{served.prefix}/large", headers={"origin": "https://other.example"})
    assert stranger.headers.get("access-control-allow-origin") != "https://other.example"


async def test_a_mounted_part_answers_below_the_prefix(served: Served) -> None:
    answer = await served.http.get(f"{served.prefix}/sub/hello/ann")
    assert answer.json() == {"hello": "ann"}


async def test_the_application_sees_client_scheme_and_path(served: Served) -> None:
    seen = (await served.http.get(f"{served.prefix}/where")).json()
    assert seen == {
        "client": "127.0.0.1",
        "scheme": "http",
        "path": f"{served.prefix}/where",
        "url": f"{served.url}/json",
    }


async def test_a_route_calls_another_deployment_for_its_request(served: Served) -> None:
    if not served.framework.calls:
        pytest.skip("the framework makes no difference to this one")
    answer = await served.http.get(f"{served.prefix}/price/soup")  # sync routes wait in a thread
    assert answer.json() == {"price": 4, "for_request": answer.headers["x-request-id"]}


async def test_a_websocket_talks_text_and_binary(served: Served) -> None:
    needs(served, "websocket")
    url = served.url.replace("http:", "ws:") + "/talk"
    async with websockets.connect(url, subprotocols=["other", "chat"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "chat"
        await socket.send("héllo")
        assert await socket.recv() == "HÉLLO"
        if "binary" not in served.framework.lacks:
            await socket.send(bytes(range(200)) * 1000)
            assert await socket.recv() == (bytes(range(200)) * 1000)[::-1]
        await socket.send("bye")
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4001, "said bye")


async def test_requests_side_by_side_get_their_own_answers(served: Served) -> None:
    answers: dict[int, object] = {}

    async def ask(number: int) -> None:
        answer = await served.http.post(f"{served.prefix}/json", json={"dish": "x" * 5000, "count": number})
        answers[number] = answer.json()["count"]

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(ask, number)
    assert answers == {number: number for number in range(20)}
