"""The classes users configure with, and `DeploymentConfig`, the effective options of one deployment.

The user-facing classes check their fields when made, when assigned to, and when read from a dict
(`from_value`); they refuse unknown fields. Which options a decorator or a document may set on a
deployment, and how they end up in a `DeploymentConfig`, is told by `options.py`. What a scaling policy is told,
`AutoscalingContext`, is in `scaling.py`.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import msgspec

from serve_lite import checks
from serve_lite.checks import Check, ConfigTypeError, described, invalid, or_null
from serve_lite.cluster_only import (
    DeploymentActorConfig,
    GangPlacementStrategy,
    GangRuntimeFailurePolicy,
    GangSchedulingConfig,
)
from serve_lite.cron import cron_expression, time_of_day, time_zone
from serve_lite.scaling import AutoscalingContext

__all__ = [
    "AggregationFunction",
    "AutoscalingConfig",
    "AutoscalingContext",
    "AutoscalingPolicy",
    "AutoscalingSchedule",
    "BackpressureConfig",
    "ControllerOptions",
    "DeploymentActorConfig",
    "DeploymentMode",
    "EncodingType",
    "GangPlacementStrategy",
    "GangRuntimeFailurePolicy",
    "GangSchedulingConfig",
    "HTTPOptions",
    "LoggingConfig",
    "OutlierEjection",
    "ProxyLocation",
    "RequestRouterConfig",
    "TracingConfig",
    "gRPCOptions",
]

DEFAULT_POLICY = "serve_lite.policy.autoscaling:default_autoscaling_policy"
RAYS_DEFAULT_POLICY = "ray.serve.autoscaling_policy:default_autoscaling_policy"
DEFAULT_ROUTER = "serve_lite.routing.router:Router"
MOST_SCHEDULE_S = 366 * 86400.0  #: a window of a schedule may be as long
AUTO_MAX_REPLICAS = 100  #: upper bound that `num_replicas="auto"` implies


class Checked(msgspec.Struct, kw_only=True):
    """A record whose fields are checked whenever they are set."""

    _checks: ClassVar[Mapping[str, Check]] = {}
    _thing: ClassVar[str] = ""
    _required: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            check = self._checks.get(field, checks.anything)
            value = check(getattr(self, field), f"{type(self).__name__}.{field}", True)
            msgspec.structs.force_setattr(self, field, value)
        self._check_whole()
        if not checks.is_ours(sys._getframe(1)):  # made by a user, not read from a document or the wire
            self._advise()

    def __setattr__(self, name: str, value: Any) -> None:
        check = self._checks.get(name, checks.anything)
        super().__setattr__(name, check(value, f"{type(self).__name__}.{name}", True))

    def _check_whole(self) -> None:
        """Check what concerns more than one field."""

    def _advise(self) -> None:
        """Warn of what is allowed and yet unlikely to be meant."""

    @classmethod
    def _check_given(cls, given: Mapping[str, Any], where: str) -> None:
        """Check what only those see who know which fields were given."""

    @classmethod
    def from_value(cls, value: Any, where: str, lax: bool = True) -> Self:
        """Return `value` if it is one already, or one made of a dict; `where` is named in errors."""
        if isinstance(value, cls):
            return value
        fields: dict[str, Check] = {f: cls._checks.get(f, checks.anything) for f in cls.__struct_fields__}
        given = checks.check_fields(
            value,
            fields,
            where,
            lax,
            thing=cls._thing or cls.__name__,
            required=cls._required,
            elsewhere=PLACES,
        )
        cls._check_given(given, where)
        try:
            made = cls(**given)
        except ConfigTypeError:
            raise
        except ValueError as error:
            field = getattr(error, "path", "")
            raise invalid(f"{where}.{field}" if field else where, f"{where}: {error}") from error
        if lax:  # code, which has a line to point at; documents are told by those who read them
            made._advise()
        return made

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of a document's part that becomes such a record, defaults included."""
        fields = {name: cls._checks.get(name, checks.anything) for name in cls.__struct_fields__}
        schema = checks.fields_schema(fields, description=(cls.__doc__ or "").split("\n", maxsplit=1)[0])
        if cls._required:
            schema["required"] = list(cls._required)
        for field in msgspec.structs.fields(cls):
            if field.default is not msgspec.NODEFAULT:
                default = msgspec.to_builtins(field.default)
                default = list(default) if isinstance(default, tuple) else default
                schema["properties"][field.name] = schema["properties"][field.name] | {"default": default}
        return schema

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-like data."""
        return {f: msgspec.to_builtins(getattr(self, f)) for f in self.__struct_fields__}

    def changed_fields(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        default = type(self)()
        return {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) != getattr(default, f)}


#: Names that people put one level too deep or too high, with the place they belong to.
PLACES: dict[str, str] = {
    "max_ongoing_requests": "the deployment itself, beside autoscaling_config",
    "max_queued_requests": "the deployment itself",
    "num_replicas": "the deployment itself",
    "min_replicas": "autoscaling_config",
    "max_replicas": "autoscaling_config",
    "initial_replicas": "autoscaling_config",
    "target_ongoing_requests": "autoscaling_config",
    "upscale_delay_s": "autoscaling_config",
    "downscale_delay_s": "autoscaling_config",
    "num_cpus": "ray_actor_options",
    "num_gpus": "ray_actor_options",
    "request_timeout_s": "http_options",
    "keep_alive_timeout_s": "http_options",
    "working_dir": "runtime_env",
    "env_vars": "runtime_env",
    "py_modules": "runtime_env",
    "pip": "runtime_env",
    "uv": "runtime_env",
    "py_executable": "runtime_env",
    "route_prefix": "the application",
    "import_path": "the application",
    "args": "the application",
    "external_scaler_enabled": "the application",
    "rollback_on_failure": "the application",
    "rate_limit": "the application",
    "client_rate_limit": "the application",
    "runtime_env": "ray_actor_options, or the application",
    "proxy_location": "the top of the document",
    "http_options": "the top of the document",
    "grpc_options": "the top of the document",
    "target_capacity": "the top of the document",
}


# --- where and how requests come in --------------------------------------------------------------


class ProxyLocation(enum.StrEnum):
    """Where proxies run. On one machine HeadOnly and EveryNode are the same."""

    Disabled = "Disabled"  #: no HTTP and no gRPC, only handles
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"

    @classmethod
    def from_value(cls, value: ProxyLocation | DeploymentMode | str | None) -> ProxyLocation:
        """Return the location that a name means; None means EveryNode, "NoServer" Disabled.

        Raises:
            ValueError: an unknown name.
            TypeError: not a name.
        """
        if value is None:
            return cls.EveryNode
        if not isinstance(value, str):
            raise checks.wrong(value, "proxy_location", _LOCATIONS, wrong_type=True)
        name = {"NoServer": "Disabled", "FixedNumber": "EveryNode"}.get(str(value), str(value))
        try:
            return cls(name)
        except ValueError:
            raise checks.wrong(str(value), "proxy_location", _LOCATIONS) from None


_LOCATIONS = '"Disabled", "HeadOnly" or "EveryNode"'


class DeploymentMode(enum.StrEnum):
    """Ray Serve 2.7's name for `ProxyLocation`."""

    NoServer = "NoServer"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
    FixedNumber = "FixedNumber"


