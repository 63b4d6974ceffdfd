"""Who is let in to an application that needs API keys or has rates, at the real HTTP door with both fronts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from serve_lite.proxy.guard import Buckets, Doorkeeper, site_of, take_shown
from serve_lite.proxy.key_file import KeyFile, add_key
from serve_lite.proxy.keys import new_key
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.messages import RouteTarget
from tests.proxy.door import Client, Door, open_door
from tests.proxy.test_websocket import accept

Opens = Callable[..., AbstractAsyncContextManager[tuple[Door, "Keys"]]]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Keys:
    """A file of keys, and clocks that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.file = KeyFile(str(folder / "api-keys"))
        self.clock, self.calendar = Clock(), Clock()

    def keeper(self, *, requires_key: bool = False) -> Doorkeeper:
        return Doorkeeper(self.file, requires_key=requires_key, clock=self.clock, calendar=self.calendar)

    def add(self, name: str, **more: object) -> str:
        """Return a new key."""
        key, shown = new_key(name, **more)  # type: ignore[arg-type]
        add_key(self.file.path, key)
        self.file.load()
        return shown


@pytest.fixture(params=["native", "hypercorn"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opens:
    """Open a door with applications `main` at `/`, open to all, and `shop` at `/shop`, which needs keys."""

    @asynccontextmanager
    async def opened(*, everything: bool = False, **shop: object) -> AsyncIterator[tuple[Door, Keys]]:
        keys = Keys(tmp_path)
        routes = (
            RouteTarget(prefix="/", app="main", deployment="D"),
            RouteTarget(
                prefix="/shop",
                app="shop",
                deployment="D",
                is_asgi=True,
                **{"requires_key": True, **shop},  # type: ignore[arg-type]
            ),
        )
        keeper = keys.keeper(requires_key=everything)
        async with open_door(ProxyOptions(server=request.param), routes=routes, keeper=keeper) as door:
            yield door, keys

    return opened


@asynccontextmanager
async def client_of(door: Door) -> AsyncIterator[Client]:
    client = await door.connect()
    yield client
    await client.close()


async def test_without_a_key_nothing_reaches_the_application(opens: Opens) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        keys.add("alice")
        answer = await client.get("/shop/echo", "X-Request-Id: r1")
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="serve"'
        assert answer.headers["x-request-id"] == "r1"
        assert b"needs an API key" in answer.body and b"(request r1)" in answer.body
        for wrong in ("sl_000000000000_" + "a" * 43, "nonsense", "Bearer", ""):
            answer = await client.get("/shop/echo", f"Authorization: Bearer {wrong}")
            assert answer.status == 401
            if wrong:
                assert "invalid_token" in answer.headers["www-authenticate"]
        assert door.stage.calls == []
        assert (await client.get("/echo")).status == 200, "another application needs none"
        assert door.statuses() == {401: 5, 200: 1}


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "authorization: bearer {}", "X-API-Key: {}"])
async def test_a_key_opens_the_door_and_the_application_sees_its_name_only(opens: Opens, header: str) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        shown = keys.add("alice")
        answer = await client.get(
            "/shop/echo?q=1",
            header.format(shown),
            "X-Serve-Api-Key-Name: admin",
            "x_serve_api_key_name: admin",
        )
        assert answer.status == 200
        seen = answer.json()["headers"]
        assert [value for name, value in seen if "key" in name] == ["alice"]
        assert ["x-serve-api-key-name", "alice"] in seen
        assert shown not in str(seen)
        assert not [name for name, _ in seen if name == "authorization"]


async def test_an_application_may_have_an_authorization_of_its_own(opens: Opens) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        shown, other = keys.add("alice"), keys.add("bob")
        answer = await client.get("/shop/echo", f"X-API-Key: {shown}", "Authorization: Bearer its.own.token")
        assert ["authorization", "Bearer its.own.token"] in answer.json()["headers"]
        answer = await client.get("/shop/echo", f"X-API-Key: {shown}", f"Authorization: Bearer {other}")
        assert other not in str(answer.json()["headers"]), "a key is never passed on"


async def test_two_keys_are_none(opens: Opens) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        shown = keys.add("alice")
        assert (await client.get("/shop/echo", f"X-API-Key: {shown}", f"X-API-Key: {shown}")).status == 401


