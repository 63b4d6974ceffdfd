"""Clients of every kind that ask without a pause, and a book of what became of each request."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import httpx
import websockets

import serve_lite as serve
from serve_lite.exceptions import ReplicaDiedError
from serve_lite.handle import DeploymentHandle
from tests.chaos.storm_app import STREAMED
from tests.instances import DEADLINE_S, Instance, until

#: Close code of a WebSocket whose replica stops in order: no failure, its client connects again.
SERVICE_RESTART = 1012

#: What may become of a request, by what was going on while it was open. Nothing else may.
PERMITTED = {
    "replica": {"answered 500", "stream cut", "socket closed", "ReplicaDiedError"},
    "daemon": {"connection broken", "stream cut", "socket closed"},
    "keeper": {
        "answered 503", "connection broken", "connection refused", "socket closed", "stream cut", "answered 500",
    },
}  # fmt: skip


class WrongAnswer(Exception):
    """An answer that is not what was asked for: never permitted."""


@dataclass(frozen=True)
class Trouble:
    """Something that was done to a process, from before it was done until the process was gone."""

    whose: str  #: a key of `PERMITTED`
    began: float
    ended: float


@dataclass(frozen=True)
class Failure:
    """A request without its answer."""

    client: str
    cause: str
    began: float
    ended: float
    detail: str

    def is_permitted(self, troubles: list[Trouble]) -> bool:
        return bool(self.excuse(troubles))

    def excuse(self, troubles: list[Trouble]) -> str:
        """Return whose trouble explains it; "" for none."""
        for trouble in troubles:
            is_meanwhile = self.began <= trouble.ended and trouble.began <= self.ended
            if is_meanwhile and self.cause in PERMITTED[trouble.whose]:
                return trouble.whose
        return ""


@dataclass
class Book:
    """What became of all requests."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def not_permitted(self) -> list[Failure]:
        return [failure for failure in self.failures if not failure.is_permitted(self.troubles)]

    def table(self) -> str:
        """Return what became of the requests of each kind of client, and why."""
        lines = [f"{'client':<12}{'answered':>10}  failed"]
        for client in sorted(self.answered):
            causes = Counter(
                f"{f.cause} ({f.excuse(self.troubles) or 'NOT PERMITTED'})"
                for f in self.failures
                if f.client == client
            )
            told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common()) or "-"
            lines.append(f"{client:<12}{self.answered[client]:>10}  {told}")
        kinds = Counter(trouble.whose for trouble in self.troubles)
        lines.append("killed: " + ", ".join(f"{kind} {count} times" for kind, count in sorted(kinds.items())))
        return "\n".join(lines)


