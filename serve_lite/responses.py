"""Responses: the calls that handles have started, and how their results are waited for.

A call starts at once, on the loop of this process's runtime; arguments are pickled in the caller's thread
and results unpickled by whoever first asks for them. Calls to every replica at once are in `broadcast.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from serve_lite.context import RequestContext, current_request, get_replica_context, in_replica
from serve_lite.exceptions import (
    RayServeException,
    RemoteUserError,
    RequestCancelledError,
    UnknownMethodError,
)
from serve_lite.instruments import Cell, Counter
from serve_lite.routing.router import PendingCall, Router
from serve_lite.routing.runtime import Runtime
from serve_lite.state.ids import DeploymentId
from serve_lite.wire import codec
from serve_lite.wire.calls import ITEM_OVERHEAD_BYTES
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import CallFacts, ErrorHead, PythonHead

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # its `default` is for checkers alone

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

_encode = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode
_NO_ARGUMENTS: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
_GIVE_BACK_BYTES = 32 * 1024  #: another thread tells the loop of used items in steps of this size
_NOTE = "\nThe above was raised in a replica:\n"

#: guards `done`, `waiters` and the value of every call; held for a few instructions
_lock = threading.Lock()


class RequestCounts:
    """Counts the calls that one process makes to one deployment, by the route they were made for."""

    def __init__(self, family: Counter, handle_id: str, target: DeploymentId) -> None:
        self.handle_id = handle_id
        self._family = family
        self._target = target
        self._cells: dict[str, Cell] = {}

    def add(self, route: str) -> None:
        """Count one call. Call on the loop."""
        cell = self._cells.get(route)
        if cell is None:
            target = self._target
            cell = self._family.labels(self.handle_id, target.name, route, target.app_name)
            self._cells[route] = cell
        cell.value += 1


class HandleCall(PendingCall):
    """One call made through a handle, on its way."""

    kind = Kind.CALL_PYTHON
    counts: RequestCounts | None = None
    _error_place: TracebackType | None = None
    _missing_arguments = 0

    def __init__(self, runtime: Runtime, target: DeploymentId, head: PythonHead) -> None:
        self.runtime = runtime
        self.target = target
        self.head = head
        self.model_id = head.model_id
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
            if parent.is_cancelled:  # looked at after `add`: a cancel that comes in between finds the call
                self.cancel()
                return
            if parent.deadline and time.monotonic() >= parent.deadline:
                self.runtime.run(self.fail, TimeoutError("the deadline of the request has passed"))
                return
        if _has_results(args, kwargs):
            self._await_arguments(args, kwargs)
        else:
            self._encode_and_submit(args, kwargs)

    def _encode_and_submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.envelope = _encode(self.head)
        self.arguments = (args, kwargs)
        try:
            self.buffers = codec.dumps((args, kwargs))
        except (
            Exception
        ) as error:  # boundary: users' objects; the caller hears it when it asks for the result
            self.runtime.run(self.fail, error)
            return
        self.runtime.run(self._submit)

    def _await_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start once every response among the arguments has its value; the first error among them is ours."""
        results = [a for a in (*args, *kwargs.values()) if isinstance(a, CallResult)]
        if any(isinstance(r._call, StreamCall) for r in results):
            text = "Streaming deployment handle results cannot be passed to another call; iterate over them."
            self.runtime.run(self.fail, RuntimeError(text))
            return
        self._missing_arguments = len(results)
        for result in results:
            heard = partial(self.runtime.run, self._argument_ended, result._call, args, kwargs)
            if not result._call.add_waiter(heard):
                heard()

    def _argument_ended(self, call: UnaryCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._missing_arguments -= 1
        if self.done:
            return
        if call.error is not None:
            self.fail(call.error)
        elif not self._missing_arguments:
            try:
                args = tuple(map(_value_of, args))
                kwargs = {name: _value_of(value) for name, value in kwargs.items()}
            except Exception as error:  # boundary: unpickling users' objects
                self.fail(error)
            else:
                self._encode_and_submit(args, kwargs)

    def _submit(self) -> None:
        if self.done:
            return  # cancelled before it started
        if self.counts is not None:
            self.counts.add(self.head.route)
        self.router = self.runtime.routers.get(self.target.app_name, self.target.name)
        self.router.submit(self)

    def facts(self) -> CallFacts:
        head = self.head
        return CallFacts(
            request_id=head.request_id,
            method=head.method,
            route=head.route,
            app=self.target.app_name,
            model_id=head.model_id,
            session_id=head.session_id,
            streaming=head.streaming,
        )

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
        self._error_place = error.__traceback__
        self.finish()

    def finish(self) -> None:
        """Tell those who wait."""
        with _lock:
            self.done = True
            waiters, self._waiters = self._waiters, []
        self.arguments = _NO_ARGUMENTS  # a response may be kept long after its call
        self.buffers = ()
        parent, self.parent = self.parent, None
        if parent is not None:
            parent.children.discard(self)
        for wake in waiters:
            wake()

    def raised(self) -> BaseException:
        """Return the error for one more raise, without the places where it was raised before."""
        assert self.error is not None
        return self.error.with_traceback(self._error_place)

    def cancel(self) -> None:
        """Give the call up; callable from any thread, any number of times."""
        self.cancelled = True
        if self.done:
            return
        try:
            self.runtime.run(self._cancel)
        except RuntimeError:  # the loop is closed, so the call has ended or will never be asked for
            if not self.runtime.loop.is_closed():
                raise

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

    def remove_waiter(self, wake: Callable[[], None]) -> None:
        """Do not call `wake`; nothing happens if it has been called."""
        with _lock:
            if wake in self._waiters:
                self._waiters.remove(wake)

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

        heard = wake if loop is self.runtime.loop else partial(_wake_on, loop, wake)
        if self.add_waiter(heard):
            try:
                await future
            except asyncio.CancelledError:
                self.remove_waiter(heard)
                raise

    def block(self, timeout_s: float | None) -> bool:
        """Block this thread until the next change; False when `timeout_s` has passed first.

        Raises:
            RuntimeError: called on the loop that the change would come from.
        """
        event = threading.Event()
        if not self.add_waiter(event.set):
            return True
        if self.runtime.on_loop:
            self.remove_waiter(event.set)
            raise RuntimeError("Blocking here would wait for ever: the result arrives on this very thread.")
        try:
            return event.wait(timeout_s)
        finally:
            self.remove_waiter(event.set)


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
            raise self.raised()
        raw = self._raw
        if raw is not None:
            value = codec.loads(raw)
            with _lock:  # of two threads that were here at once, both return the same object
                if self._raw is not None:
                    self._value, self._raw = value, None
        return self._value


class StreamCall(HandleCall):
    """Keeps received items until they are taken; the callee is slowed when they are not."""

    def __init__(self, runtime: Runtime, target: DeploymentId, head: PythonHead) -> None:
        super().__init__(runtime, target, head)
        self._items: deque[list[memoryview]] = deque()
        self._unreturned = 0

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._items.append(buffers)
        self.wake_all()

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.fail(RayServeException("the replica answered once where a stream was expected"))

    def on_end(self, envelope: bytes) -> None:
        self.finish()

    def is_ready(self) -> bool:
        return self.done or bool(self._items)

    def take(self) -> list[memoryview] | None:
        """Return the next item, pickled; None if none is there. Look at `done` before, not after."""
        try:
            buffers = self._items.popleft()
        except IndexError:
            return None
        size = sum(b.nbytes for b in buffers)
        if self.runtime.on_loop:
            self._give_back(size)
        else:
            self._unreturned += size + ITEM_OVERHEAD_BYTES
            if self._unreturned >= _GIVE_BACK_BYTES:
                self.runtime.run(self._give_back, self._unreturned - ITEM_OVERHEAD_BYTES)
                self._unreturned = 0
        return buffers

    def _give_back(self, size: int) -> None:
        if self.outgoing is not None:
            self.outgoing.consumed(size)

    def _cancel(self) -> None:
        if not self.done:
            self._items.clear()
        super()._cancel()


class CallResult:
    """What stands for a call at its caller."""

    __slots__ = ("__weakref__", "_call")
    _call: Any

    @property
    def request_id(self) -> str:
        """The id under which this request appears in logs."""
        request_id: str = self._call.head.request_id
        return request_id

    def cancel(self) -> None:
        """Ask that the work be stopped; does nothing once it has ended.

        Waiting for the result, or the next item, then raises RequestCancelledError. Async code is cancelled at
        its next `await`; sync code runs to its end. May be called from any thread and more than once.
        """
        self._call.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        cancelled: bool = self._call.cancelled
        return cancelled

    def __repr__(self) -> str:
        call = self._call
        state = "done" if call.done else "pending"
        return f"{type(self).__name__}({call.target.name}.{call.head.method}, {state})"


class DeploymentResponse(CallResult, Generic[R_co]):
    """The future result of a call. Await it, or call `result()` from synchronous code; as often as wanted.

    It may be passed as a top-level argument to another `remote()` call, which then gets its value. One that
    nobody waits for runs all the same.
    """

    __slots__ = ()

    def __init__(self, call: UnaryCall) -> None:
        self._call = call

    @property
    def by_reference(self) -> bool:
        """Always False: a value is a copy, here and where it is passed on to."""
        return False

    def __await__(self) -> Generator[Any, None, R_co]:
        return _wait_for_value(self._call)

    def result(self, timeout_s: float | None = None, *, _skip_asyncio_check: bool = False) -> R_co:
        """Block until there is a result and return it; raises what the call failed with.

        Args:
            timeout_s: seconds to wait; None waits without end, 0 only looks. The request is not cancelled
                when the time is over, and `result` may be called again.

        Raises:
            TimeoutError: no result yet.
            RuntimeError: called where an event loop runs, which it would block.
        """
        if not _skip_asyncio_check and _loop_is_running():
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
            )
        return result_of(self._call, timeout_s)  # type: ignore[no-any-return]  # user objects enter here

    async def _to_object_ref(self) -> ObjectRef:
        """Return the result as older code knows it."""
        return ObjectRef(self._call)

    def _to_object_ref_sync(
        self, _timeout_s: float | None = None, _allow_running_in_asyncio_loop: bool = False
    ) -> ObjectRef:
        """Return the result as older code knows it, for `serve_lite.get`. Never waits."""
        return ObjectRef(self._call)

    def __reduce__(self) -> Any:
        raise RayServeException(
            "A `DeploymentResponse` can only be passed as a top-level argument of a handle call, not inside "
            "another object. Pass it directly, or await it first."
        )