async def test_a_key_opens_what_it_is_for(opens: Opens) -> None:
    async with opens(everything=True) as (door, keys), client_of(door) as client:
        door.stage.apps |= {b"/shop/a/b": door.stage.apps[b"/hello"], b"/a": door.stage.apps[b"/hello"]}
        shop, below = keys.add("shop-only", apps=("shop",)), keys.add("below", routes=("/shop/a", "/a"))

        async def status(path: str, key: str) -> int:
            return (await client.get(path, f"X-API-Key: {key}")).status

        assert [await status(path, shop) for path in ("/shop/a/b", "/a")] == [200, 403]
        assert [await status(path, below) for path in ("/shop/a/b", "/a", "/hello")] == [200, 200, 403]
        for path in ("/shop/a/../echo", "/shop/a/%2e%2e/echo", "/shop/a%2f..%2fecho", "/shop/a//b"):
            assert await status(path, below) == 403, path
        refused = await client.get("/hello", f"X-API-Key: {below}")
        assert b"'below' is not for this path" in refused.body


async def test_a_key_ends_when_it_says_so_and_when_it_is_removed(opens: Opens) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        shown = keys.add("alice", expires="2030-01-01T00:00:00Z")
        keys.calendar.now = 1893455999.0  # a second before
        assert (await client.get("/shop/echo", f"X-API-Key: {shown}")).status == 200
        keys.calendar.now += 1
        answer = await client.get("/shop/echo", f"X-API-Key: {shown}")
        assert (answer.status, b"has expired" in answer.body) == (401, True)
        other = keys.add("bob")
        assert (await client.get("/shop/echo", f"X-API-Key: {other}")).status == 200
        Path(keys.file.path).write_text("")
        keys.file.load()
        assert (await client.get("/shop/echo", f"X-API-Key: {other}")).status == 401


async def test_builtins_need_no_key(opens: Opens) -> None:
    async with opens(everything=True) as (door, _), client_of(door) as client:
        assert (await client.get("/-/healthz")).status == 200
        assert (await client.get("/-/routes")).status == 200
        assert (await client.get("/hello")).status == 401


async def test_an_application_may_be_open_where_others_need_keys(opens: Opens) -> None:
    async with opens(everything=True, requires_key=False) as (door, _), client_of(door) as client:
        assert (await client.get("/shop/echo")).status == 200
        assert (await client.get("/echo")).status == 401


async def test_a_refused_upload_is_not_read_on(opens: Opens) -> None:
    async with opens() as (door, _), client_of(door) as client:
        answer = await client.ask(
            b"POST /shop/echo HTTP/1.1\r\nHost: door\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1000,
            "POST",
        )
        assert answer.status == 401
        assert await client.is_closed()
        assert door.stage.calls == []


async def test_browsers_may_ask_whether_they_may_ask(opens: Opens) -> None:
    async with opens() as (door, _), client_of(door) as client:
        asks = ("Origin: http://page", "Access-Control-Request-Method: GET")
        assert (await client.get("/shop/echo", *asks, method="OPTIONS")).status == 200
        assert (await client.get("/shop/echo", asks[0], method="OPTIONS")).status == 401
        assert (await client.get("/shop/echo", *asks)).status == 401
        assert (await client.get("/shop/echo", *asks, "X-API-Key: no", method="OPTIONS")).status == 401
        told = (await client.get("/shop/echo", *asks, "X-Serve-Api-Key-Name: admin", method="OPTIONS")).json()
        assert "admin" not in str(told)


async def test_http_2_needs_a_key_too(opens: Opens) -> None:
    async with opens() as (door, keys):
        shown = keys.add("alice")
        async with httpx.AsyncClient(http1=False, http2=True, base_url=door.url, timeout=20) as client:
            refused = await client.get("/shop/echo")
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="serve"')
            answer = await client.get("/shop/echo", headers={"authorization": f"Bearer {shown}"})
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            assert shown not in answer.text and "alice" in answer.text


async def test_a_websocket_needs_a_key_too(opens: Opens) -> None:
    async with opens() as (door, keys):
        shown = keys.add("alice")
        door.stage.apps[b"/shop/ws"] = accept
        url = f"ws://{door.host}:{door.port}/shop/ws"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["www-authenticate"] == 'Bearer realm="serve"'
        async with connect(url, additional_headers={"X-API-Key": shown}):
            call = await door.stage.call()
            assert call.header(b"x-serve-api-key-name") == [b"alice"]
            assert call.header(b"x-api-key") == []


# --- rates ----------------------------------------------------------------------------------------


