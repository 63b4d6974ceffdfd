"""The vocabulary that processes share. Controller and replica have nothing else in common.

Structs marked `array_like` stand on the hot path: they travel as msgpack arrays, fields in order.
Add fields only at the end, with a default.

A call is one of four kinds, told apart by its frame (wire/frames.py):

PYTHON   `PythonHead`, buffers `[pickle, *out-of-band buffers]`; answered with the same kind of buffers.
HTTP     `HttpHead`, buffers `[body]` or none; answered with `HttpResponseHead` and the body.
GRPC     `GrpcHead`, buffers `[message]`, or none and the messages as items; answered with `GrpcStatus` and
         the message, or with messages as items and `GrpcStatus` at the end. Errors are statuses too.
CONTROL  `ControlHead`, buffers `[msgpack of the request struct]`; answered with `[msgpack of the reply]`.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from serve_lite.config import DeploymentConfig
from serve_lite.instruments import Family
from serve_lite.schema import Phase
from serve_lite.state.goal import AppSubmission, BuildRequest, BuildResult
from serve_lite.state.resources import NO_ALLOTMENT, Allotment

__all__ = ["BuildRequest", "BuildResult"]

Headers = list[tuple[bytes, bytes]]
#: of gRPC: names in lower case; a value is ASCII text unless its name ends with "-bin"
Metadata = list[tuple[str, bytes]]


class PythonHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """Envelope of a handle call."""

    method: str = "__call__"
    streaming: bool = False  #: the caller expects a stream of items
    request_id: str = ""
    deadline: float = 0.0  #: seconds on the machine's monotonic clock; 0 for none
    app: str = ""
    route: str = ""
    model_id: str = ""
    session_id: str = ""
    traceparent: str = ""
    slot: str = ""  #: reserves a place (with `RESERVE`), or uses the one reserved under this name
    beyond_limit: bool = False  #: goes to every replica, whether or not it has room


class CallFacts(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a router may know of a call before it is placed."""

    request_id: str = ""
    method: str = "__call__"
    route: str = ""
    app: str = ""
    model_id: str = ""
    session_id: str = ""
    streaming: bool = False
    is_http: bool = False


#: Method of a call that holds a place for another: it answers with one item once it has it, and ends when it
#: is cancelled or when a call with the same `slot` takes the place over.
RESERVE = "__serve_reserve__"


class HttpHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """Envelope of an HTTP request or a WebSocket."""

    method: str  #: upper case; "WEBSOCKET" for a WebSocket
    target: bytes  #: path and query as received, percent-encoded
    headers: Headers  #: names in lower case
    request_id: str
    route: str  #: prefix that matched; "/" adds nothing to root_path
    root_path: str = ""  #: outer root_path; the application sees root_path + route
    deadline: float = 0.0
    app: str = ""
    model_id: str = ""
    session_id: str = ""
    traceparent: str = ""
    client_host: str = ""
    client_port: int = 0
    server_host: str = ""
    server_port: int = 0
    scheme: str = "http"
    http_version: str = "1.1"
    streams_body: bool = False  #: body follows as items; else it is buffer 0 (or empty)
    subprotocols: list[str] = []


class HttpResponseHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """First envelope of an HTTP answer.

    `headers` is ready for an HTTP/1.1 connection: `name: value\\r\\n` for each header, names in lower
    case, checked by the replica to hold no stray CR, LF or NUL, hop-by-hop headers removed. It holds
    `content-length` when the length is known.
    """

    status: int
    headers: bytes


class WsMessage(msgspec.Struct, array_like=True, omit_defaults=True):
    """One ASGI WebSocket message, in an item's envelope, either way."""

    type: str  #: ASGI's name, for example "websocket.send"
    text: str | None = None
    data: bytes | None = None
    code: int = 1000
    reason: str = ""
    subprotocol: str | None = None
    headers: Headers = []


class GrpcHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """Envelope of a gRPC request. Messages travel as the client sent them; one whose envelope is not empty, or that
    comes with `is_compressed`, is compressed with `encoding`.
    """

    method: str  #: full name, "/package.Service/Method"
    servicer: str  #: import path of what knows the messages of this method
    request_id: str
    client_streaming: bool = False
    server_streaming: bool = False
    deadline: float = 0.0
    app: str = ""
    model_id: str = ""
    session_id: str = ""
    traceparent: str = ""
    peer: str = ""
    metadata: Metadata = []
    encoding: str = ""  #: as the client named it
    is_compressed: bool = False
    readable: list[str] = []  #: encodings that the client can read
    max_message_bytes: int = 2**31 - 1  #: of the client's messages, decompressed
    certificate: dict[str, list[str]] = {}  #: names in the one that the client has shown: see `auth_context`


class GrpcStatus(msgspec.Struct, array_like=True, omit_defaults=True):
    """How a gRPC call ended."""

    code: int = 0
    details: str = ""
    trailing: Metadata = []  #: without the request id
    #: what the answer's one message is compressed with: 0 nothing, 1 deflate, 2 gzip. For a message of a stream, this
    #: is the first byte of its envelope; behind it the first message has `initial`, if there is any, as msgpack.
    compression: int = 0
    initial: Metadata = []  #: metadata to be sent before anything else


class ErrorHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """Envelope of an error answer. Buffers: `[pickled exception]`, or none if it cannot be pickled."""

    type_name: str
    text: str
    traceback: str = ""


class RejectReason(enum.IntEnum):
    """Why a replica did not accept a call. It has not run and may go elsewhere."""

    FULL = 1  #: max_ongoing_requests reached
    DRAINING = 2  #: the replica stops; send it nothing more
    EXPIRED = 3  #: the deadline has passed
    NOT_READY = 4  #: the user's object is not built yet