class Crowd:
    """The clients.

    Lifetime: `async with Crowd(instance).asking() as crowd:` they ask until the block is left, and each request that
    is open then is still answered.
    """

    def __init__(self, instance: Instance, *, with_handles: bool = True) -> None:
        self.book = Book()
        self._instance, self._with_handles = instance, with_handles
        self._url = instance.http_url
        self._is_over = False
        self._numbers = itertools.count()
        self._http = httpx.AsyncClient(base_url=self._url, timeout=DEADLINE_S)
        self._to_worker: DeploymentHandle
        self._clients: dict[str, list[Callable[[int], Awaitable[None]]]] = {
            "plain": [self._plain] * 3,
            "connects": [self._connects],
            "stream": [self._stream],
            "uploads": [self._uploads],
            "through": [self._through],
            "talks": [self._talks],
            "leaves": [self._leaves, self._leaves_stream],
        }
        if with_handles:
            self._clients["handle"] = [self._handle] * 2

    @asynccontextmanager
    async def asking(self) -> Any:
        if "handle" in self._clients:
            self._to_worker = await anyio.to_thread.run_sync(
                lambda: serve.get_deployment_handle("Worker", "storm")
            )
        async with self._http, anyio.create_task_group() as group:
            for name, clients in self._clients.items():
                for client in clients:
                    group.start_soon(self._ask_on, name, client)
            try:
                yield self
            finally:
                self._is_over = True

    def again(self) -> Crowd:
        """Return as many new clients with an empty book."""
        return Crowd(self._instance, with_handles=self._with_handles)

    async def progress(self, more: int = 3) -> None:
        """Return when each kind of client has been answered so many times more."""
        before = Counter(self.book.answered)
        await until(
            lambda: all(self.book.answered[name] >= before[name] + more for name in self._clients),
            "every kind of client is answered again",
        )

    async def _ask_on(self, name: str, client: Callable[[int], Awaitable[None]]) -> None:
        while not self._is_over:
            began = time.monotonic()
            try:
                await client(next(self._numbers))
            except (
                httpx.HTTPError,
                websockets.WebSocketException,
                OSError,
                ReplicaDiedError,
                WrongAnswer,
            ) as error:
                failure = Failure(name, _cause(error), began, time.monotonic(), repr(error))
                self.book.failures.append(failure)
            else:
                self.book.answered[name] += 1
            await anyio.sleep(0.005)  # the instance needs the processor too

    # --- the kinds of clients: each returns when it has got what it wanted ---

    async def _plain(self, n: int) -> None:
        _check(await self._http.get("/", params={"n": n}), n)

    async def _connects(self, n: int) -> None:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            _check(await http.get(self._url, params={"n": n}), n)

    async def _stream(self, n: int) -> None:
        text, is_begun = "", False
        try:
            async with self._http.stream("GET", "/stream", params={"n": n}) as answer:
                answer.raise_for_status()
                is_begun = True
                async for part in answer.aiter_text():
                    text += part
        except httpx.TransportError as error:
            raise StreamCutError(repr(error)) if is_begun else error from None
        if text.split() != [str(n + i) for i in range(STREAMED)]:
            raise WrongAnswer(text)

    async def _uploads(self, n: int) -> None:
        """Send a body piece by piece and get one answer."""
        _check(await self._http.post("/last", content=_numbers(n)), n + STREAMED - 1)

    async def _through(self, n: int) -> None:
        """Send a body piece by piece and get an answer that is made of it as it comes.

        What is cut then is the answer, although httpx reads it only when all of the body has gone.
        """
        text, sent = "", 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            async for number in _numbers(n):
                yield number
                sent += 1

        try:
            async with self._http.stream("POST", "/add", content=body()) as answer:
                answer.raise_for_status()
                async for part in answer.aiter_text():
                    text += part
        except httpx.TransportError as error:
            raise StreamCutError(repr(error)) if sent else error from None
        if text.split() != [str(n + i + 1) for i in range(STREAMED)]:
            raise WrongAnswer(text)

    async def _talks(self, n: int) -> None:
        async with websockets.connect(
            f"{self._url.replace('http', 'ws')}/talk", open_timeout=DEADLINE_S, ping_interval=None
        ) as socket:
            for i in range(5):
                try:
                    await socket.send(str(n + i))
                    said = await socket.recv()
                except websockets.ConnectionClosed as closed:
                    if closed.rcvd is not None and closed.rcvd.code == SERVICE_RESTART:
                        return  # its replica stops in order, and says so: connect again
                    raise
                if said != str(n + i + 1):
                    raise WrongAnswer(said)

    async def _leaves(self, n: int) -> None:
        """Ask and be gone before the answer."""
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(self._url).port)
        writer.write(f"GET /?n={n} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async def _leaves_stream(self, n: int) -> None:
        """Be gone in the middle of a stream."""
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            async with http.stream("GET", f"{self._url}/stream", params={"n": n}) as answer:
                answer.raise_for_status()
                async for _ in answer.aiter_text():
                    return

    async def _handle(self, n: int) -> None:
        if (said := await self._to_worker.work.remote(n)) != n + 1:
            raise WrongAnswer(str(said))


async def _numbers(n: int) -> AsyncIterator[bytes]:
    for i in range(STREAMED):
        yield b"%d\n" % (n + i)
        await anyio.sleep(0.01)


class StreamCutError(httpx.TransportError):
    """A stream ended after its beginning and before its end."""


def _check(answer: httpx.Response, n: int) -> None:
    answer.raise_for_status()
    if answer.json() != n + 1:
        raise WrongAnswer(answer.text)


def _cause(error: Exception) -> str:
    match error:
        case httpx.HTTPStatusError():
            return f"answered {error.response.status_code}"
        case StreamCutError():
            return "stream cut"
        case httpx.ConnectError() | ConnectionRefusedError():
            return "connection refused"
        case httpx.ReadError() | httpx.WriteError() | httpx.RemoteProtocolError() | ConnectionError():
            return "connection broken"
        case websockets.InvalidStatus():
            return f"answered {error.response.status_code}"
        case websockets.ConnectionClosed() | websockets.InvalidMessage():
            return "socket closed"
    return type(error).__name__