@described({"enum": [*ProxyLocation, "NoServer", "FixedNumber", None]})
def _location(value: Any, where: str, lax: bool) -> ProxyLocation | None:
    return None if value is None else ProxyLocation.from_value(value)


@described({"type": "array", "maxItems": 0})
def _no_middlewares(value: Any, where: str, lax: bool) -> list[Any]:
    if checks.list_of(checks.anything)(value, where, lax):
        raise invalid(where, f"{where} is not supported; add the middleware to your ASGI app.")
    return []


@described({"enum": ["native", "hypercorn"]})
def _server(value: Any, where: str, lax: bool) -> str:
    if value not in ("native", "hypercorn"):
        raise checks.wrong(value, where, '"native" or "hypercorn"', wrong_type=not isinstance(value, str))
    return str(value)


@checks.described({"type": "string", "minLength": 1})
def _trusted(value: Any, where: str, lax: bool) -> str:
    if isinstance(value, str):
        import ipaddress  # not needed by those who import us to write a deployment

        try:
            return value if value == "*" else str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            pass
    expected = 'an address ("10.0.0.1"), a network ("10.0.0.0/8") or "*"'
    raise checks.wrong(value, where, expected, wrong_type=not isinstance(value, str))


class HTTPOptions(Checked, kw_only=True):
    """How the HTTP front listens."""

    host: str | None = "127.0.0.1"  #: None: no HTTP at all
    port: int = 8000  #: 0: chosen by the kernel and reported
    middlewares: list[Any] = []  #: not supported; wrap the ASGI app instead
    location: ProxyLocation | None = None  #: deprecated; the `proxy_location` of `serve.start`
    num_cpus: float = 0.0  #: accepted for Ray; must be 0
    root_url: str = ""
    root_path: str = ""  #: prefix that an outer proxy strips; requests arrive without it
    request_timeout_s: float | None = None  #: end to end, queueing and streaming included; None: no limit
    keep_alive_timeout_s: float = 90.0  #: idle seconds until a connection is closed
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    fixed_number_replicas: int | None = None  #: accepted for Ray; one machine has one proxy
    fixed_number_selection_seed: int = 0  #: accepted for Ray
    server: str = "native"  #: "native": our HTTP/1.1 front; "hypercorn": hypercorn for everything
    first_byte_timeout_s: float | None = None  #: from the end of a request to the first byte of its answer
    idle_timeout_s: float | None = None  #: between two pieces of a streamed answer
    read_timeout_s: float = 60.0  #: for a request to come, once it has begun
    write_timeout_s: float = 60.0  #: for a client that takes nothing of its answer
    max_connections: int | None = None  #: more are answered 503; None: what open descriptors allow
    max_headers: int = 200  #: of a request; more are answered 431
    max_header_bytes: int = 65536  #: request line and headers; more is answered 431
    max_body_bytes: int | None = None  #: of a request; more is answered 413
    forwarded_allow_ips: list[
        str
    ] = []  #: whose `X-Forwarded-For` and `-Proto` are believed; "*": everybody's
    require_api_key: bool = False  #: of applications that do not say; an API key, at HTTP and gRPC
    api_keys_file: str | None = None  #: None: `api-keys` in the state directory
    access_log: str | None = (
        None  #: file of the proxy's access log; "stdout": the daemon's output; None: none
    )
    http3: bool = False  #: HTTP/3 on the same port, by UDP; needs certificates, and aioquic

    _thing: ClassVar[str] = "HTTP options"
    _checks: ClassVar[Mapping[str, Check]] = {
        "host": checks.text(none=True),
        "port": checks.integer(at_least=0, at_most=65535),
        "middlewares": _no_middlewares,
        "location": _location,
        "num_cpus": checks.real(at_least=0, at_most=0),
        "root_url": checks.text(),
        "root_path": checks.text(),
        "request_timeout_s": checks.real(above=0, none=True),
        "keep_alive_timeout_s": checks.real(above=0),
        "ssl_keyfile": checks.text(none=True),
        "ssl_certfile": checks.text(none=True),
        "ssl_keyfile_password": checks.text(none=True),
        "ssl_ca_certs": checks.text(none=True),
        "fixed_number_replicas": checks.integer(at_least=1, none=True),
        "fixed_number_selection_seed": checks.integer(),
        "server": _server,
        "first_byte_timeout_s": checks.real(above=0, none=True),
        "idle_timeout_s": checks.real(above=0, none=True),
        "read_timeout_s": checks.real(above=0),
        "write_timeout_s": checks.real(above=0),
        "max_connections": checks.integer(at_least=1, none=True),
        "max_headers": checks.integer(at_least=1, at_most=10_000),
        "max_header_bytes": checks.integer(at_least=1024, at_most=1024 * 1024),
        "max_body_bytes": checks.integer(at_least=0, none=True),
        "forwarded_allow_ips": checks.list_of(_trusted),
        "require_api_key": checks.flag,
        "api_keys_file": checks.text(none=True, empty=False),
        "access_log": checks.text(none=True, empty=False),
        "http3": checks.flag,
    }

    def _check_whole(self) -> None:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise invalid("ssl_keyfile", "ssl_keyfile and ssl_certfile must be given together.")

    def _advise(self) -> None:
        if self.location is not None:
            checks.warn_deprecated(
                "HTTPOptions.location is deprecated; use the proxy_location of serve.start."
            )


