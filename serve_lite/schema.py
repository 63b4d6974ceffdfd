"""The shapes that status answers and configuration documents have.

First half: what `serve.status()`, the command line and REST report, with Ray Serve's names. `state/status.py`
fills them; `msgspec.json.decode(answer, type=ServeInstanceDetails)` reads the answer of REST.
Second half: the documents that REST and `serve deploy` accept, and `parse_deploy_document`, which
checks one whole before anything changes. What each option of a deployment may be is told by
`options.py`; merging a document with what the code says is `apply_overrides` there.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import msgspec

from serve_lite import checks
from serve_lite.checks import Check, described, invalid, or_null, wrong
from serve_lite.config import (
    PLACES,
    AutoscalingPolicy,
    Checked,
    ControllerOptions,
    EncodingType,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    gRPCOptions,
)
from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import (
    ALIASES,
    OPTIONS,
    apply_overrides,
    canonical,
    config_to_dict,
    route_prefix,
)
from serve_lite.rates import rate_or_null

__all__ = [
    "ApplicationDetails",
    "ApplicationStatus",
    "ApplicationStatusInfo",
    "ApplicationStatusOverview",
    "AutoscalingDecision",
    "AutoscalingDetail",
    "DeploymentDetails",
    "DeploymentNode",
    "DeploymentSchema",
    "DeploymentStatus",
    "DeploymentStatusInfo",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "DeploymentTopology",
    "EncodingType",
    "HTTPOptionsSchema",
    "LoggingConfig",
    "Phase",
    "ProxyDetails",
    "ProxyStatus",
    "RayActorOptionsSchema",
    "ReplicaDetails",
    "ReplicaRank",
    "ReplicaState",
    "ServeActorDetails",
    "ServeApplicationSchema",
    "ServeDeploySchema",
    "ServeInstanceDetails",
    "ServeStatus",
    "ServeStatusSchema",
    "Target",
    "TargetGroup",
    "TopologyNode",
    "TracingConfig",
    "apply_overrides",
    "config_to_dict",
    "gRPCOptionsSchema",
    "parse_application_document",
    "parse_deploy_document",
]

T = TypeVar("T")


class ApplicationStatus(enum.StrEnum):
    """Where one application stands. Members compare equal to their names as strings."""

    NOT_STARTED = "NOT_STARTED"  #: no such application
    DEPLOYING = "DEPLOYING"  #: being built, or replicas still starting or being replaced
    DEPLOY_FAILED = "DEPLOY_FAILED"  #: given up until the next deploy; what ran before still runs
    RUNNING = "RUNNING"  #: every deployment is healthy
    UNHEALTHY = "UNHEALTHY"  #: was running; a deployment is not healthy any more
    DELETING = "DELETING"  #: its replicas are being stopped


class DeploymentStatus(enum.StrEnum):
    """Where one deployment stands."""

    UPDATING = "UPDATING"  #: new code or options are being rolled out
    HEALTHY = "HEALTHY"  #: as many ready replicas of the right version as wanted
    UNHEALTHY = "UNHEALTHY"  #: replicas died or failed their health checks
    DEPLOY_FAILED = "DEPLOY_FAILED"  #: new replicas kept failing to start
    UPSCALING = "UPSCALING"  #: more replicas are being started
    DOWNSCALING = "DOWNSCALING"  #: surplus replicas are being drained


class DeploymentStatusTrigger(enum.StrEnum):
    """Why a deployment has the status it has."""

    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    DEPLOYMENT_ACTOR_FAILED = "DEPLOYMENT_ACTOR_FAILED"  #: Ray only; never reported here
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


class ReplicaState(enum.StrEnum):
    """Where one replica stands, as users are told."""

    STARTING = "STARTING"
    UPDATING = "UPDATING"
    RECOVERING = "RECOVERING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    PENDING_MIGRATION = "PENDING_MIGRATION"  #: Ray only; never reported here


class Phase(enum.StrEnum):
    """What a replica, or an application that is built, is busy with."""

    PREPARING_ENVIRONMENT = (
        "preparing environment"  #: what its `runtime_env` asks for is fetched and installed
    )
    STARTING_PROCESS = "starting process"
    IMPORTING = "importing"  #: user code is loaded
    CONSTRUCTOR = "constructor"
    APPLICATION_STARTUP = "application startup"  #: of an ASGI application: its lifespan
    RECONFIGURE = "reconfigure"  #: the user's `reconfigure` runs
    FIRST_HEALTH_CHECK = "first health check"  #: the user's `check_health` runs for the first time
    READY = "ready"
    RECOVERING = "recovering"  #: it was there when the daemon started and has not answered yet
    DRAINING = "draining"  #: it finishes what it has
    STOPPING = "stopping"
    STOPPED = "stopped"


class ProxyStatus(enum.StrEnum):
    """Where a proxy stands."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


