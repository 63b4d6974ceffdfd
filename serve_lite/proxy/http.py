"""One HTTP request, from its exchange to the router and back. Both fronts end here.

What runs for a request is an `HttpCall`: the router's call and the front's work in one object, driven by
callbacks from both sides. Statuses and bodies of errors are decided here and nowhere else. WebSockets
are in `websocket`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from typing import Final, NamedTuple, Protocol

import msgspec

from serve_lite.exceptions import BackPressureError, DeploymentNotFoundError, DeploymentUnavailableError
from serve_lite.proxy import exchange as fields
from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.accounts import CLIENT_GONE, Accounts, RouteAccount
from serve_lite.proxy.answers import INTERNAL_ERROR, JSON, TEXT
from serve_lite.proxy.exchange import Exchange
from serve_lite.proxy.forwarded import Forwarding
from serve_lite.proxy.guard import Doorkeeper, Guard, refuse_http
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.routes import HEALTH_PATH, ROUTES_PATH, RouteTable, decode_path
from serve_lite.proxy.silence import AnswerWatch
from serve_lite.routing.router import PendingCall
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import CallFacts, ErrorHead, HttpHead, HttpResponseHead, RouteTarget

NOT_POPULATED: Final = "Route table is not populated yet."
DRAINING: Final = "This node is being drained."

#: pieces of a streamed request body kept to send again after a refusal; a replica that has not accepted the
#: call cannot have given credit, so it never was sent more than the window and one piece
_KEPT_BODY_BYTES: Final = 512 * 1024

_CONTINUE: Final = 100

_SAFE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:@/+=-]{1,200}")

_log = logging.getLogger("serve_lite.proxy")
_encode = msgspec.msgpack.Encoder().encode
_decode_response = msgspec.msgpack.Decoder(HttpResponseHead).decode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode
_monotonic = time.monotonic


class RouterLike(Protocol):
    """What is used of `routing.router.Router`."""

    def submit(self, call: PendingCall) -> None: ...
    def cancel(self, call: PendingCall) -> None: ...


class RouterSource(Protocol):
    """What is used of `routing.router.Routers`."""

    def get(self, app: str, deployment: str) -> RouterLike: ...


class Lane:
    """One route with all that its requests need."""

    __slots__ = ("account", "app", "guard", "is_asgi", "route", "router")

    def __init__(
        self, target: RouteTarget, router: RouterLike, account: RouteAccount, guard: Guard | None
    ) -> None:
        self.route, self.app, self.is_asgi = target.prefix, target.app, target.is_asgi
        self.router = router
        self.account = account
        self.guard = guard  #: None: everybody may come in


class Noted(NamedTuple):
    """What the headers that Serve looks at say."""

    request_id: str
    timeout_s: float | None
    model_id: str = ""
    session_id: str = ""
    traceparent: str = ""
    ignores_disconnect: bool = False


class RequestHandler:
    """Answers exchanges: builtins and 404 itself, everything else through the routers.

    Used on one event loop. `set_routes` is given to the publisher of routes.
    """

    def __init__(
        self,
        routers: RouterSource,
        options: ProxyOptions,
        keeper: Doorkeeper | None = None,
        log: AccessLog | None = None,
    ) -> None:
        self.options = options
        self.accounts = Accounts()
        self.log = log  #: None: there is no access log
        self.alt_svc = b""  #: where HTTP/3 is served; announced over TLS
        self.is_draining = False
        self.is_retiring = False  #: another daemon has taken over: answers end their connections
        self._routers = routers
        self._keeper = keeper or Doorkeeper()
        self._table = RouteTable()
        self._lanes: dict[RouteTarget, Lane] = {}
        self._was_populated = False  #: stays true when all applications are deleted again
        self._nowhere = self.accounts.route("", "", "")
        self._new_request_id = fields.request_ids()
        self._limits_silence = (options.first_byte_timeout_s, options.idle_timeout_s) != (None, None)
        self.forwarding = Forwarding(options.forwarded_allow_ips)

    def set_routes(self, targets: tuple[RouteTarget, ...]) -> None:
        """Take the routes that are in force from now on."""
        self._lanes = {
            target: Lane(
                target,
                self._routers.get(target.app, target.deployment),
                self.accounts.route(target.prefix, target.app, target.deployment),
                self._keeper.guard_of(target),
            )
            for target in targets
        }
        self._keeper.look_at(targets)
        self._table = RouteTable(targets)
        self._was_populated = self._was_populated or bool(targets)

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, now or later."""
        lane = self.find_lane(exchange)
        noted = self.note(exchange)
        if lane is None:
            self._answer_itself(exchange)
            return
        if lane.guard is not None and (refused := refuse_http(lane.guard, exchange)) is not None:
            status, text, headers = refused
            self.book(lane.account, exchange, exchange.method, status)
            exchange.respond(status, headers, text.encode())
            return
        client, server, timeout_s = exchange.client, exchange.server, noted.timeout_s
        now = _monotonic()
        envelope = _encode(
            HttpHead(
                exchange.method,
                exchange.target,
                exchange.headers,
                noted.request_id,
                lane.route,
                self.options.root_path,
                0.0 if timeout_s is None else now + timeout_s,
                lane.app,
                noted.model_id,
                noted.session_id,
                noted.traceparent,
                client[0],
                client[1],
                server[0],
                server[1],
                exchange.scheme,
                exchange.http_version,
                exchange.streams_body,
            )
        )
        call = HttpCall(self, exchange, lane, noted, now)
        call.envelope = envelope
        if exchange.streams_body:
            call.streams_body = True
        elif exchange.body:
            call.buffers = (exchange.body,)
        self.accounts.ongoing += 1
        if timeout_s is not None:
            call.limit(timeout_s)
        if self._limits_silence:
            call.watch = AnswerWatch(call, self.options, _monotonic)
        lane.router.submit(call)

    def find_lane(self, exchange: Exchange) -> Lane | None:
        """Return the route of a request; None for a builtin or no route at all."""
        target = exchange.target
        query = target.find(b"?")
        found = self._table.match(target if query < 0 else target[:query])
        return None if found is None else self._lanes[found]

    def note(self, exchange: Exchange) -> Noted:
        """Read the headers that Serve looks at; give the exchange a request id, which the application sees too."""
        values = exchange.noted
        timeout_s = self.options.request_timeout_s
        given = values.get(fields.REQUEST_ID) if values else None
        if given is not None and _SAFE_REQUEST_ID.fullmatch(given):
            exchange.request_id = given
            request_id = given.decode("ascii")
        else:
            if given is not None:
                exchange.headers = [h for h in exchange.headers if h[0] != fields.REQUEST_ID]
            request_id = self._new_request_id()
            exchange.request_id = raw = request_id.encode("ascii")
            exchange.headers.append((fields.REQUEST_ID, raw))
        if not values:
            return Noted(request_id, timeout_s)
        return Noted(
            request_id,
            _timeout(values.get(fields.TIMEOUT), timeout_s),
            _text(values.get(fields.MODEL_ID)),
            _text(values.get(fields.SESSION_ID)),
            _text(values.get(fields.TRACEPARENT)),
            values.get(fields.DISCONNECT) == b"?1",
        )

    def new_request_id(self) -> bytes:
        """Return an id for an answer that has no request, such as that to a malformed one."""
        return self._new_request_id().encode("ascii")

    def count_malformed(self, status: int, request_id: bytes, client: tuple[str, int] = ("", 0)) -> None:
        """Count a request that a front has refused before it was one."""
        self._nowhere.count("", status, 0.0)
        if self.log is not None:
            self.log.note("http", client[0], request_id, "", "-", "-", status, 0.0, 0)

    def book(self, account: RouteAccount, exchange: Exchange, method: str, status: int) -> None:
        """Count a request that is answered here, and log it."""
        account.count(method, status, 0.0)
        if self.log is not None:
            self.log.note_http(exchange, account.app, method, status, 0.0, 0)

    def refuse_unrouted(self, exchange: Exchange) -> tuple[int, str]:
        """Return status and text for a request whose path no application has."""
        path = exchange.target.partition(b"?")[0]
        self.book(self._nowhere, exchange, exchange.method, 404)
        shown = decode_path(path).decode("utf-8", "replace")
        return 404, f"Path '{shown}' not found. Ping http://.../-/routes for available routes."

    def _answer_itself(self, exchange: Exchange) -> None:
        path = exchange.target.partition(b"?")[0]
        if path not in (ROUTES_PATH, HEALTH_PATH):
            path = decode_path(path)
        if path not in (ROUTES_PATH, HEALTH_PATH):
            status, text = self.refuse_unrouted(exchange)
            exchange.respond(status, TEXT, text.encode())
        elif self.is_draining:
            exchange.respond(503, TEXT, DRAINING.encode())
        elif not self._was_populated:
            exchange.respond(503, TEXT, NOT_POPULATED.encode())
        elif path == HEALTH_PATH:
            exchange.respond(200, TEXT, b"success")
        else:
            exchange.respond(200, JSON, self._table.to_json())