class ReplicaFacts(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a replica tells callers of itself, on each change, so that they can choose among replicas."""

    model_ids: list[str] = []  #: loaded or being loaded, by `@serve.multiplexed`
    routing_stats: dict[str, Any] = {}  #: what the user's `record_routing_stats` returned last
    metadata: dict[str, Any] = {}  #: what the user's `record_replica_metadata` returned
    autoscaling_stats: dict[str, float] = {}  #: what the user's `record_autoscaling_stats` returned last
    worn: str = ""  #: why it should be replaced by a new one; for the controller
    autoscaling_at: float = 0.0  #: when, on the machine's monotonic clock


class ControlHead(msgspec.Struct, array_like=True, omit_defaults=True):
    """Envelope of a control call."""

    method: str


# --- control calls: daemon -> replica ---------------------------------------------------------


class InitRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`init`: build the user's object. Answered with `ReplicaReport` once it is ready to serve.

    Before that each phase is told as an item (`PhaseNews`).
    """

    replica_id: str
    app_name: str
    deployment: str
    version: str
    code: bytes
    init: bytes
    config: DeploymentConfig
    route_prefix: str | None = None
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    control_socket: str = ""
    orphan_grace_s: float = 60.0
    allotment: Allotment = NO_ALLOTMENT


class AdoptRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`adopt`: a daemon (again) takes charge. Obeyed only if `epoch` is not older than the last one."""

    epoch: int


class PhaseNews(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a replica tells while it carries out `init` or `stop`: what it is busy with now."""

    phase: Phase
    at: float  #: when that began, on the machine's monotonic clock
    note: str = ""


class ReplicaReport(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a replica tells of itself."""

    replica_id: str
    version: str
    ready: bool
    draining: bool = False
    ongoing: int = 0
    docs_path: str | None = None
    pid: int = 0
    has_health_check: bool = True  #: of the user's; one of an older version does not tell


class ReconfigureRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`reconfigure`: apply changed options in place; calls the user's `reconfigure` if user_config changed."""

    config: DeploymentConfig
    route_prefix: str | None = None
    epoch: int = 0


class PlaceRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`place`: this is your rank, and so many replicas there are. A `reconfigure` that wants the rank hears of it."""

    rank: int
    world_size: int
    epoch: int = 0


class StopRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`stop`: accept nothing more, wait until idle, run the destructor, answer (`MetricsReply`), exit.

    What still runs after `timeout_s` is cancelled, so that its clean-up and the destructor have their turn; a
    process that is then still there is killed by the daemon soon after. Meanwhile each phase is told as an item
    (`PhaseNews`).
    """

    timeout_s: float | None = None  #: None: as long as it takes
    epoch: int = 0


class MetricsReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Answer to `metrics`, and to `stop`: a picture of everything that the replica measures."""

    families: list[Family] = []


class Empty(msgspec.Struct):
    """A reply, or a request, that says nothing (`check_health`, for example)."""


# --- control calls: any client -> daemon (control socket) --------------------------------------


class InstanceInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`info`: where the instance is."""

    pid: int
    keeper_pid: int
    version: str
    epoch: int
    home: str
    http_host: str | None
    http_port: int
    admin_host: str
    admin_port: int
    grpc_host: str | None = None  #: None: no gRPC
    grpc_port: int = 0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One option of the instance as it is in force."""

    name: str  #: as in a settings file, for example "http_options.port"
    value: Any  #: secrets are hidden
    origin: str  #: who chose it: a flag, a variable, a file and line; or "default"


class InstanceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`settings`: every option of the instance."""

    settings: tuple[Setting, ...]


class ReloadKeysReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Answer to `reload_keys`: what is in force now."""

    path: str  #: of the file of API keys
    keys: int
    problem: str = ""  #: why the file is not what is in force; "" if it is
    is_asked_for: bool = False  #: some application needs a key


class UpgradeRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`upgrade`: have a daemon of the code that is installed now take over."""

    grace_s: float = 30.0  #: for requests and connections of the old daemon; then they are cut


class UpgradeReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The new daemon serves; the old one finishes what it has."""

    pid: int


class DeployRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`deploy`: make these applications the goal. Answered once stored.

    With `replace_declarative`, declarative applications that are not listed are deleted; with `replace_all`, those from
    scripts too. With `merge`, the listed ones are put into the document that is in force, and the others stay. With
    `keeps_kind`, a document for a single application and one with several do not replace each other.
    """

    apps: list[AppSubmission]
    replace_declarative: bool = False
    replace_all: bool = False
    document: dict[str, Any] | None = None  #: the whole config as submitted
    merge: bool = False
    keeps_kind: bool = False
    if_revisions: list[int] | None = None  #: refused unless the goal has one of these revisions; None: any


class DeployReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The revision that the goal now has."""

    revision: int


class WaitRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`wait_apps`: answered (`Status`) when none of the named applications is still deploying or deleting."""

    names: list[str]


class GoalRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`goal`: answered with the part of the goal (`state.goal.Goal`) about these applications, without payloads."""

    names: list[str]


class DetailsReply(msgspec.Struct, kw_only=True):
    """Answer to `details`: what `GET /api/serve/applications/` says of the applications."""

    applications: dict[str, Any]


class DeleteRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`delete`: remove applications; answered when their goal is removed (wait with `wait_apps`)."""

    names: list[str]


class IngressRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`ingress`: which deployment answers for this application."""

    app: str


class IngressReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ingress deployment's name; "" if there is no such application."""

    deployment: str = ""


class WatchRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`watch` (a stream of `Membership` items): who serves this deployment, now and on every change."""

    app: str
    deployment: str
    caller: str = ""  #: names whose `load` of this deployment is forgotten when the stream ends


class RoutesRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`routes` (a stream of `Routes` items): where requests go, now and on every change."""

    proxy: int  #: number of the proxy process that asks, from 1
    pid: int


class Routes(msgspec.Struct, array_like=True):
    """The routes in force. Their order says nothing."""

    targets: tuple[RouteTarget, ...]
    keys: int = 0  #: another number than before: the proxy is to read its API keys again
    scrape: int = 0  #: another number than before: it is to tell what it has counted, by `proxy_metrics`


class ProxyMetrics(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`proxy_metrics`: what the doors and routers of a proxy process have counted."""

    number: int
    pid: int
    serial: int  #: the number that asked for it
    families: list[Family]


class AdviserRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`adviser` (a stream of `AdviserPlace` items): who ranks replicas as a user's router does; kept as long as the
    stream is open."""

    app: str
    deployment: str


class AdviserPlace(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where the process listens, for `rank`."""

    socket: str = ""  #: "": there is none at the moment


class DeploymentLoad(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`load`: the calls that one caller has to one deployment, at one moment."""

    app: str
    deployment: str
    caller: str = ""  #: as in `watch`
    queued: int = 0  #: wait for a replica
    running: dict[str, int] = {}  #: sent and not finished, by replica; those with none are left out
    at: float = 0.0  #: when it was so, on the machine's monotonic clock; 0: not told

    @property
    def is_none(self) -> bool:
        """Whether there are no calls at all."""
        return not self.queued and not self.running


class ReplicaEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to reach one replica that may be sent calls."""

    replica_id: str
    socket: str  #: path of its Unix socket
    max_ongoing: int = 100


class MemberState(enum.IntEnum):
    """Whether calls to a deployment should wait, go, or fail."""

    AVAILABLE = 1  #: send to `replicas`; wait while there are none
    FAILED = 2  #: terminal until the next deploy and nothing serves: DeploymentUnavailableError
    MISSING = 3  #: no such deployment (any more): DeploymentNotFoundError


class RouterChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How callers choose a replica, where it is not the built-in way."""

    path: str  #: import path of the `RequestRouter` class
    version: str = ""  #: of the code that it belongs to
    kwargs: dict[str, Any] = {}  #: for its `initialize_state`
    initial_backoff_s: float = 0.025  #: until it is asked again when no replica it named had room
    backoff_multiplier: float = 2.0
    max_backoff_s: float = 0.5


class Membership(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The replicas of one deployment that routers may send calls to."""

    app: str
    deployment: str
    state: MemberState = MemberState.MISSING
    replicas: tuple[ReplicaEndpoint, ...] = ()
    silent: tuple[
        str, ...
    ] = ()  #: ids of others that do not answer: what they have not accepted is taken back
    max_queued: int = -1
    backpressure_status: int = 503
    retry_after_s: float | None = None
    router: RouterChoice | None = None  #: None: the less loaded of two replicas drawn at random
    load_every_s: float = 0.0  #: how often callers tell their load (`load`); 0: nobody wants to know


# --- control calls: daemon -> adviser ------------------------------------------------------------


class Candidate(msgspec.Struct, array_like=True, omit_defaults=True):
    """One replica, as a router that a user wrote hears of it."""

    replica_id: str
    max_ongoing: int
    ongoing: int
    model_ids: list[str] = []
    routing_stats: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class RouterNote(msgspec.Struct, array_like=True):
    """A call was placed at a replica, or has left it."""

    facts: CallFacts
    replica_id: str
    has_ended: bool


class RankRequest(msgspec.Struct, array_like=True):
    """`rank`: order these replicas for this call. `notes` tell what happened since the last time."""

    app: str
    deployment: str
    choice: RouterChoice
    facts: CallFacts
    candidates: list[Candidate]
    notes: list[RouterNote]


class RankReply(msgspec.Struct, array_like=True):
    """Groups of replica ids, the best group first."""

    groups: list[list[str]]


class DecideRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`decide`: ask a custom autoscaling policy how many replicas there should be."""

    app: str
    deployment: str
    policy: str  #: import path of a function, or of a class that is made once with `kwargs`
    kwargs: dict[str, Any] = {}
    context: dict[str, Any] = {}  #: fields of `AutoscalingContext`; replicas by id, `config` as a dict
    state: dict[str, Any] = {}  #: what the policy gave back last time


class DecideReply(msgspec.Struct, array_like=True):
    """What a policy wants."""

    target: float
    state: dict[str, Any]
    took_ms: float = 0.0  #: to decide


class DecideAppRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`decide_app`: ask the policy of an application how many replicas its deployments should have."""

    app: str
    policy: str  #: as in `DecideRequest`
    kwargs: dict[str, Any] = {}
    contexts: dict[str, dict[str, Any]] = {}  #: by deployment, as in `DecideRequest`
    states: dict[str, dict[str, Any]] = {}  #: by deployment: what the policy gave back last time


class DecideAppReply(msgspec.Struct, array_like=True):
    """What the policy of an application wants, by deployment; one that is left out keeps its number."""

    targets: dict[str, float]
    states: dict[str, dict[str, Any]]
    took_ms: float = 0.0  #: to decide


# --- what the proxy is told ----------------------------------------------------------------------


class RouteTarget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where requests under one route prefix go."""

    prefix: str
    app: str
    deployment: str
    is_asgi: bool = False
    requires_key: bool | None = None  #: an API key; None: as the instance's options say
    rate: str | None = None  #: of all requests together, as `rates.parse_rate` takes it
    client_rate: str | None = None  #: of each client: its key, or its address where no key is needed