class DeploymentStatusOverview(msgspec.Struct, frozen=True):
    """One deployment in an answer of `serve.status()`."""

    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.UNSPECIFIED
    replica_states: dict[str, int] = {}  #: count of each state that occurs
    message: str = ""


class ApplicationStatusOverview(msgspec.Struct, frozen=True):
    """One application in an answer of `serve.status()`."""

    status: ApplicationStatus
    message: str = ""
    last_deployed_time_s: float = 0.0  #: seconds since the Unix epoch
    deployments: dict[str, DeploymentStatusOverview] = {}


class ServeStatus(msgspec.Struct, frozen=True):
    """What `serve.status()` returns; empty when nothing runs."""

    proxies: dict[str, ProxyStatus] = {}
    applications: dict[str, ApplicationStatusOverview] = {}
    target_capacity: float | None = None


class ApplicationStatusInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An application in `ServeStatusSchema`."""

    status: ApplicationStatus
    message: str = ""
    deployment_timestamp: float = 0.0  #: seconds since the Unix epoch


class DeploymentStatusInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment in `ServeStatusSchema`."""

    name: str
    status: str  #: one of 2.7's three: UPDATING, HEALTHY, UNHEALTHY
    message: str = ""


class ServeStatusSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of `GET /api/serve/deployments/status` (REST V1): one application, as in Ray Serve 2.7."""

    name: str = ""  #: left out when nothing runs
    app_status: ApplicationStatusInfo
    deployment_statuses: list[DeploymentStatusInfo]


# --- details, the answers of REST V2 -------------------------------------------------------------


class ServeActorDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of every process; what is not known of it is None."""

    node_id: str | None = None
    node_ip: str | None = None
    node_instance_id: str | None = None
    actor_id: str | None = None
    actor_name: str | None = None
    worker_id: str | None = None
    log_file_path: str | None = None


class ProxyDetails(ServeActorDetails, frozen=True, kw_only=True):
    """A proxy: the door for HTTP requests."""

    status: ProxyStatus


class ReplicaDetails(ServeActorDetails, frozen=True, kw_only=True):
    """One replica."""

    replica_id: str  #: the short unique one
    state: ReplicaState
    pid: int | None = None
    start_time_s: float | None = None  #: seconds since the Unix epoch
    phase: Phase | None = None  #: what it is busy with
    phase_note: str = ""  #: more about the phase, such as how many requests it waits for
    phase_started_s: float | None = None  #: seconds since the Unix epoch
    phases: dict[str, float] = {}  #: seconds that each finished phase of its start took, in order
    failed_in: Phase | None = None  #: the phase in which its start failed
    last_error: str = ""  #: of its start, a health check or a `reconfigure`; ends with the user's exception
    allotted_resources: dict[str, float] = {}  #: set aside for it, by Ray's names
    gpu_ids: list[str] = []  #: its GPUs, as in CUDA_VISIBLE_DEVICES
    cpu_ids: list[int] = []  #: the CPUs that it is bound to by `cpu_affinity`


class DeploymentNode(msgspec.Struct, frozen=True, kw_only=True):
    """Names a deployment in a `DeploymentTopology`."""

    name: str
    app_name: str