class ObjectRef(CallResult):
    """The result of a call as code for older handles holds it: await it, or give it to `serve_lite.get`.

    May be awaited any number of times, and passed as a top-level argument to another `remote()` call.
    """

    __slots__ = ()

    def __init__(self, call: UnaryCall) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        return _wait_for_value(self._call)

    def __reduce__(self) -> Any:
        raise RayServeException(
            "An `ObjectRef` can only be passed as a top-level argument of a handle call, not inside another "
            "object. Pass it directly, or await it first."
        )


class DeploymentResponseGenerator(CallResult, Generic[R_co]):
    """The items of a streaming call, as they are produced. One consumer, one pass.

    Iterate with `async for`, or with `for` from synchronous code. The producer waits while a window of items
    is not taken. Closing or dropping it stops the producer.
    """

    __slots__ = ("_closed", "_finalizer")

    def __init__(self, call: StreamCall) -> None:
        self._call = call
        self._closed = False
        self._finalizer = weakref.finalize(self, _abandon, call)
        self._finalizer.atexit = False

    def __aiter__(self) -> AsyncIterator[R_co]:
        return self

    async def __anext__(self) -> R_co:
        call = self._call
        while True:
            is_over = call.done
            buffers = call.take()
            if buffers is not None:
                return self._read(buffers)  # type: ignore[no-any-return]  # user objects enter here
            if is_over:
                if call.error is None or self._closed:
                    raise StopAsyncIteration
                raise call.raised()
            await call.changed()

    def __iter__(self) -> Iterator[R_co]:
        return self

    def __next__(self) -> R_co:
        call = self._call
        if _loop_is_running():
            raise RuntimeError(
                "Sync iteration should not be used from within an `asyncio` event loop. Use `async for` instead."
            )
        while True:
            is_over = call.done
            buffers = call.take()
            if buffers is not None:
                return self._read(buffers)  # type: ignore[no-any-return]  # user objects enter here
            if is_over:
                if call.error is None or self._closed:
                    raise StopIteration
                raise call.raised()
            call.block(None)  # ends with an item or the end of the call

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError("`DeploymentResponseGenerator` cannot be awaited. Use `async for item in response`.")

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """Streams have no single result: always raises TypeError."""
        raise TypeError("`DeploymentResponseGenerator` has no `result()`. Iterate over it instead.")

    async def aclose(self) -> None:
        """Stop the producer if it has not ended; there are no more items then."""
        self.close()

    def close(self) -> None:
        """`aclose` for synchronous code."""
        self._closed = True
        self._call.cancel()

    def _read(self, buffers: list[memoryview]) -> Any:
        return codec.loads(buffers)

    def __reduce__(self) -> Any:
        raise RayServeException("Streaming deployment handle results cannot be passed to another call.")


