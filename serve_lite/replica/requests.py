"""Runs the calls that a replica has accepted: handle calls, plain HTTP requests, ASGI requests, gRPC.

Each call is one task, cancelled when its caller gives up; its slot is free when the work has really ended.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import msgspec

from serve_lite.context import RequestContext, _serve_request_context
from serve_lite.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from serve_lite.replica import answers
from serve_lite.replica.access_log import ReplicaAccessLog
from serve_lite.replica.admission import Admission
from serve_lite.replica.asgi import AsgiApp, HttpAnswer, RequestBody, WebSocketSession, make_scope, writable
from serve_lite.replica.reporting import RequestCounts
from serve_lite.replica.user_code import Method, UserCode
from serve_lite.wire import codec
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.frames import Buffer, Kind
from serve_lite.wire.messages import (
    RESERVE,
    ErrorHead,
    GrpcHead,
    HttpHead,
    HttpResponseHead,
    PythonHead,
    RejectReason,
)

log = logging.getLogger("serve_lite.replica")

_encode = msgspec.msgpack.Encoder().encode
_decode_python = msgspec.msgpack.Decoder(PythonHead).decode
_decode_http = msgspec.msgpack.Decoder(HttpHead).decode
_decode_grpc = msgspec.msgpack.Decoder(GrpcHead).decode
_AHEAD_ITEMS = 64  #: how far a sync generator's thread may run ahead of its consumer


class _Work:
    """One accepted call: its slot in the admission, given back once."""

    __slots__ = (
        "_admission", "_counts", "_log", "_started", "_tasks", "answer", "asked", "call", "context", "left", "outcome",
        "task",
    )  # fmt: skip

    def __init__(
        self,
        call: IncomingCall,
        admission: Admission,
        tasks: set[asyncio.Task[None]],
        counts: RequestCounts,
        log: ReplicaAccessLog | None,
    ) -> None:
        self.call = call
        self.answer: HttpAnswer | None = None  #: of an HTTP request
        self.asked = ""  #: what the access log says of it
        self.outcome = "OK"
        self._log = log
        self._started = time.monotonic()
        self.context: RequestContext | None = None
        self.task: asyncio.Task[None] | None = None
        self.left = False
        self._admission = admission
        self._tasks = tasks
        self._counts = counts
        admission.enter()

    def cancel(self) -> None:
        """The caller has given up, and with it the calls made for it: now, as a sync handler may wait for one."""
        assert self.task is not None
        self.task.cancel()
        if self.context is not None:
            self.context.cancel_children()

    def leave(self) -> None:
        """The work has ended; called before the answer, so that callers hear of the free slot with it."""
        if not self.left:
            self.left = True
            context = self.context
            if context is not None:
                context.end()
                latency_ms = (time.monotonic() - self._started) * 1000
                self._counts.ended[context.route] += 1
                self._counts.latencies[context.route].observe(latency_ms)
                if self._log is not None:
                    self._tell(self._log, context, latency_ms)
            self._admission.leave()

    def _tell(self, log: ReplicaAccessLog, context: RequestContext, latency_ms: float) -> None:
        answer, outcome = self.answer, self.outcome
        if answer is None:
            log.note(context.request_id, self.asked, context.route, outcome, latency_ms)
        else:
            status = answer.status or (499 if outcome == "CANCELLED" else 500)
            log.note(context.request_id, self.asked, context.route, status, latency_ms)

    def done(self, task: asyncio.Task[None]) -> None:
        """The task has ended, perhaps cancelled before its first step."""
        self._tasks.discard(task)
        self.leave()
        self.task = self.call.on_cancel = self.answer = (
            None  # else they hold each other until a garbage collection
        )


class _Reservation(NamedTuple):
    """A place that is held."""

    work: _Work
    taken: asyncio.Event

    def take(self) -> None:
        """The call has come and is counted: the place itself is free again."""
        self.work.leave()
        self.taken.set()


class RequestRunner:
    """Starts a task for each call that is admitted.

    Lifetime: `start` may be called once `user` is built; `aclose` cancels what is left.
    """

    def __init__(self, user: UserCode, admission: Admission, app: AsgiApp | None) -> None:
        self._user = user
        self._admission = admission
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.lifespan_state: dict[str, Any] = {}
        self.counts = RequestCounts()
        self.log: ReplicaAccessLog | None = None  #: None: there is to be none
        self._reserved: dict[str, _Reservation] = {}
        self._sockets: set[WebSocketSession] = set()

    def start(self, call: IncomingCall) -> None:
        """Admit and run one call, or reject it."""
        reason = self._admission.refusal()
        if reason is not None and not self._has_a_place(call, reason):
            call.reject(reason)
            if reason is RejectReason.FULL:
                self._admission.refused_full(call.table)
            return
        if call.kind == Kind.CALL_PYTHON:
            head = _decode_python(call.envelope)
            run = self._run_python if head.method != RESERVE else self._run_reservation
        elif call.kind == Kind.CALL_HTTP:
            head = _decode_http(call.envelope)  # type: ignore[assignment]  # the frame's kind tells which
            run = self._pick_http(head)  # type: ignore[arg-type, assignment]
        else:
            head = _decode_grpc(call.envelope)  # type: ignore[assignment]
            run = self._run_grpc  # type: ignore[assignment]
        if head.deadline and time.monotonic() >= head.deadline:
            call.reject(RejectReason.EXPIRED)
            return
        work = _Work(call, self._admission, self._tasks, self.counts, self.log)
        if call.kind == Kind.CALL_PYTHON and head.slot in self._reserved:
            self._reserved.pop(head.slot).take()
        task = work.task = self._loop.create_task(run(work, head))
        call.on_cancel = work.cancel
        self._tasks.add(task)
        task.add_done_callback(work.done)

    def leave(self) -> None:
        """The replica stops: close WebSockets as soon as nothing is done for them; all else goes on to its end."""
        for session in tuple(self._sockets):
            session.leave()

    async def finish(self) -> None:
        """Wait for what still runs: background tasks of requests that are answered. Whoever asks has a deadline."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def aclose(self) -> None:
        """Cancel what still runs and wait for it; clients of WebSockets are told to connect again."""
        for session in tuple(self._sockets):
            session.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- places that are held for a call ---

    def _has_a_place(self, call: IncomingCall, reason: RejectReason) -> bool:
        """Whether a call may enter although there is no room: it reserved its place, or is for every replica."""
        if reason is not RejectReason.FULL or call.kind != Kind.CALL_PYTHON:
            return False
        head = _decode_python(call.envelope)
        return head.beyond_limit or head.slot in self._reserved

    async def _run_reservation(self, work: _Work, head: PythonHead) -> None:
        """Hold a place until a call comes for it, or until whoever reserved it lets it go."""
        taken = asyncio.Event()
        self._reserved[head.slot] = _Reservation(work, taken)
        work.call.item(b"", *codec.dumps(None))
        try:
            await taken.wait()  # ends with the call, or with the cancel of this one
            work.call.end()
        finally:
            self._reserved.pop(head.slot, None)

    # --- handle calls ---

    async def _run_python(self, work: _Work, head: PythonHead) -> None:
        call = work.call
        context = RequestContext(
            head.request_id,
            route=head.route,
            app_name=head.app,
            multiplexed_model_id=head.model_id,
            session_id=head.session_id,
            deadline=head.deadline,
            traceparent=head.traceparent,
        )
        _serve_request_context.set(context)
        work.context = context
        work.asked = f"CALL {head.method}"
        try:
            user = self._user
            method = user.method(head.method)
            args, kwargs = codec.loads(call.buffers)
            call.buffers = []
            result = await user.call(method, args, kwargs)
            if head.streaming:
                await self._stream_items(call, method, result)
                work.leave()
                call.end()
            else:
                buffers = codec.dumps(_unary(method, result))
                work.leave()
                call.result(b"", *buffers)
        except asyncio.CancelledError:
            self._cancelled(work, context)
        except Exception as error:  # boundary: user code
            self._failed(work, context, error)

    async def _stream_items(self, call: IncomingCall, method: Method, result: Any) -> None:
        items = self._items_of(result)
        if items is None:
            raise TypeError(
                f"Method '{method.name}' was called with stream=True but returned a "
                f"{type(result).__name__!r} instead of a generator. Remove `stream=True`, or yield the results."
            )
        try:
            async for item in items:
                if not call.item(b"", *codec.dumps(item)):
                    await writable(call)
        finally:
            await _close(items)

    # --- HTTP ---

    def _pick_http(self, head: HttpHead) -> Callable[[_Work, HttpHead], Coroutine[Any, Any, None]]:
        if self._app is None:
            return self._run_plain
        return self._run_websocket if head.method == "WEBSOCKET" else self._run_asgi

    async def _run_asgi(self, work: _Work, head: HttpHead) -> None:
        call = work.call
        context = _http_context(head)
        _serve_request_context.set(context)
        work.context = context
        body = RequestBody(call, head)
        answer = work.answer = HttpAnswer(call, work.leave, self.counts.note_failure)
        work.asked = f"{head.method} {head.route}"
        assert self._app is not None
        try:
            await self._app(make_scope(head, self.lifespan_state), body.receive, answer.send)
            if not answer.complete:
                raise RuntimeError("the ASGI application returned without completing its response")
        except asyncio.CancelledError:
            self._cancelled(work, context)
        except (BackPressureError, DeploymentUnavailableError) as error:
            if answer.started:
                self._failed(work, context, error)
            else:
                await answer.send_whole(*_refused_below(error))
        except Exception as error:  # boundary: user code
            self._failed(work, context, error)

    async def _run_websocket(self, work: _Work, head: HttpHead) -> None:
        call = work.call
        context = _http_context(head)
        _serve_request_context.set(context)
        work.context = context
        work.asked = f"{head.method} {head.route}"
        session = WebSocketSession(call)
        self._sockets.add(session)
        cancel = call.on_cancel

        def abandoned() -> None:  # the application hears of it and may tidy up; its task ends by itself
            session.disconnect()

        call.on_cancel = abandoned if cancel is not None else None
        scope = make_scope(head, self.lifespan_state)
        scope.update(type="websocket", subprotocols=head.subprotocols)
        scope["scheme"] = "wss" if head.scheme in ("https", "wss") else "ws"
        scope["extensions"] = {"websocket.http.response": {}}
        del scope["method"]
        assert self._app is not None
        try:
            await self._app(scope, session.receive, session.send)
            work.leave()
            call.end()
        except asyncio.CancelledError:
            self._cancelled(work, context)
        except Exception as error:  # boundary: user code
            self._failed(work, context, error)
        finally:
            self._sockets.discard(session)

    async def _run_plain(self, work: _Work, head: HttpHead) -> None:
        call = work.call
        context = _http_context(head)
        _serve_request_context.set(context)
        work.context = context
        answer = work.answer = HttpAnswer(call, work.leave, self.counts.note_failure)
        work.asked = f"{head.method} {head.route}"
        try:
            method = self._user.method("__call__")
            args: tuple[Any, ...] = ()
            scope: Any = None
            body = RequestBody(call, head)
            if method.takes_request:
                from starlette.requests import Request  # lazily: handlers without a parameter never need it

                scope = make_scope(head, {})
                args = (Request(scope, body.receive),)
            result = await self._user.call(method, args, {})
            if _is_response(result):
                await result(scope or make_scope(head, {}), body.receive, answer.send)
            elif hasattr(result, "__aiter__"):
                await self._stream_pieces(answer, result)
            elif inspect.isgenerator(result):
                await self._stream_pieces(answer, self._iterate_in_thread(result))
            else:
                await answer.send_whole(*answers.convert(result))
        except asyncio.CancelledError:
            self._cancelled(work, context)
        except (BackPressureError, DeploymentUnavailableError) as error:
            if answer.started:
                self._failed(work, context, error)
            else:
                await answer.send_whole(*_refused_below(error))
        except Exception as error:  # boundary: user code
            self._failed(work, context, error)

    async def _stream_pieces(self, answer: HttpAnswer, items: AsyncIterator[Any]) -> None:
        await answer.send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/plain; charset=utf-8")],
            }
        )
        try:
            async for item in items:
                piece = answers.stream_piece(item)
                await answer.send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await _close(items)
        await answer.send({"type": "http.response.body", "body": b"", "more_body": False})

    # --- gRPC ---

    async def _run_grpc(self, work: _Work, head: GrpcHead) -> None:
        from serve_lite.replica import grpc_calls  # lazily: most replicas never get such a call

        call = work.call
        context = grpc_calls.request_context(head)
        _serve_request_context.set(context)
        work.context = context
        grpc_context = context.grpc_context
        work.asked = head.method
        try:
            method = self._user.method(head.method.rpartition("/")[2])
            argument = await grpc_calls.argument_of(call, head)
            kwargs = {"grpc_context": grpc_context} if method.takes_grpc_context else {}
            result = await self._user.call(method, (argument,), kwargs)
            if head.server_streaming:
                items = self._items_of(result)
                if items is None:
                    raise TypeError(
                        f"Method '{method.name}' answers with a stream of messages, but it returned a "
                        f"{type(result).__name__!r} instead of a generator. Yield the messages."
                    )
                try:
                    async for item in items:
                        await grpc_calls.send(call, grpc_context, item)
                finally:
                    await _close(items)
                work.leave()
                grpc_calls.end(call, grpc_context)
            else:
                compression, message = await grpc_calls.packed(grpc_context, result)
                work.leave()
                grpc_calls.result(call, grpc_context, compression, message)
        except asyncio.CancelledError:
            self._cancelled(work, context)
        except Exception as error:  # boundary: user code
            self._failed(work, context, error)

    # --- what they share ---

    def _items_of(self, result: Any) -> AsyncIterator[Any] | None:
        """Return what iterates a handler's result; None if it cannot be iterated as a stream."""
        if hasattr(result, "__aiter__"):
            items: AsyncIterator[Any] = result
            return items
        if inspect.isgenerator(result) or (hasattr(result, "__next__") and hasattr(result, "__iter__")):
            return self._iterate_in_thread(result)
        return None

    async def _iterate_in_thread(self, items: Iterator[Any]) -> AsyncIterator[Any]:
        """Iterate a sync generator in a worker thread that runs at most `_AHEAD_ITEMS` ahead."""
        ready: deque[tuple[bool, Any]] = deque()
        arrived = asyncio.Event()
        room = threading.Semaphore(_AHEAD_ITEMS)
        stopped = False

        def put(entry: tuple[bool, Any]) -> None:
            ready.append(entry)
            arrived.set()

        def pump() -> None:
            try:
                for item in items:
                    room.acquire()
                    if stopped:
                        break
                    self._loop.call_soon_threadsafe(put, (False, item))
            finally:
                if hasattr(items, "close"):
                    items.close()
                self._loop.call_soon_threadsafe(put, (True, None))

        pumping = asyncio.ensure_future(self._user.in_thread(pump))
        try:
            while True:
                while ready:
                    is_end, item = ready.popleft()
                    if is_end:
                        await pumping  # raises what the generator raised
                        return
                    room.release()
                    yield item
                arrived.clear()
                await arrived.wait()  # ends with an item or the end, or with the cancel of this request
        finally:
            stopped = True
            room.release()
            await asyncio.wait([pumping])  # ends once the generator has yielded or returned
            if not pumping.cancelled():
                pumping.exception()

    def _cancelled(self, work: _Work, context: RequestContext) -> None:
        context.cancel_children()
        work.outcome = "CANCELLED"
        work.leave()
        if work.call.alive:  # user code cancelled itself: its caller must hear something
            self._answer_error(work.call, context, RequestCancelledError(context.request_id), "")

    def _failed(self, work: _Work, context: RequestContext, error: Exception) -> None:
        self.counts.failed[context.route, type(error).__name__] += 1
        if not work.left:  # else it was answered, and counted by that
            self.counts.note_failure()
        work.outcome = "ERROR"
        work.leave()
        text = "".join(traceback.format_exception(error))
        log.error("request %s failed\n%s", context.request_id, text.rstrip())
        if work.call.alive:
            self._answer_error(work.call, context, error, text)

    def _answer_error(self, call: IncomingCall, context: RequestContext, error: Exception, text: str) -> None:
        if call.kind == Kind.CALL_GRPC:
            from serve_lite.replica import grpc_calls  # loaded by now

            grpc_calls.fail(call, context.grpc_context, error)
            return
        head = ErrorHead(type(error).__name__, _words(error), text)
        buffers: list[Buffer] = []
        if call.kind == Kind.CALL_PYTHON:
            try:
                buffers = codec.dumps(error)
                codec.loads(buffers)  # many exceptions pickle but cannot be made again from their `args`
            except Exception:  # boundary: a user's exception class; it arrives as RemoteUserError instead
                buffers = []
        call.error(_encode(head), *buffers)


