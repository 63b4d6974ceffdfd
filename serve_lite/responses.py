"""Responses: the calls that handles have started, and how their results are waited for.

A call starts at once, on the loop of this process's runtime; arguments are pickled in the caller's thread
and results unpickled by whoever first asks for them.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import msgspec

from serve_lite.context import RequestContext, current_request
from serve_lite.exceptions import RayServeException, RemoteUserError, RequestCancelledError
from serve_lite.routing.router import PendingCall, Router
from serve_lite.routing.runtime import Runtime
from serve_lite.state.ids import DeploymentId
from serve_lite.wire import codec
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import ErrorHead, PythonHead

_encode = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode
_GIVE_BACK_BYTES = 32 * 1024  #: another thread tells the loop of used items in steps of this size

#: guards `done` and `waiters` of every call; held for a few instructions
_lock = threading.Lock()


class HandleCall(PendingCall):
    """One call made through a handle, on its way."""

    kind = Kind.CALL_PYTHON

    def __init__(self, runtime: Runtime, target: DeploymentId, head: PythonHead) -> None:
        self.runtime = runtime
        self.target = target
        self.head = head
        self.parent: RequestContext | None = None
        self.router: Router | None = None
        self.done = False
        self.error: BaseException | None = None
        self.cancelled = False
        self._waiters: list[Callable[[], None]] = []

    # --- starting ---

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin: now, or once responses among the arguments have their values."""
        parent = self.parent = current_request()
        if parent is not None:
            parent.children.add(self)
        if _has_responses(args, kwargs):
            self.runtime.spawn(self._start_with_values(args, kwargs))
        else:
            self._encode_and_submit(args, kwargs)

    def _encode_and_submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.envelope = _encode(self.head)
        try:
            self.buffers = codec.dumps((args, kwargs))
        except (
            Exception
        ) as error:  # boundary: users' objects; the caller hears it when it asks for the result
            self.runtime.run(self.fail, error)
            return
        self.runtime.run(self._submit)

    async def _start_with_values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            names = list(kwargs)
            values = await asyncio.gather(*(_value_of(a) for a in (*args, *kwargs.values())))
        except Exception as error:  # boundary: whatever the upstream call failed with is this call's error
            self.fail(error)
            return
        if not self.done:
            self._encode_and_submit(
                tuple(values[: len(args)]), dict(zip(names, values[len(args) :], strict=True))
            )

    def _submit(self) -> None:
        if self.done:
            return  # cancelled before it started
        self.router = self.runtime.routers.get(self.target.app_name, self.target.name)
        self.router.submit(self)

    # --- ending ---

    def on_failed(self, error: Exception) -> None:
        self.fail(error)

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.fail(_as_exception(envelope, buffers))

    def fail(self, error: BaseException) -> None:
        """End without a value."""
        if self.done:
            return
        self.error = error
        self.finish()

    def finish(self) -> None:
        """Tell those who wait."""
        with _lock:
            self.done = True
            waiters, self._waiters = self._waiters, []
        parent, self.parent = self.parent, None
        if parent is not None:
            parent.children.discard(self)
        for wake in waiters:
            wake()

    def cancel(self) -> None:
        """Give the call up; callable from any thread."""
        self.cancelled = True
        self.runtime.run(self._cancel)

    def _cancel(self) -> None:
        if self.done:
            return
        if self.router is not None:
            self.router.cancel(self)
        self.fail(RequestCancelledError(self.head.request_id))

    # --- waiting ---

    def add_waiter(self, wake: Callable[[], None]) -> bool:
        """Call `wake` once on the next change; False if there is something to take already."""
        with _lock:
            if self.is_ready():
                return False
            self._waiters.append(wake)
            return True

    def is_ready(self) -> bool:
        """Whether a consumer has something to take, be it the end."""
        return self.done

    def wake_all(self) -> None:
        """Something arrived although the call goes on."""
        with _lock:
            waiters, self._waiters = self._waiters, []
        for wake in waiters:
            wake()

    async def changed(self) -> None:
        """Return at the next change, or at once if there is something to take. Works on any loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        here = loop is self.runtime.loop
        if self.add_waiter(wake if here else lambda: _wake_on(loop, wake)):
            await future

    def block(self, timeout_s: float | None) -> bool:
        """Block this thread until the next change; False when `timeout_s` has passed first."""
        event = threading.Event()
        return not self.add_waiter(event.set) or event.wait(timeout_s)


class UnaryCall(HandleCall):
    """Keeps the one answer as received until somebody asks for the value."""

    _raw: list[memoryview] | None = None
    _value: Any = None

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._raw = buffers
        self.finish()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """A unary call gets no items."""

    def on_end(self, envelope: bytes) -> None:
        self.fail(RayServeException("the replica ended a stream where one answer was expected"))

    def value(self) -> Any:
        """Return the value, unpickled once, or raise the error."""
        if self.error is not None:
            raise self.error
        raw = self._raw
        if raw is not None:
            self._value = codec.loads(raw)
            self._raw = None
        return self._value


class StreamCall(HandleCall):
    """Keeps received items until they are taken; the callee is slowed when they are not."""

    def __init__(self, runtime: Runtime, target: DeploymentId, head: PythonHead) -> None:
        super().__init__(runtime, target, head)
        self.items: deque[list[memoryview]] = deque()
        self._unreturned = 0

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.items.append(buffers)
        self.wake_all()

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.fail(RayServeException("the replica answered once where a stream was expected"))

    def on_end(self, envelope: bytes) -> None:
        self.finish()

    def is_ready(self) -> bool:
        return self.done or bool(self.items)

    def take(self) -> Any:
        """Return the next item; call only if there is one."""
        buffers = self.items.popleft()
        size = sum(b.nbytes for b in buffers)
        if self.runtime.on_loop:
            self._give_back(size)
        else:
            self._unreturned += size
            if self._unreturned >= _GIVE_BACK_BYTES or not self.items:
                self.runtime.run(self._give_back, self._unreturned)
                self._unreturned = 0
        return codec.loads(buffers)

    def _give_back(self, size: int) -> None:
        if self.outgoing is not None:
            self.outgoing.consumed(size)


class DeploymentResponse:
    """The future result of a call. Await it, or call `result()` from synchronous code; as often as wanted.

    It may be passed as a top-level argument to another `remote()` call, which then gets its value.
    """

    __slots__ = ("__weakref__", "_call")

    def __init__(self, call: UnaryCall) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        """The id under which this request appears in logs."""
        return self._call.head.request_id

    def __await__(self) -> Generator[Any, None, Any]:
        call = self._call
        while not call.done:
            yield from call.changed().__await__()
        return call.value()

    def result(self, timeout_s: float | None = None, *, _skip_asyncio_check: bool = False) -> Any:
        """Block until there is a result and return it; raises what the call failed with.

        Args:
            timeout_s: seconds to wait; None waits without end, 0 only looks. The request is not cancelled
                when the time is over, and `result` may be called again.

        Raises:
            TimeoutError: no result yet.
            RuntimeError: called where an event loop runs, which it would block.
        """
        call = self._call
        if not _skip_asyncio_check and _loop_is_running():
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
            )
        if not call.done and not call.block(timeout_s):
            raise TimeoutError(f"Request {self.request_id} has no result after {timeout_s} s.")
        return call.value()

    def cancel(self) -> None:
        """Ask that the work be stopped. What was awaited raises RequestCancelledError."""
        self._call.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._call.cancelled

    def __reduce__(self) -> Any:
        raise RayServeException(
            "A `DeploymentResponse` can only be passed as a top-level argument of a handle call, not inside "
            "another object. Pass it directly, or await it first."
        )

    def __repr__(self) -> str:
        state = "done" if self._call.done else "pending"
        return f"DeploymentResponse({self._call.target.name}.{self._call.head.method}, {state})"


class DeploymentResponseGenerator:
    """The items of a streaming call, as they are produced. One consumer, one pass.

    Iterate with `async for`, or with `for` from synchronous code. Dropping it cancels the call.
    """

    __slots__ = ("__weakref__", "_call", "_finalizer")

    def __init__(self, call: StreamCall) -> None:
        self._call = call
        self._finalizer = weakref.finalize(self, _abandon, call)
        self._finalizer.atexit = False

    @property
    def request_id(self) -> str:
        """The id under which this request appears in logs."""
        return self._call.head.request_id

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        while not call.items:
            if call.done:
                if call.error is not None:
                    raise call.error
                raise StopAsyncIteration
            await call.changed()
        return call.take()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        call = self._call
        if _loop_is_running():
            raise RuntimeError(
                "Sync iteration should not be used from within an `asyncio` event loop. Use `async for` instead."
            )
        while not call.items:
            if call.done:
                if call.error is not None:
                    raise call.error
                raise StopIteration
            call.block(None)  # ends with an item or the end of the call
        return call.take()

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError("`DeploymentResponseGenerator` cannot be awaited. Use `async for item in response`.")

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """Streams have no single result: always raises TypeError."""
        raise TypeError("`DeploymentResponseGenerator` has no `result()`. Iterate over it instead.")

    async def aclose(self) -> None:
        """Stop the producer if it has not ended."""
        _abandon(self._call)

    def cancel(self) -> None:
        """Stop the producer."""
        self._call.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._call.cancelled

    def __reduce__(self) -> Any:
        raise RayServeException("Streaming deployment handle results cannot be passed to another call.")


def _has_responses(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    kinds = (DeploymentResponse, DeploymentResponseGenerator)
    return any(isinstance(a, kinds) for a in args) or any(isinstance(a, kinds) for a in kwargs.values())


async def _value_of(argument: Any) -> Any:
    if isinstance(argument, DeploymentResponseGenerator):
        raise RuntimeError(
            "Streaming deployment handle results cannot be passed to another call; iterate over them."
        )
    return await argument if isinstance(argument, DeploymentResponse) else argument


def _as_exception(envelope: bytes, buffers: list[memoryview]) -> BaseException:
    """Return the user's own exception with the remote traceback as a note, or one that stands for it."""
    head = _decode_error(envelope)
    error: BaseException | None = None
    if buffers:
        try:
            error = codec.loads(buffers)
        except Exception:  # boundary: the class may not be importable or constructible here
            error = None
    if not isinstance(error, BaseException):
        error = RemoteUserError(head.type_name, head.text, head.traceback)
    if head.traceback:
        error.add_note("\nThe above was raised in a replica:\n" + head.traceback)
    return error


def _abandon(call: StreamCall) -> None:
    if not call.done:
        call.cancel()


def _loop_is_running() -> bool:
    return asyncio._get_running_loop() is not None


def _wake_on(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)