class gRPCOptions(Checked, kw_only=True):  # noqa: N801  (Ray Serve's name)
    """How the gRPC front listens. There is none while `grpc_servicer_functions` is empty."""

    port: int = 9000
    grpc_servicer_functions: list[str] = []  #: import paths of generated `add_XServicer_to_server` functions
    request_timeout_s: float | None = None
    enable_reflection: bool = True
    max_receive_message_bytes: int = 2**31 - 1  #: of a client; a larger message ends its request
    max_send_message_bytes: int = 2**31 - 1  #: of an application; a larger message ends its answer
    max_connections: int | None = None  #: more are turned away; None: what open descriptors allow

    _thing: ClassVar[str] = "gRPC options"
    _checks: ClassVar[Mapping[str, Check]] = {
        "port": checks.integer(at_least=0, at_most=65535),
        "grpc_servicer_functions": checks.list_of(checks.import_path),
        "request_timeout_s": checks.real(above=0, none=True),
        "enable_reflection": checks.flag,
        "max_receive_message_bytes": checks.integer(at_least=0, at_most=2**31 - 1),
        "max_send_message_bytes": checks.integer(at_least=0, at_most=2**31 - 1),
        "max_connections": checks.integer(at_least=1, none=True),
    }

    @property
    def grpc_servicer_func_callable(self) -> list[Callable[..., Any]]:
        """The servicer functions, imported.

        Raises:
            ModuleNotFoundError, AttributeError: one cannot be found.
            ValueError: one is not callable.
        """
        found = []
        for path in self.grpc_servicer_functions:
            module, _, name = path.replace(":", ".").rpartition(".")
            target = getattr(importlib.import_module(module), name)
            if not callable(target):
                raise invalid(
                    "grpc_servicer_functions", f"{path!r} is not callable; give an add_*_to_server function."
                )
            found.append(target)
        return found


