"""`serve upgrade` under load of every kind: HTTP/2, WebSockets, bodies that are streamed up, down and through.

Each client asks again and again; not one request may fail, and the old daemon ends although they never pause. How gRPC
fares is in `tests/grpc/test_upgrade.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from tests.instances import DEADLINE_S, Instance, Instances, is_running, until
from tests.processes.polite_h2 import PoliteClient
from tests.processes.test_upgrade import Load, deploy, upgrade

SERVICE_RESTART = 1012
PIECES = [b"%d" % (i % 10) * 1000 for i in range(12)]

Ask = Callable[[], Awaitable[object]]


class Clients:
    """Makes clients, each of which keeps the connections that it has."""

    def __init__(self, instance: Instance, stack: AsyncExitStack) -> None:
        self._url, self._stack = instance.http_url, stack

    async def http(self, *, http2: bool = False) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self._url, timeout=DEADLINE_S, http1=not http2, http2=http2)
        return await self._stack.enter_async_context(client)

    async def h2_one_by_one(self) -> list[Ask]:
        client = await self.http(http2=True)

        async def ask() -> None:
            answer = await client.get("/pid")
            answer.raise_for_status()
            assert answer.http_version == "HTTP/2"

        return [ask]

    async def h2_many(self) -> list[Ask]:
        """Many requests at a time on one connection."""
        url = httpx.URL(self._url)
        assert url.port is not None
        client = PoliteClient(url.host, url.port)
        self._stack.push_async_callback(client.close)

        async def stream() -> None:
            assert (await client.get("/count?to=10")).split() == [b"%d" % i for i in range(10)]

        return [lambda: client.get("/pid")] * 6 + [stream] * 2

    async def websocket(self) -> list[Ask]:
        async def talk() -> None:
            async with connect_websocket(f"ws{self._url.removeprefix('http')}/echo") as socket:
                for _ in range(20):
                    try:
                        await socket.send("where")
                        assert int(await socket.recv())
                    except ConnectionClosed as closed:
                        if closed.rcvd is not None and closed.rcvd.code == SERVICE_RESTART:
                            return  # it is told to come again
                        raise

        return [talk]

    async def long_websocket(self) -> list[Ask]:
        """One that goes on until it is told to come again."""

        async def talk() -> None:
            async with connect_websocket(f"ws{self._url.removeprefix('http')}/echo") as socket:
                try:
                    while True:
                        await socket.send("where")
                        assert int(await socket.recv())
                        await anyio.sleep(0.01)
                except ConnectionClosed as closed:
                    if closed.rcvd is None or closed.rcvd.code != SERVICE_RESTART:
                        raise

        return [talk]

    async def down(self) -> list[Ask]:
        client = await self.http()

        async def ask() -> None:
            text = (await client.get("/count", params={"to": 20})).raise_for_status().text
            assert text.split() == [str(i) for i in range(20)]

        return [ask] * 2

    async def up(self) -> list[Ask]:
        client = await self.http()

        async def ask() -> None:
            answer = (await client.post("/total", content=_pieces())).raise_for_status()
            assert answer.json() == sum(map(len, PIECES))

        return [ask] * 2

    async def through(self) -> list[Ask]:
        client, h2 = await self.http(), await self.http(http2=True)

        def ask(client: httpx.AsyncClient) -> Ask:
            async def once() -> None:
                answer = (await client.post("/through", content=_pieces())).raise_for_status()
                assert answer.content == b"".join(PIECES)

            return once

        return [ask(client), ask(h2)]


async def _pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece
        await anyio.sleep(0.005)


KINDS = ["h2_one_by_one", "h2_many", "websocket", "down", "up", "through"]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_request_fails_and_the_old_daemon_ends(kind: str, daemon: Instance, tmp_path: Path) -> None:
    await upgraded_twice(kind, daemon, tmp_path)


@pytest.mark.parametrize("kind", ["h2_one_by_one", "h2_many", "websocket"])
async def test_the_same_with_a_proxy_of_its_own(kind: str, instances: Instances, tmp_path: Path) -> None:
    await upgraded_twice(kind, await instances.start(instances.options(proxy_processes=1)), tmp_path)


async def upgraded_twice(kind: str, daemon: Instance, tmp_path: Path) -> None:
    """Upgrade an instance twice while it is asked."""
    await deploy(daemon, tmp_path)
    replicas, load = daemon.pids("replica"), Load()
    async with AsyncExitStack() as stack, asyncio.timeout(4 * DEADLINE_S):
        asks: list[Ask] = await getattr(Clients(daemon, stack), kind)()
        async with anyio.create_task_group() as group:
            for ask in asks:
                group.start_soon(load.repeat, kind, ask)
            await until(lambda: load.answered or load.failed, "requests are answered")
            for _ in range(2):
                old = daemon.pids("daemon") | daemon.pids("proxy")
                assert (await upgrade(daemon, "--grace-period", "4")).code == 0
                await load.more(5)
                await until(lambda old=old: not any(map(is_running, old)) or load.failed, "the old ones end")  # type: ignore[misc]
                await load.more(5)
            load.is_over = True
    assert not load.failed, load.failed
    assert daemon.pids("replica") == replicas


async def test_a_websocket_that_goes_on_is_told_to_come_again(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path)
    load, old = Load(), await daemon.daemon_pid()
    async with AsyncExitStack() as stack, asyncio.timeout(4 * DEADLINE_S):
        (talk,) = await Clients(daemon, stack).long_websocket()
        async with anyio.create_task_group() as group:
            group.start_soon(load.repeat, "talk", talk)
            for told in (1, 2):
                assert (await upgrade(daemon, "--grace-period", "1")).code == 0
                await until(lambda told=told: load.answered["talk"] >= told or load.failed, "it is told")  # type: ignore[misc]
                await until(lambda: not is_running(old), "the old daemon ends")
            load.is_over = True
            assert (await upgrade(daemon, "--grace-period", "0")).code == 0  # which ends the last one
    assert not load.failed, load.failed