class TopologyNode(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment in a `DeploymentTopology`."""

    name: str
    app_name: str
    outbound_deployments: list[DeploymentNode] = []  #: those it was bound with
    is_ingress: bool = False


class DeploymentTopology(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds handles to whom in one application."""

    app_name: str
    nodes: dict[str, TopologyNode]
    ingress_deployment: str | None = None


class AutoscalingDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a number of replicas that autoscaling has made."""

    timestamp_s: float  #: seconds since the Unix epoch
    reason: str
    prev_num_replicas: int
    curr_num_replicas: int
    policy: str  #: import path


class AutoscalingDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What autoscaling knows of one deployment and did with it, since the daemon started."""

    scaling_status: str  #: UPSCALING, DOWNSCALING or STABLE
    decisions: list[AutoscalingDecision]  #: the last ten, newest last
    metrics: dict[str, float]  #: what the last decision was made of
    #: "healthy"; "delayed" while some callers have not told their load; "unavailable" where all with calls are silent
    metrics_health: str
    errors: list[str]  #: what the custom policy fails with since it last answered


class DeploymentDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment."""

    name: str
    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger
    message: str
    deployment_config: dict[str, Any]  #: the effective options; values of environment variables are hidden
    target_num_replicas: int
    required_resources: dict[str, float]  #: of one replica
    replicas: list[ReplicaDetails]
    recent_dead_replicas: list[ReplicaDetails] = []
    waits_for: str = ""  #: what replicas that cannot be started yet wait for, such as "a GPU"
    waits_since_s: float | None = None  #: seconds since the Unix epoch
    autoscaling_detail: AutoscalingDetail | msgspec.UnsetType = (
        msgspec.UNSET
    )  #: only where it scales by itself


class ApplicationDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One application."""

    name: str
    route_prefix: str | None
    docs_path: str | None  #: where the ingress shows its documentation, below the prefix
    status: ApplicationStatus
    message: str
    last_deployed_time_s: float  #: seconds since the Unix epoch
    deployed_app_config: dict[str, Any] | None  #: as submitted; None for applications from `serve.run`
    source: str  #: "declarative" or "imperative"
    deployments: dict[str, DeploymentDetails]
    external_scaler_enabled: bool = False
    deployment_topology: DeploymentTopology | None = None
    phase: Phase | None = None  #: what its build is busy with; None when it is not built
    phase_started_s: float | None = None  #: seconds since the Unix epoch
    phases: dict[str, float] = {}  #: seconds that each finished phase of its last build took, in order


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An address that an outer balancer may send requests to."""

    ip: str | None
    port: int
    instance_id: str
    name: str = ""


class TargetGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Where an outer balancer would send the requests of one application."""

    targets: list[Target]
    route_prefix: str
    protocol: str  #: "HTTP" or "gRPC"
    app_name: str
    ingress_request_router_targets: list[Target] = []  #: Ray only; always empty here
    ingress_deployment_name: str | None = None


class ServeInstanceDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /api/serve/applications/` (REST V2): everything that is known of the instance."""

    controller_info: ServeActorDetails
    proxy_location: str | None
    http_options: dict[str, Any]
    grpc_options: dict[str, Any]
    proxies: dict[str, ProxyDetails]  #: by node
    deploy_mode: str  #: 2.7's word for the document in force: UNSET, SINGLE_APP, MULTI_APP
    applications: dict[str, ApplicationDetails]
    target_capacity: float | None = None  #: percent of the wanted replicas that run
    target_groups: list[TargetGroup] = []
    #: leaving an option out of a document restores the value in the code
    restores_unset_config_options: bool = True
    #: the document in force, as submitted, with the applications that there are; None if there is none
    deployed_config: dict[str, Any] | None = None
    #: who holds replicas to their `memory`: "kernel", or "watched: " and why not the kernel; only where one has some
    memory_limits: str | msgspec.UnsetType = msgspec.UNSET


class ReplicaRank(msgspec.Struct, frozen=True):
    """The place of a replica among those of its deployment; on one machine the ranks agree."""

    rank: int
    node_rank: int = 0
    local_rank: int = 0


# --- documents -----------------------------------------------------------------------------------


class HTTPOptionsSchema(HTTPOptions, kw_only=True):
    """`http_options` of a document. Listens on loopback unless told otherwise (Ray's default is 0.0.0.0)."""


class gRPCOptionsSchema(gRPCOptions, kw_only=True):  # noqa: N801  (Ray Serve's name)
    """`grpc_options` of a document."""


class RayActorOptionsSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`ray_actor_options` of a deployment: what one replica needs."""

    runtime_env: dict[str, Any] = {}
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None  #: bytes
    object_store_memory: float | None = None  #: 2.7's; accepted
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    label_selector: dict[str, str] | None = None  #: accepted; one machine has nothing to select
    fallback_strategy: list[dict[str, Any]] | None = None  #: accepted


class DeploymentSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an application's `deployments`: options that win over those in the code.

    `configured` holds the options that were given, under today's names; an option that is not in it keeps
    the value from the code.
    """

    name: str
    configured: dict[str, Any]  #: checked values
    submitted: dict[str, Any]  #: the entry exactly as it was

    def __getattr__(self, option: str) -> Any:
        """Return an option's value, or `msgspec.UNSET` if the document does not give it."""
        if option.startswith("__") or option not in OPTIONS:
            raise AttributeError(option)
        return self.configured.get(option, msgspec.UNSET)


class ServeApplicationSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One application of a document, or the whole of a single-application document."""

    import_path: str
    name: str = "default"
    route_prefix: str | None = "/"  #: None: not reachable over HTTP
    runtime_env: dict[str, Any] = {}
    host: str = "127.0.0.1"  #: single-application documents only
    port: int = 8000  #: single-application documents only
    deployments: tuple[DeploymentSchema, ...] = ()
    args: dict[str, Any] = {}  #: for an application builder
    logging_config: LoggingConfig | None = None
    autoscaling_policy: dict[str, Any] | None = None
    external_scaler_enabled: bool = False
    rollback_on_failure: bool = False  #: given up, it makes way for the last revision that worked
    require_api_key: bool | None = None  #: None: as the instance's `http_options` say
    rate_limit: str | None = None  #: of requests over HTTP and gRPC, such as "100/s"
    client_rate_limit: str | None = None  #: the same for each API key, or each address where none is needed
    submitted: dict[str, Any] = {}  #: the application's part of the document exactly as it was

    def is_set(self, field: str) -> bool:
        """Whether the document gives the field, be it with its default value."""
        return field in self.submitted

    @property
    def overrides(self) -> tuple[dict[str, Any], ...]:
        """The entries of `deployments` as submitted, for `AppSubmission.overrides`."""
        return tuple(deployment.submitted for deployment in self.deployments)

    def code_version(self) -> str:
        """Return a text that is equal for documents that run the same code in the same environment.

        Only a difference in it needs a new build and new processes; the options of deployments do not count.
        """
        parts = {
            "import_path": self.import_path,
            "runtime_env": self.runtime_env,
            "args": self.args,
            "autoscaling_policy": self.autoscaling_policy,
            "request_routers": {
                d.name: router
                for d in self.deployments
                if (router := d.submitted.get("request_router_config"))
            },
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


class ServeDeploySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A whole document: options of the instance and its declarative applications."""

    applications: tuple[ServeApplicationSchema, ...]
    proxy_location: ProxyLocation = ProxyLocation.EveryNode
    http_options: HTTPOptionsSchema = msgspec.field(default_factory=HTTPOptionsSchema)
    grpc_options: gRPCOptionsSchema = msgspec.field(default_factory=gRPCOptionsSchema)
    controller_options: ControllerOptions | None = None
    logging_config: LoggingConfig | None = None
    tracing_config: TracingConfig | None = None
    target_capacity: float | None = None  #: percent of the wanted replicas that run
    submitted: dict[str, Any] = {}  #: the document exactly as it was

    def is_set(self, field: str) -> bool:
        """Whether the document gives the field, be it with its default value."""
        return field in self.submitted


def parse_deploy_document(document: Any) -> ServeDeploySchema:
    """Return a document with an `applications` list, checked whole.

    Raises:
        InvalidConfigError: something in it is wrong; the message and `path` say where.
    """
    return _checked(_deploy_schema, document)


def parse_application_document(document: Any) -> ServeApplicationSchema:
    """Return a document that is one application (`import_path` at its top), checked whole.

    Raises:
        InvalidConfigError: something in it is wrong; the message and `path` say where.
    """
    return _checked(lambda plain: _application(plain, "", single=True), document)


def _checked(parse: Callable[[Any], T], document: Any) -> T:
    """Run a parser; a value of the wrong kind is a wrong document like any other."""
    try:
        return parse(checks.plain(document))
    except checks.ConfigTypeError as error:
        plain_error = InvalidConfigError(*error.args)
        plain_error.path = error.path
        raise plain_error from None


def _struct(cls: type[Checked], *, none: bool = False) -> Check:
    @described(lambda: or_null(cls.json_schema(), none))
    def check(value: Any, where: str, lax: bool) -> Any:
        return None if none and value is None else cls.from_value(value, where, lax=False)

    return check


@described({"enum": [*ProxyLocation, "NoServer", "FixedNumber"]})
def _location(value: Any, where: str, lax: bool) -> ProxyLocation:
    if not isinstance(value, str):
        raise wrong(value, where, "a string")
    return ProxyLocation.from_value(value)


@described({"type": "array", "items": {"$ref": "#/$defs/application"}})
def _applications(value: Any, where: str, lax: bool) -> tuple[ServeApplicationSchema, ...]:
    if not isinstance(value, list):
        raise wrong(value, where, "a list of applications")
    return tuple(_application(entry, f"{where}[{i}]", single=False) for i, entry in enumerate(value))


#: What a document may hold at its top.
DEPLOY_FIELDS: Mapping[str, Check] = {
    "proxy_location": _location,
    "http_options": _struct(HTTPOptionsSchema),
    "grpc_options": _struct(gRPCOptionsSchema),
    "controller_options": _struct(ControllerOptions, none=True),
    "logging_config": _struct(LoggingConfig, none=True),
    "tracing_config": _struct(TracingConfig, none=True),
    "applications": _applications,
    "target_capacity": checks.real(at_least=0, at_most=100, none=True),
}


#: Keys at the top that begin so are the user's own: a place for anchors that the rest refers to.
NOTE_PREFIX = "x-"


def without_notes(document: Any) -> Any:
    """Return a document without the keys at its top that are the user's own."""
    if not isinstance(document, Mapping):
        return document
    return {k: v for k, v in document.items() if not (isinstance(k, str) and k.startswith(NOTE_PREFIX))}


def _deploy_schema(document: Any) -> ServeDeploySchema:
    if isinstance(document, Mapping) and "import_path" in document and "applications" not in document:
        raise invalid(
            "import_path",
            "This is a document for a single application. Put what it says into a list entry under 'applications'.",
        )
    fields = checks.check_fields(
        without_notes(document),
        DEPLOY_FIELDS,
        "",
        False,
        thing="the document",
        required=("applications",),
        elsewhere=_ELSEWHERE_THAN_THE_TOP,
    )
    _refuse_duplicates(fields["applications"])
    return ServeDeploySchema(**fields, submitted=document)


def _refuse_duplicates(applications: Collection[ServeApplicationSchema]) -> None:
    for field, default, said in (
        (
            "name",
            "default",
            "Found multiple configs for application {!r}; names must be unique, remove the duplicates.",
        ),
        (
            "route_prefix",
            "/",
            "Found several applications for route prefix {!r}; each prefix must be unique.",
        ),
    ):
        seen: dict[str, int] = {}
        for i, app in enumerate(applications):
            value = getattr(app, field)
            if value is None:
                continue
            if value in seen:
                where = f"applications[{i}].{field}"
                note = "" if app.is_set(field) else f' (an application that does not say has "{default}")'
                raise invalid(
                    where, f"{where}: {said.format(value)} The other is applications[{seen[value]}]{note}."
                )
            seen[value] = i


# --- one application -----------------------------------------------------------------------------


@described({"type": "string", "minLength": 1})
def _app_name(value: Any, where: str, lax: bool) -> str:
    if isinstance(value, str) and not value.strip():
        raise invalid(where, f"{where} is empty; application names must be nonempty.")
    return checks.text()(value, where, lax)  # type: ignore[no-any-return]  # checked


@described({"type": "array", "items": {"$ref": "#/$defs/deployment"}})
def _deployments(value: Any, where: str, lax: bool) -> tuple[DeploymentSchema, ...]:
    if not isinstance(value, list):
        raise wrong(value, where, "a list of deployments")
    entries = tuple(_deployment(entry, f"{where}[{i}]") for i, entry in enumerate(value))
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        if entry.name in seen:
            path = f"{where}[{i}].name"
            raise invalid(path, f"{path}: deployment {entry.name!r} is listed twice; join the two entries.")
        seen.add(entry.name)
    return entries


def _deployment(entry: Any, where: str) -> DeploymentSchema:
    if not isinstance(entry, Mapping):
        raise wrong(entry, where, "a mapping with a name and options")
    if "name" not in entry:
        raise invalid(
            f"{where}.name", f"{where} has no 'name'; say which deployment of the application it is for."
        )
    name = checks.text(empty=False)(entry["name"], f"{where}.name", False)
    options = canonical(entry, where, lax=False, also_known=("name",), warn=lambda text: None)
    return DeploymentSchema(name=name, configured=options, submitted=dict(entry))


@described(lambda: or_null(AutoscalingPolicy.json_schema()))
def _app_policy(value: Any, where: str, lax: bool) -> dict[str, Any] | None:
    return None if value is None else AutoscalingPolicy.from_value(value, where, lax).to_dict()


#: What an application of a document may hold; `host` and `port` only where it is the whole document.
APPLICATION_FIELDS: Mapping[str, Check] = {
    "name": _app_name,
    "route_prefix": route_prefix,
    "import_path": checks.import_path,
    "runtime_env": checks.mapping_of(),
    "host": checks.text(),
    "port": checks.integer(at_least=0, at_most=65535),
    "deployments": _deployments,
    "args": checks.mapping_of(),
    "logging_config": _struct(LoggingConfig, none=True),
    "autoscaling_policy": _app_policy,
    "external_scaler_enabled": checks.flag,
    "rollback_on_failure": checks.flag,
    "require_api_key": checks.flag_or_null,
    "rate_limit": rate_or_null,
    "client_rate_limit": rate_or_null,
}


#: Where names belong that are no fields of an application, and none of a document.
_OPTIONS_BELONG = {
    name: "an entry of 'deployments'" for name in (*OPTIONS, *ALIASES) if name != "route_prefix"
}
_AT_THE_TOP = {name: "the top of the document" for name in DEPLOY_FIELDS if name not in APPLICATION_FIELDS}
_ONLY_WITH_MORE = dict.fromkeys(_AT_THE_TOP, "the top of a document with 'applications'")
_ELSEWHERE_THAN_AN_APPLICATION = {k: v for k, v in PLACES.items() if v != "the application"} | _OPTIONS_BELONG
_ELSEWHERE_THAN_THE_TOP = {
    **PLACES,
    **dict.fromkeys(_OPTIONS_BELONG, "an entry of 'deployments', in an application"),
    **dict.fromkeys(APPLICATION_FIELDS, "an entry of 'applications'"),
    **dict.fromkeys(("host", "port", "root_path", "ssl_keyfile", "ssl_certfile"), "http_options"),
    "grpc_servicer_functions": "grpc_options",
}


def _application(document: Any, where: str, *, single: bool) -> ServeApplicationSchema:
    fields = checks.check_fields(
        without_notes(document) if single else document,
        APPLICATION_FIELDS,
        where,
        False,
        thing="an application",
        required=("import_path",),
        elsewhere=_ELSEWHERE_THAN_AN_APPLICATION | (_ONLY_WITH_MORE if single else _AT_THE_TOP),
    )
    prefix = f"{where}." if where else ""
    for field in ("host", "port"):
        if not single and field in fields:
            raise invalid(
                prefix + field,
                f"{prefix}{field}: host and port may not be set in an application; remove {field} here and set it "
                "under 'http_options' at the top of the document.",
            )
    deployments: tuple[DeploymentSchema, ...] = fields.get("deployments", ())
    fields.setdefault("route_prefix", _prefix_of_deployments(deployments, where))
    if fields.get("external_scaler_enabled"):
        _refuse_autoscaling(deployments, prefix)
    return ServeApplicationSchema(**fields, submitted=document)


def _prefix_of_deployments(deployments: Collection[DeploymentSchema], where: str) -> str:
    """Return the prefix that 2.7's documents give at a deployment; "/" if none does."""
    found = {p for d in deployments if (p := d.configured.get("route_prefix")) is not None}
    if len(found) > 1:
        raise invalid(
            where,
            f"Found multiple route prefixes from application {where or 'the document'}: {', '.join(sorted(found))}. "
            "Give one, as route_prefix of the application.",
        )
    return found.pop() if found else "/"


def _refuse_autoscaling(deployments: Collection[DeploymentSchema], prefix: str) -> None:
    for i, deployment in enumerate(deployments):
        options = deployment.configured
        if options.get("autoscaling_config") is not None or options.get("num_replicas") == "auto":
            raise invalid(
                f"{prefix}deployments[{i}]",
                f"{prefix}deployments[{i}] ({deployment.name!r}) scales automatically, which is not allowed with "
                "external_scaler_enabled.",
            )