@described({"type": "object", "propertyNames": {"minLength": 1}, "additionalProperties": {"type": "string"}})
def _variables(value: Any, where: str, lax: bool) -> dict[str, str]:
    variables: dict[str, str] = checks.mapping_of(checks.text())(value, where, lax)
    if "" in variables:
        raise invalid(where, f"{where} has a variable without a name; give each one a name.")
    return variables


@described(lambda: or_null(checks.fields_schema({"env_vars": _variables})))
def _controller_env(value: Any, where: str, lax: bool) -> dict[str, Any] | None:
    if value is None:
        return None
    return checks.check_fields(
        value, {"env_vars": _variables}, where, lax, thing="the controller's runtime_env"
    )


class ControllerOptions(Checked, kw_only=True):
    """Options of the controller: only environment variables, and only Ray needs them."""

    runtime_env: dict[str, Any] | None = None

    _thing: ClassVar[str] = "controller options"
    _checks: ClassVar[Mapping[str, Check]] = {"runtime_env": _controller_env}


# --- logs and traces -----------------------------------------------------------------------------


class EncodingType(enum.StrEnum):
    """How log lines are written."""

    TEXT = "TEXT"
    JSON = "JSON"


#: As the logging module has them; it is not imported here because pure rooms import this module.
_LEVELS = {
    "CRITICAL": 50,
    "FATAL": 50,
    "ERROR": 40,
    "WARNING": 30,
    "WARN": 30,
    "INFO": 20,
    "DEBUG": 10,
    "NOTSET": 0,
}
_RECORD_ATTRIBUTES = frozenset(
    "args asctime created exc_info exc_text filename funcName levelname levelno lineno message module msecs "
    "msg name pathname process processName relativeCreated stack_info taskName thread threadName".split()
)


# The second alternative takes other spellings, and lets an editor offer the first.
@described({"anyOf": [{"enum": list(_LEVELS)}, {"type": ["string", "integer"]}]})
def _level(value: Any, where: str, lax: bool) -> str:
    if isinstance(value, str) and value.upper() in _LEVELS:
        return value.upper()
    if isinstance(value, int) and not isinstance(value, bool):
        for name, number in _LEVELS.items():
            if number == value:
                return name
    raise checks.wrong(value, where, "a level that the logging module knows, such as 'INFO'")