async def test_a_key_may_ask_as_often_as_its_rate_says(opens: Opens) -> None:
    async with opens() as (door, keys), client_of(door) as client:
        slow, fast = keys.add("slow", rate="1/s burst 2"), keys.add("fast")

        async def ask(key: str) -> int:
            return (await client.get("/shop/echo", f"X-API-Key: {key}")).status

        assert [await ask(slow) for _ in range(3)] == [200, 200, 429]
        assert await ask(fast) == 200
        answer = await client.get("/shop/echo", f"X-API-Key: {slow}")
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert b"Too many requests for the API key 'slow'" in answer.body
        keys.clock.now += 1
        assert [await ask(slow) for _ in range(2)] == [200, 429]


async def test_an_application_and_each_client_may_have_a_rate_without_keys(opens: Opens) -> None:
    more = {"requires_key": None, "rate": "1/min burst 3", "client_rate": "1/min burst 2"}
    async with opens(**more) as (door, _), client_of(door) as client:
        answers = [await client.get("/shop/echo") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert b"for a client" in answers[-1].body
        assert int(answers[-1].headers["retry-after"]) == 60
        door.handler.forwarding.__init__(["127.0.0.1"])  # type: ignore[misc]
        async with client_of(door) as proxied:  # another client, by its word
            statuses = [
                (await proxied.get("/shop/echo", "X-Forwarded-For: 9.9.9.9")).status for _ in range(2)
            ]
        assert statuses == [200, 429], "the third of the application's three, then none is left"
        assert (await client.get("/echo")).status == 200


async def test_a_refused_request_uses_nothing_of_other_rates(opens: Opens) -> None:
    async with opens(rate="1/h burst 2") as (door, keys), client_of(door) as client:
        slow, fast = keys.add("slow", rate="1/h burst 1"), keys.add("fast")
        statuses = [
            (await client.get("/shop/echo", f"X-API-Key: {key}")).status for key in (slow, slow, slow, fast)
        ]
        assert statuses == [200, 429, 429, 200]


async def test_each_key_is_a_client_where_it_has_no_rate_of_its_own(opens: Opens) -> None:
    async with opens(client_rate="1/h burst 1") as (door, keys), client_of(door) as client:
        a, b, own = keys.add("a"), keys.add("b"), keys.add("own", rate="1/h burst 3")
        statuses = [
            (await client.get("/shop/echo", f"X-API-Key: {key}")).status
            for key in (a, a, b, own, own, own, own)
        ]
        assert statuses == [200, 429, 200, 200, 200, 200, 429]


async def test_new_routes_do_not_fill_the_buckets(opens: Opens) -> None:
    async with opens(requires_key=False, rate="1/h burst 1") as (door, _), client_of(door) as client:
        assert (await client.get("/shop/echo")).status == 200
        shop = RouteTarget(prefix="/shop", app="shop", deployment="D", requires_key=False, rate="1/h burst 1")
        door.handler.set_routes((shop, RouteTarget(prefix="/b", app="b", deployment="D")))
        assert (await client.get("/shop/echo")).status == 429


def test_what_is_open_has_no_guard() -> None:
    """So its requests pay one look at an attribute and nothing else."""
    assert Doorkeeper().guard_of(RouteTarget(prefix="/", app="a", deployment="D")) is None


def test_clients_of_one_ipv6_site_are_one() -> None:
    assert site_of("2001:db8::1") == site_of("2001:db8::2:3") == "2001:db8::/64"
    assert site_of("2001:db8:0:1::1") != site_of("2001:db8::1")
    assert site_of("::ffff:10.0.0.1") == site_of("10.0.0.1") == "10.0.0.1"
    assert site_of("fe80::1%eth0") == "fe80::/64"
    assert site_of("") == ""


def test_buckets_are_bounded_and_the_fullest_go_first() -> None:
    buckets = Buckets(most=100)
    for n in range(10_000):
        buckets.put(f"c{n}", 1000.0 + n, now=0.0)
        assert len(buckets) <= 100
    assert buckets.full_at("c9999") == 10_999.0
    assert buckets.full_at("c0") == 0.0
    for n in range(100):
        buckets.put(f"d{n}", 1.0, now=0.0)  # soon full again
    for n in range(100):
        buckets.put(f"e{n}", 20_000.0, now=2.0)
    assert [buckets.full_at(f"d{n}") for n in range(100)] == [0.0] * 100, "a full bucket is as good as none"
    assert buckets.full_at("e99") == 20_000.0


def test_only_what_shows_the_key_is_taken_out() -> None:
    basic = [(b"authorization", b"Basic abc"), (b"accept", b"*/*")]
    assert take_shown([*basic, (b"x-api-key", b"K")]) == (b"K", basic)
    assert take_shown(basic) == (b"", [(b"accept", b"*/*")])