class HttpCall(PendingCall):
    """One request that an application answers: the router's call and the front's work.

    Ends exactly once: answered, failed, timed out, or abandoned by its client.
    """

    kind = Kind.CALL_HTTP
    _status = 0  #: of an answer that has started
    _body_bytes = 0  #: of the answer
    _unreturned: list[int] | None = None  #: sizes of items the client has not taken yet
    _kept: list[bytes] | None = None  #: body pieces sent, while they may have to be sent again
    _kept_bytes = 0
    _body_ended = False
    _timer: asyncio.TimerHandle | None = None
    watch: AnswerWatch | None = None  #: set if the answer may not be silent as long as it likes

    def __init__(
        self, handler: RequestHandler, exchange: Exchange, lane: Lane, noted: Noted, started: float
    ) -> None:
        self._handler = handler
        self._exchange = exchange
        self._lane = lane
        self._noted = noted
        self._started = started
        if noted.model_id:
            self.model_id = noted.model_id
        exchange.work = self

    def facts(self) -> CallFacts:
        noted, lane = self._noted, self._lane
        return CallFacts(
            request_id=noted.request_id,
            route=lane.route,
            app=lane.app,
            model_id=noted.model_id,
            session_id=noted.session_id,
            is_http=True,
        )

    def limit(self, timeout_s: float) -> None:
        """End the request `timeout_s` seconds from now unless it is over by then."""
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._timed_out)

    # --- from the router ------------------------------------------------------------------------

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        head = _decode_response(envelope)
        status = head.status
        if len(buffers) == 1:
            body: fields.Buffer = buffers[0]
        else:
            body = b"".join(buffers)
        self._body_bytes = len(body)
        self._over(status)
        self._exchange.respond(status, head.headers, body)

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        exchange = self._exchange
        if not self._status:
            head = _decode_response(envelope)
            if head.status == _CONTINUE:
                exchange.read_body()
            elif head.status < 200:
                exchange.inform(head.status, head.headers)
            else:
                self._status = head.status
                if self.watch is not None:
                    self.watch.progressed(is_first=True)
                exchange.start(head.status, head.headers)
                if exchange.expects_continue:
                    exchange.read_body()  # for an application that reads only now; the client decides by the answer
        elif self.watch is not None:
            self.watch.progressed(is_first=False)
        size, writable = len(envelope), True
        for buffer in buffers:
            size += len(buffer)
            writable = exchange.write(buffer)
        self._body_bytes += size - len(envelope)
        if not writable:
            if self._unreturned is None:
                self._unreturned = []
            self._unreturned.append(size)
        elif self.outgoing is not None:
            self.outgoing.consumed(size)

    def on_end(self, envelope: bytes) -> None:
        if not self._status:
            self._fail(500, INTERNAL_ERROR)
            return
        self._over(self._status)
        self._exchange.finish(envelope)

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        text = INTERNAL_ERROR
        if self._handler.options.debug:
            error = _decode_error(envelope)
            text = error.traceback or f"{error.type_name}: {error.text}"
        self._fail(500, text)

    def on_failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._fail(408, self._timeout_text())
        else:
            self._fail(*refusal_of(error, self._noted.request_id))

    # --- request body: from the front, to the replica -------------------------------------------

    def on_sent(self, replica_id: str) -> None:
        if not self.streams_body:
            return
        assert self.outgoing is not None
        writable = True
        if self._kept is None:
            self._kept = []
        for piece in self._kept:  # a replica has refused the call: all again, to another
            writable = self.outgoing.send_item(b"", piece)
        if self._body_ended:
            self.outgoing.end()
        elif writable and not self._exchange.expects_continue:  # else the application says when it reads
            self._exchange.read_body()

    def on_body(self, data: bytes) -> None:
        if self.retryable and self._kept is not None:
            self._kept_bytes += len(data)
            if self._kept_bytes > _KEPT_BODY_BYTES:
                self.retryable, self._kept = False, None
            else:
                self._kept.append(data)
        if self.outgoing is None or not self.outgoing.send_item(
            b"", data
        ):  # just refused; `on_sent` sends it
            self._exchange.pause_body()

    def on_body_end(self) -> None:
        self._body_ended = True
        if self.outgoing is not None:
            self.outgoing.end()

    def on_writable(self) -> None:
        if not self._body_ended and not self._exchange.expects_continue:
            self._exchange.read_body()

    # --- from the front -------------------------------------------------------------------------

    def on_client_writable(self) -> None:
        if self._unreturned and self.outgoing is not None:
            sizes, self._unreturned = self._unreturned, None
            for size in sizes:
                self.outgoing.consumed(size)

    def on_disconnect(self) -> None:
        if self._noted.ignores_disconnect:
            self.on_client_writable()  # the work goes on; its answer is dropped by the exchange
            if self.streams_body and not self._body_ended:
                self.on_body_end()
            return
        self._lane.router.cancel(self)
        self._over(CLIENT_GONE)

    # --- the end --------------------------------------------------------------------------------

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client who is slow, not the application."""
        if self.streams_body and not self._body_ended and not self._exchange.expects_continue:
            return True
        return bool(self._unreturned)

    def fell_silent(self, limit_s: float) -> None:
        """The answer has not begun, or not gone on, in time."""
        self._lane.router.cancel(self)
        self._fail(408, f"Request {self._noted.request_id} timed out after {limit_s}s.")

    def _timed_out(self) -> None:
        self._timer = None
        self._lane.router.cancel(self)
        self._fail(408, self._timeout_text())

    def _timeout_text(self) -> str:
        return f"Request {self._noted.request_id} timed out after {self._noted.timeout_s}s."

    def _fail(self, status: int, text: str, headers: bytes = b"") -> None:
        """Answer with an error, or cut the answer that has started."""
        self._over(self._status or status)
        if self._status:
            self._exchange.abort()
        else:
            self._exchange.respond(status, TEXT + headers, text.encode())

    def _over(self, status: int) -> None:
        """Book the request. Before the answer is given, for the front may start the next request in there."""
        if self._timer is not None:
            self._timer.cancel()
        if self.watch is not None:
            self.watch.stop()
        exchange = self._exchange
        exchange.work = None
        self._handler.accounts.ongoing -= 1
        account, latency_s = self._lane.account, _monotonic() - self._started
        account.count(exchange.method, status, latency_s)
        log = self._handler.log
        if log is not None:
            log.note_http(exchange, account.app, exchange.method, status, latency_s, self._body_bytes)


def refusal_of(error: Exception, request_id: str) -> tuple[int, str, bytes]:
    """Return status, text and headers for an error that stands in for the application's answer."""
    if isinstance(error, BackPressureError):
        headers = b""
        if error.retry_after_s is not None:
            headers = b"retry-after: %d\r\n" % math.ceil(error.retry_after_s)
        return error.status_code, error.message, headers
    if isinstance(error, DeploymentUnavailableError | DeploymentNotFoundError):
        return 503, error.message, b""
    _log.warning("request %s failed: %s: %s", request_id, type(error).__name__, error)
    return 500, INTERNAL_ERROR, b""


def _timeout(header: bytes | None, default_s: float | None) -> float | None:
    """Return the time allowed: the header's if it is a number, where none or a negative one means no limit."""
    if header is None:
        return default_s
    try:
        seconds = float(header)
    except ValueError:
        return default_s
    if not math.isfinite(seconds):
        return default_s
    return seconds if seconds > 0 else None


def _text(header: bytes | None) -> str:
    return "" if header is None else header.decode("latin-1")