@described({"type": "array", "items": {"enum": sorted(_RECORD_ATTRIBUTES)}})
def _record_attributes(value: Any, where: str, lax: bool) -> list[str]:
    names = checks.list_of(checks.text(empty=False))(value, where, lax)
    for name in names:
        if name not in _RECORD_ATTRIBUTES:
            raise checks.unknown_key(name, where, _RECORD_ATTRIBUTES, thing="a LogRecord")
    return list(dict.fromkeys(names))


class LoggingConfig(Checked, kw_only=True):
    """How replicas write their logs. A deployment's own config wins over the app's, that over the global."""

    encoding: EncodingType = EncodingType.TEXT
    log_level: str | int = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: list[str] = []  #: names of LogRecord attributes to add to JSON lines

    _thing: ClassVar[str] = "a logging config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "encoding": checks.one_of(EncodingType),
        "log_level": _level,
        "logs_dir": checks.text(none=True),
        "enable_access_log": checks.flag,
        "additional_log_standard_attrs": _record_attributes,
    }


@described({"type": "string"})
def _exporter(value: Any, where: str, lax: bool) -> str:
    return "" if value == "" else checks.import_path(value, where, lax)


class TracingConfig(Checked, kw_only=True):
    """How spans are exported."""

    enabled: bool = False
    exporter_import_path: str = ""
    sampling_ratio: float = 0.01  #: share of requests that are traced, 0 to 1

    _thing: ClassVar[str] = "a tracing config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "enabled": checks.flag,
        "exporter_import_path": _exporter,
        "sampling_ratio": checks.real(at_least=0, at_most=1),
    }


# --- scaling, routing, refusing ------------------------------------------------------------------


