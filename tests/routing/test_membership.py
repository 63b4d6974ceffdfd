"""How a process hears who serves a deployment, over a real control socket whose daemon comes and goes."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.routing.membership import RemoteMembership
from serve_lite.wire.control import ControlMethods, ItemSink
from serve_lite.wire.listener import listen
from serve_lite.wire.messages import Membership, MemberState, ReplicaEndpoint, WatchRequest

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


def served_by(*names: str) -> Membership:
    endpoints = tuple(ReplicaEndpoint(replica_id=n, socket=f"/tmp/{n}") for n in names)
    return Membership(app="a", deployment="d", state=MemberState.AVAILABLE, replicas=endpoints)


class ControlSocket:
    """A control socket as the keeper holds it; daemons serve it one after another."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(16)
        self.changes: list[Membership] = []
        self.changed = anyio.Event()

    def publish(self, membership: Membership) -> None:
        self.changes.append(membership)
        self.changed.set()
        self.changed = anyio.Event()

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            methods = ControlMethods(group)
            methods.stream("watch", WatchRequest, self._watch)
            listener = await listen(self.socket.dup(), methods.handle_call)
            try:
                yield
            finally:
                await listener.aclose()
                group.cancel_scope.cancel()

    async def _watch(self, request: WatchRequest, sink: ItemSink) -> None:
        sent = max(0, len(self.changes) - 1)
        while True:
            while sent < len(self.changes):
                await sink.send(self.changes[sent])
                sent += 1
            await self.changed.wait()


@pytest.fixture
async def place() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="sl-", dir="/tmp") as directory:
        yield os.path.join(directory, "control.sock")


@pytest.fixture
def control(place: str) -> Iterator[ControlSocket]:
    control = ControlSocket(place)
    yield control
    control.socket.close()


@pytest.fixture
async def source(place: str, control: ControlSocket) -> AsyncIterator[RemoteMembership]:
    link = DaemonLink(place)
    source = RemoteMembership(link)
    running = asyncio.ensure_future(link.run())
    yield source
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def hear(queue: asyncio.Queue[Membership]) -> Membership:
    return await asyncio.wait_for(queue.get(), DEADLINE_S)


async def test_watchers_hear_what_is_and_every_change_across_daemons(
    control: ControlSocket, source: RemoteMembership
) -> None:
    heard: asyncio.Queue[Membership] = asyncio.Queue()
    control.publish(served_by("one"))
    async with control.daemon():
        unwatch = source.watch("a", "d", heard.put_nowait)
        assert await hear(heard) == served_by("one")
        control.publish(served_by("one", "two"))
        assert await hear(heard) == served_by("one", "two")
    # no daemon now: connections wait in the socket, and what was heard stays true
    late: asyncio.Queue[Membership] = asyncio.Queue()
    source.watch("a", "d", late.put_nowait)
    assert late.get_nowait() == served_by("one", "two")
    control.changes[:] = [served_by("three")]
    async with control.daemon():
        assert await hear(heard) == served_by("three")
        assert await hear(late) == served_by("three")
        unwatch()
        control.publish(served_by("four"))
        assert await hear(late) == served_by("four")
        assert heard.empty()


async def test_when_the_instance_is_gone_nothing_serves_any_more(
    place: str, control: ControlSocket, source: RemoteMembership
) -> None:
    heard: asyncio.Queue[Membership] = asyncio.Queue()
    control.publish(served_by("one"))
    async with control.daemon():
        source.watch("a", "d", heard.put_nowait)
        assert await hear(heard) == served_by("one")
        os.unlink(place)
        control.socket.close()
    assert (await hear(heard)).state is MemberState.MISSING