def _words(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # boundary: a user's exception class
        return "(its text could not be made: `__str__` failed)"


def _unary(method: Method, result: Any) -> Any:
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"Method '{method.name}' returned a generator. Call it with "
            "`handle.options(stream=True)` to receive its items."
        )
    return result


def _http_context(head: HttpHead) -> RequestContext:
    return RequestContext(
        head.request_id,
        route=head.route,
        app_name=head.app,
        multiplexed_model_id=head.model_id,
        session_id=head.session_id,
        deadline=head.deadline,
        traceparent=head.traceparent,
        is_http_request=True,
    )


def _is_response(result: Any) -> bool:
    responses = sys.modules.get("starlette.responses")
    return responses is not None and isinstance(result, responses.Response)


def _refused_below(error: BackPressureError | DeploymentUnavailableError) -> tuple[HttpResponseHead, bytes]:
    """Return the answer for a refusal that came from a deployment further down."""
    body = error.message.encode()
    headers = [answers.TEXT]
    status = 503
    if isinstance(error, BackPressureError):
        status = error.status_code
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % -(-error.retry_after_s // 1)))
    return HttpResponseHead(status, answers.render_headers(headers)), body


async def _close(items: AsyncIterator[Any]) -> None:
    aclose = getattr(items, "aclose", None)
    if aclose is not None:
        await aclose()