class AggregationFunction(enum.StrEnum):
    """How the load samples of the look-back period become one number."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


@described({"anyOf": [{"enum": list(AggregationFunction)}, {"type": "string"}]})
def _aggregation(value: Any, where: str, lax: bool) -> AggregationFunction:
    folded = value.lower() if isinstance(value, str) else value
    return checks.one_of(AggregationFunction)(folded, where, lax)  # type: ignore[no-any-return]  # checked


@described(lambda: checks.schema_of(checks.import_path))
def _policy_function(value: Any, where: str, lax: bool) -> str:
    path = checks.importable(value, where, lax)
    return DEFAULT_POLICY if path == RAYS_DEFAULT_POLICY else path


@described({"type": "object"})
def _arguments(value: Any, where: str, lax: bool) -> Any:
    return checks.json_value(checks.mapping_of()(value, where, lax), where, lax)


@described(
    lambda: {
        "anyOf": [
            AutoscalingPolicy.json_schema(),
            checks.schema_of(checks.import_path),
            {"type": "null"},
        ]
    }
)
def _policy(value: Any, where: str, lax: bool) -> AutoscalingPolicy:
    if value is None:
        return AutoscalingPolicy()
    if isinstance(value, str) or callable(value):
        return AutoscalingPolicy(policy_function=value)
    return AutoscalingPolicy.from_value(value, where, lax)


class AutoscalingPolicy(  # type: ignore[misc]  # a frozen struct may extend one that is not
    Checked, kw_only=True, frozen=True, omit_defaults=True
):
    """A custom decision: `fn(ctx) -> (target_replicas, state)`, as import path or importable callable.

    `ctx` is an `AutoscalingContext`. A class is made once with `policy_kwargs`, and its objects are called.
    """

    policy_function: Any = DEFAULT_POLICY
    policy_kwargs: dict[str, Any] = {}

    _thing: ClassVar[str] = "an autoscaling policy"
    _checks: ClassVar[Mapping[str, Check]] = {
        "policy_function": _policy_function,
        "policy_kwargs": _arguments,
    }


class AutoscalingSchedule(  # type: ignore[misc]  # a frozen struct may extend one that is not
    Checked, kw_only=True, frozen=True, omit_defaults=True
):
    """Other bounds for the number of replicas at certain times; our own addition, which Ray Serve ignores.

    From each time that `cron` names, for `duration_s` seconds or until it is `until` next.
    """

    cron: str  #: minute, hour, day of the month, month, day of the week
    timezone: str = "UTC"  #: in which `cron` and `until` are meant
    min_replicas: int | None = None  #: at least so many; None: no more than else
    max_replicas: int | None = None  #: in the place of the deployment's; None: as else
    duration_s: float | None = None
    until: str | None = None  #: a time of day, such as "18:30"

    _thing: ClassVar[str] = "a schedule"
    _required: ClassVar[tuple[str, ...]] = ("cron",)
    _checks: ClassVar[Mapping[str, Check]] = {
        "cron": cron_expression,
        "timezone": time_zone,
        "min_replicas": checks.integer(at_least=0, none=True),
        "max_replicas": checks.integer(at_least=1, none=True),
        "duration_s": checks.real(above=0, at_most=MOST_SCHEDULE_S, none=True),
        "until": time_of_day,
    }

    def _check_whole(self) -> None:
        if (self.duration_s is None) == (self.until is None):
            raise invalid(
                "", "give either duration_s or until, which say when the window that cron begins is over."
            )
        if self.min_replicas is None and self.max_replicas is None:
            raise invalid("", "give min_replicas or max_replicas; else the schedule changes nothing.")


@described(lambda: {"type": "array", "items": AutoscalingSchedule.json_schema()})
def _schedules(value: Any, where: str, lax: bool) -> tuple[AutoscalingSchedule, ...]:
    if not isinstance(value, list | tuple):
        raise checks.wrong(value, where, "a list of schedules", wrong_type=True)
    return tuple(AutoscalingSchedule.from_value(one, f"{where}[{i}]", lax) for i, one in enumerate(value))


class AutoscalingConfig(  # type: ignore[misc]  # a frozen struct may extend one that is not
    Checked, frozen=True, kw_only=True, omit_defaults=True
):
    """How the number of replicas follows the load."""

    min_replicas: int = 1
    initial_replicas: int | None = None
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0  #: requests running or queued, per replica
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    smoothing_factor: float = 1.0  #: deprecated in Ray Serve; use the two scaling factors
    upscale_smoothing_factor: float | None = None  #: deprecated in Ray Serve; `upscaling_factor`
    downscale_smoothing_factor: float | None = None  #: deprecated in Ray Serve; `downscaling_factor`
    upscaling_factor: float | None = None  #: share of a wanted increase that is made
    downscaling_factor: float | None = None
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None  #: for the step from 1 to 0; None: `downscale_delay_s`
    aggregation_function: AggregationFunction = AggregationFunction.MEAN
    policy: AutoscalingPolicy = AutoscalingPolicy()  #: also as a dict, a function, a class or an import path
    target_num_ongoing_requests_per_replica: float | None = None  #: 2.7's name; None once read
    schedules: tuple[AutoscalingSchedule, ...] = ()  #: other bounds at certain times

    _thing: ClassVar[str] = "autoscaling_config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "min_replicas": checks.integer(at_least=0),
        "initial_replicas": checks.integer(at_least=0, none=True),
        "max_replicas": checks.integer(at_least=1),
        "target_ongoing_requests": checks.real(above=0),
        "metrics_interval_s": checks.real(above=0),
        "look_back_period_s": checks.real(above=0),
        "smoothing_factor": checks.real(above=0),
        "upscale_smoothing_factor": checks.real(above=0, none=True),
        "downscale_smoothing_factor": checks.real(above=0, none=True),
        "upscaling_factor": checks.real(above=0, none=True),
        "downscaling_factor": checks.real(above=0, none=True),
        "upscale_delay_s": checks.real(at_least=0),
        "downscale_delay_s": checks.real(at_least=0),
        "downscale_to_zero_delay_s": checks.real(at_least=0, none=True),
        "aggregation_function": _aggregation,
        "policy": _policy,
        "target_num_ongoing_requests_per_replica": checks.real(above=0, none=True),
        "schedules": _schedules,
    }

    def _check_whole(self) -> None:
        self._read_old_target()
        if self.min_replicas > self.max_replicas:
            raise invalid(
                "min_replicas",
                f"min_replicas ({self.min_replicas}) is larger than max_replicas ({self.max_replicas}).",
            )
        first = self.initial_replicas
        if first is not None and not self.min_replicas <= first <= self.max_replicas:
            raise invalid(
                "initial_replicas",
                f"initial_replicas ({first}) is not between min_replicas ({self.min_replicas}) "
                f"and max_replicas ({self.max_replicas}).",
            )
        for i, schedule in enumerate(self.schedules):
            fewest = max(self.min_replicas, schedule.min_replicas or 0)
            most = self.max_replicas if schedule.max_replicas is None else schedule.max_replicas
            if fewest > most:
                raise invalid(
                    f"schedules[{i}]",
                    f"schedules[{i}] ({schedule.cron!r}) asks for at least {fewest} and at most {most} replicas, "
                    "counting what it leaves to autoscaling_config; give it a larger max_replicas too.",
                )

    def _advise(self) -> None:
        if self.look_back_period_s <= self.metrics_interval_s:
            checks.warn(
                f"look_back_period_s ({self.look_back_period_s:g}) is not longer than metrics_interval_s "
                f"({self.metrics_interval_s:g}), so a decision may see no sample; make it several times as long.",
                FutureWarning,
            )
        defaults = {"metrics_interval_s": 10.0, "smoothing_factor": 1.0}
        for old, new in _OLD_SCALING.items():
            if getattr(self, old) != defaults.get(old):
                checks.warn_deprecated(f"{old} is deprecated in Ray Serve; {new}.")

    def _read_old_target(self) -> None:
        old = self.target_num_ongoing_requests_per_replica
        if old is None:
            return
        if self.target_ongoing_requests not in (2.0, old):
            raise invalid(
                "target_ongoing_requests",
                f"target_ongoing_requests is {self.target_ongoing_requests:g} and its old name "
                f"target_num_ongoing_requests_per_replica is {old:g}; give only the first.",
            )
        checks.warn_deprecated(
            "target_num_ongoing_requests_per_replica is called target_ongoing_requests now."
        )
        msgspec.structs.force_setattr(self, "target_ongoing_requests", old)
        msgspec.structs.force_setattr(self, "target_num_ongoing_requests_per_replica", None)

    @classmethod
    def _check_given(cls, given: Mapping[str, Any], where: str) -> None:
        old, new = "target_num_ongoing_requests_per_replica", "target_ongoing_requests"
        # One of them may be given with its default value, which a finished object cannot tell.
        if given.get(old) is not None and given.get(new, given[old]) != given[old]:
            raise invalid(
                f"{where}.{old}",
                f"{where}.{new} is {given[new]:g} and its other name, {old}, is {given[old]:g}; give one.",
            )

    @classmethod
    def default(cls) -> AutoscalingConfig:
        """Return what `num_replicas="auto"` starts from."""
        return cls(min_replicas=1, max_replicas=AUTO_MAX_REPLICAS, target_ongoing_requests=2)

    def get_upscaling_factor(self) -> float:
        """Return the share of a wanted increase that is made: the newest of the three options that is set."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        """Return the share of a wanted decrease that is made: the newest of the three options that is set."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor

    def get_target_ongoing_requests(self) -> float:
        """Return how many requests, running or queued, each replica should have."""
        return self.target_ongoing_requests

    def first_target(self) -> int:
        """Return how many replicas a new deployment starts with."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas

    def to_dict(self) -> dict[str, Any]:
        """Return every field that REST shows."""
        shown = super().to_dict()
        del shown["target_num_ongoing_requests_per_replica"]
        shown["policy"] = self.policy.to_dict()
        if self.schedules:
            shown["schedules"] = [schedule.to_dict() for schedule in self.schedules]
        else:
            del shown["schedules"]  # not Ray's, so only shown where there are some
        return shown


_OLD_SCALING: Mapping[str, str] = {
    "metrics_interval_s": "leave it out",
    "smoothing_factor": "use upscaling_factor and downscaling_factor",
    "upscale_smoothing_factor": "use upscaling_factor",
    "downscale_smoothing_factor": "use downscaling_factor",
}


@described(lambda: checks.schema_of(checks.import_path))
def _router_class(value: Any, where: str, lax: bool) -> str:
    path = checks.importable(value, where, lax)
    if not isinstance(value, str) and not (isinstance(value, type) and hasattr(value, "choose_replicas")):
        raise invalid(
            where, f"{where} is {path}; it must be a subclass of serve_lite.request_router.RequestRouter."
        )
    return path


class RequestRouterConfig(Checked, kw_only=True):
    """How callers choose a replica, and how they wait for one."""

    request_router_class: Any = DEFAULT_ROUTER  #: import path or importable class
    request_router_kwargs: dict[str, Any] = {}
    request_routing_stats_period_s: float = 10.0
    request_routing_stats_timeout_s: float = 30.0
    initial_backoff_s: float = 0.025
    backoff_multiplier: float = 2.0
    max_backoff_s: float = 0.5

    _thing: ClassVar[str] = "a request router config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "request_router_class": _router_class,
        "request_router_kwargs": _arguments,
        "request_routing_stats_period_s": checks.real(above=0),
        "request_routing_stats_timeout_s": checks.real(above=0),
        "initial_backoff_s": checks.real(at_least=0),
        "backoff_multiplier": checks.real(above=0),
        "max_backoff_s": checks.real(at_least=0),
    }


class BackpressureConfig(Checked, kw_only=True):
    """What a client is told when `max_queued_requests` calls already wait."""

    status_code: int = 503  #: 503 or 429
    retry_after_s: float | None = None  #: for the `Retry-After` header, rounded up to whole seconds

    _thing: ClassVar[str] = "a backpressure config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "status_code": checks.either(503, 429),
        "retry_after_s": checks.real(at_least=0, none=True),
    }


class OutlierEjection(Checked, kw_only=True):
    """When a replica that fails while others of its deployment do not is sent nothing for a while."""

    consecutive_errors: int = 5  #: calls in a row that raised or were answered with a status from 500
    interval_s: float = 10.0  #: each that passes without an ejection makes up for an earlier one
    base_ejection_s: float = (
        30.0  #: how long the first ejection lasts; the second takes twice as long, and so on
    )
    max_ejection_percent: int = 50  #: of the replicas; one may always be ejected, and never all of them

    _thing: ClassVar[str] = "an outlier ejection config"
    _checks: ClassVar[Mapping[str, Check]] = {
        "consecutive_errors": checks.integer(at_least=1),
        "interval_s": checks.real(above=0),
        "base_ejection_s": checks.real(above=0),
        "max_ejection_percent": checks.integer(at_least=1, at_most=100),
    }


# --- the effective options of one deployment -----------------------------------------------------


class DeploymentConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The effective options of one deployment. Built by `options.apply_overrides` only, so always valid."""

    num_replicas: int = 1  #: with autoscaling: how many to start with
    max_ongoing_requests: int = 100
    max_queued_requests: int = -1
    user_config: Any = None
    autoscaling_config: AutoscalingConfig | None = None
    graceful_shutdown_wait_loop_s: float = 2.0
    graceful_shutdown_timeout_s: float = 20.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    alive_timeout_s: float | None = 30.0
    deadlock_timeout_s: float | None = 60.0
    progress_timeout_s: float | None = None
    outlier_ejection: OutlierEjection | None = None
    ray_actor_options: dict[str, Any] = {}
    max_constructor_retry_count: int = 20
    rolling_update_percentage: float = 0.2
    max_surge_percent: int | None = None  #: None: one extra replica while updating
    min_ready_s: float = 0.0  #: a new replica counts as one only after so long without a failure
    backpressure_status: int = 503
    retry_after_s: float | None = None
    serialize_sync: bool = False
    sync_threads: int | None = None  #: None: min(max_ongoing_requests, 5)
    max_replica_age_s: float | None = None  #: a replica that is older is replaced; None: never for that
    max_replica_requests: int | None = None  #: the same for one that has answered as many
    max_replica_memory_bytes: int | None = None  #: the same for one that occupies more
    #: "own": each replica is bound to as many CPUs of its own as `num_cpus` says; numbers: to these
    cpu_affinity: str | list[int] | None = None
    logging_config: dict[str, Any] | None = None
    request_router_config: dict[str, Any] | None = None
    accepted: dict[str, Any] = {}  #: options that Ray knows and one machine does not need, as given