def result_of(call: UnaryCall, timeout_s: float | None) -> Any:
    """Block until a call has a result and return it, or raise what it failed with.

    Raises:
        TimeoutError: `timeout_s` seconds have passed first.
        RuntimeError: called on the loop that the result would arrive on.
    """
    if not call.done and not call.block(timeout_s):
        raise TimeoutError(f"Request {call.head.request_id} has no result after {timeout_s} s.")
    return call.value()


def _wait_for_value(call: UnaryCall) -> Generator[Any, None, Any]:
    while not call.done:
        yield from call.changed().__await__()
    return call.value()


def _has_results(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    for value in args:  # loops: this is on the path of every call
        if isinstance(value, CallResult):
            return True
    return bool(kwargs) and any(isinstance(value, CallResult) for value in kwargs.values())


def _value_of(argument: Any) -> Any:
    return argument._call.value() if isinstance(argument, CallResult) else argument


def _as_exception(envelope: bytes, buffers: list[memoryview]) -> BaseException:
    """Return the user's own exception with the remote traceback as a note, or one that stands for it.

    An exception that came through several replicas gets one note: the last traceback has the others in it.
    """
    head = _decode_error(envelope)
    error: BaseException | None = None
    if buffers:
        try:
            error = codec.loads(buffers)
        except Exception:  # boundary: the class may not be importable or constructible here
            error = None
    if not isinstance(error, BaseException) or isinstance(error, (StopIteration, StopAsyncIteration)):
        error = RemoteUserError(head.type_name, head.text, head.traceback)
    if isinstance(error, UnknownMethodError) and not error.caller_id and in_replica():
        here = get_replica_context()
        error = error.called_by(here.replica_id.full_tag, here.code_version)
    if head.traceback:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not (isinstance(n, str) and n.startswith(_NOTE))]
        try:
            error.add_note(_NOTE + head.traceback)
        except (
            Exception
        ):  # boundary: a user's class that refuses attributes; its error arrives without the note
            return error
    return error


def _abandon(call: StreamCall) -> None:
    """Stop a stream whose generator was collected, which may happen in the middle of anything: only leave word."""
    if call.done:
        return
    try:
        call.runtime.loop.call_soon_threadsafe(call._cancel)
    except RuntimeError:  # the loop is closed and the stream ended with it
        return


def _loop_is_running() -> bool:
    return asyncio._get_running_loop() is not None


def _wake_on(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)
