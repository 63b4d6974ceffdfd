"""The options of an instance as their users know them: names in files, variables, flags, and what may be chosen.

One table, `OPTIONS`, of which docs/settings.md shows all. Who has the last word about each is in `sources.py`, and
what a running instance says of them in `effective.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from serve_lite import checks
from serve_lite.checks import Check, described, wrong
from serve_lite.config import HTTPOptions, LoggingConfig, ProxyLocation, gRPCOptions
from serve_lite.daemon.machine_options import MACHINE
from serve_lite.daemon.options import InstanceOptions
from serve_lite.exceptions import InvalidConfigError

LOGGING = "logging_config"  #: the one section that is a single field of `InstanceOptions`

MEMORY_LIMITS = ("auto", "kernel", "watched")

#: What a variable's text means; None means nothing, as if the variable were not set.
Reader = Callable[[str], Any]


class Option(msgspec.Struct, frozen=True):
    """One option that an instance can be started with."""

    name: str  #: in a settings file; sections are those of a config file
    field: str  #: of `InstanceOptions`; of its `logging_config` or `machine` if it belongs there
    check: Check
    about: str
    flag: str = ""  #: of `serve start`
    foreign: tuple[tuple[str, Reader], ...] = ()  #: variables of Ray Serve that are heeded if ours is not set
    is_secret: bool = False
    is_path: bool = False
    words: tuple[str, ...] = ()  #: of a path, what is none

    @property
    def section(self) -> str:
        """The part of a file that it stands in; "" for the top."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_of_machine(self) -> bool:
        """Whether it is a field of `MachineOptions`."""
        return self.name in MACHINE

    @property
    def id(self) -> str:
        """What the option is called where its origin is noted."""
        return self.name if self.section == LOGGING else self.field

    def placed(self, value: Any, folder: str) -> Any:
        """Return a checked value; of a path, the absolute one that is meant by somebody in `folder`."""
        if not self.is_path or not value or value in self.words:
            return value
        return os.path.normpath(os.path.join(folder, os.path.expanduser(value)))

    @property
    def variable(self) -> str:
        """The environment variable: `http_options.port` is SERVE_LITE_HTTP_PORT."""
        section = self.section.partition("_")[0]
        words = self.key.removeprefix(f"{section}_")
        return "_".join(["SERVE_LITE", *([section] if section else []), words]).upper()

    def value_in(self, options: InstanceOptions) -> Any:
        """Return what these options have chosen, as JSON has it."""
        if self.section == LOGGING:
            value = (options.logging_config or {}).get(self.key, getattr(_LOGGING_DEFAULTS, self.key))
        elif self.is_of_machine:
            value = getattr(options.machine, self.field)
        else:
            value = getattr(options, self.field)
        return list(value) if isinstance(value, tuple) else msgspec.to_builtins(value)


def _unless_zero(text: str) -> Any:
    """Ray has 0 for "not set" in variables that hold seconds."""
    return None if text.strip() in ("0", "0.0") else text


def _if_one(value: str) -> Reader:
    return lambda text: value if text == "1" else None


@described({"enum": [*ProxyLocation, "NoServer", "FixedNumber"]})
def _location(value: Any, where: str, lax: bool) -> str:
    try:
        return ProxyLocation.from_value(value if value is not None else 0).value  # type: ignore[arg-type]
    except InvalidConfigError:
        raise wrong(value, where, '"Disabled", "HeadOnly" or "EveryNode"') from None


@described({"enum": list(MEMORY_LIMITS)})
def _memory_limits(value: Any, where: str, lax: bool) -> str:
    if value not in MEMORY_LIMITS:
        raise wrong(value, where, '"auto", "kernel" or "watched"', wrong_type=not isinstance(value, str))
    return str(value)


def _machine(name: str, about: str) -> Option:
    """Return an option that says what there is to give to replicas."""
    return Option(name, name, MACHINE[name], about)


def _of(section: str, record: type[HTTPOptions | gRPCOptions | LoggingConfig]) -> Callable[..., Option]:
    """Return a maker of the options in one section, checked as in a config file."""
    prefix = {"grpc_options": "grpc_", "logging_config": ""}.get(section, "")

    def option(key: str, about: str, *, field: str = "", **more: Any) -> Option:
        named = field or (key if key.startswith(prefix) else f"{prefix}{key}")
        return Option(f"{section}.{key}", named, record._checks[key], about, **more)

    return option


_http, _grpc = _of("http_options", HTTPOptions), _of("grpc_options", gRPCOptions)
_logging = _of("logging_config", LoggingConfig)

OPTIONS: tuple[Option, ...] = (
    Option(
        "proxy_location", "proxy_location", _location, "`Disabled`: no HTTP and no gRPC, only handles",
        "--proxy-location",
    ),
    _http(
        "host", "address of HTTP, and of gRPC; `null` (in a file): no HTTP", field="http_host", flag="--http-host",
        foreign=(("RAY_SERVE_DEFAULT_HTTP_HOST", str),),
    ),
    _http("port", "port of HTTP; 0: the kernel chooses", field="http_port", flag="--http-port"),
    _http("root_path", "path that a server in front has stripped"),
    _http(
        "request_timeout_s", "seconds for a whole request, waiting and streaming included; `null`: no limit",
        foreign=(
            ("RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S", _unless_zero),
            ("SERVE_REQUEST_PROCESSING_TIMEOUT_S", _unless_zero),
        ),
    ),
    _http(
        "keep_alive_timeout_s", "seconds until an idle connection is closed",
        foreign=(("RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S", _unless_zero),),
    ),
    _http("ssl_keyfile", "TLS key, with `ssl_certfile`", is_path=True),
    _http("ssl_certfile", "TLS certificate, with `ssl_keyfile`", is_path=True),
    _http("ssl_keyfile_password", "of the key; hidden when shown", is_secret=True),
    _http("ssl_ca_certs", "clients must show a certificate signed by one of these", is_path=True),
    _http("server", "`native`: our HTTP/1.1 front; `hypercorn`: hypercorn for everything"),
    _http(
        "first_byte_timeout_s", "seconds until an answer begins, once its request has come; then 408; `null`: no limit"
    ),
    _http("idle_timeout_s", "seconds between two pieces of a streamed answer; then it is cut; `null`: no limit"),
    _http("read_timeout_s", "seconds for a request that has begun to come; then 408"),
    _http("write_timeout_s", "seconds that a client may take nothing of its answer; then it is cut off"),
    _http(
        "max_connections", "connections of HTTP at once, more get 503; `null`: nine tenths of the open files allowed"
    ),
    _http("max_headers", "headers of a request; more get 431"),
    _http("max_header_bytes", "request line and headers; more get 431"),
    _http("max_body_bytes", "body of a request; more get 413; `null`: no limit"),
    _http("http3", "HTTP/3 too, on the same port of UDP; needs certificates, `pip install 'serve-lite[http3]'`"),
    _http(
        "forwarded_allow_ips",
        "addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; `*`: everybody's",
    ),
    _http(
        "require_api_key", "whether applications that do not say need an [API key](keys.md), at HTTP and gRPC"
    ),
    _http("api_keys_file", "file of API keys; `null`: `api-keys` in the state directory", is_path=True),
    _http(
        "access_log", "file with a line for each request of HTTP and gRPC; `stdout`: the daemon's output; `null`: none",
        is_path=True, words=("stdout",),
    ),
    _grpc("port", "port of gRPC; 0: the kernel chooses", flag="--grpc-port"),
    _grpc(
        "grpc_servicer_functions", "import paths of `add_..._to_server` functions; without any there is no gRPC",
        flag="--grpc-servicer-functions",
    ),
    _grpc("request_timeout_s", "seconds for a gRPC call; `null`: the client's own deadline only"),
    _grpc("enable_reflection", "gRPC reflection", flag="--grpc-enable-reflection"),
    _grpc(
        "max_receive_message_bytes", "of one message of a client; a larger one is RESOURCE_EXHAUSTED",
        foreign=(("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str),),
    ),
    _grpc(
        "max_send_message_bytes", "of one message of an application; a larger one is RESOURCE_EXHAUSTED",
        foreign=(("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str),),
    ),
    _grpc(
        "max_connections",
        "connections of gRPC at once, more are turned away; `null`: nine tenths of the open files allowed",
    ),
    Option(
        "admin_host", "admin_host", checks.text(empty=False),
        "address of the REST API; one that is not loopback needs a token, see docs/security.md",
    ),
    Option(
        "admin_port", "admin_port", checks.integer(at_least=0, at_most=65535),
        "port of the REST API; 0: the kernel chooses", "--admin-port",
    ),
    Option(
        "proxy_processes", "proxy_processes", checks.integer(at_least=0, at_most=256),
        "processes that accept requests, besides the daemon; 0: the daemon does", "--proxy-processes",
    ),
    Option(
        "orphan_grace_s", "orphan_grace_s", checks.real(at_least=0),
        "seconds that a replica lives on without any daemon",
    ),
    Option(
        "backlog", "backlog", checks.integer(at_least=1, at_most=65535),
        "connections that wait in the kernel while a daemon restarts",
    ),
    _machine("num_cpus", "CPUs that replicas may be given, a fraction allowed; `null`: what this process may use"),
    _machine("num_gpus", "GPUs that replicas may be given; `null`: all there are, or those of `CUDA_VISIBLE_DEVICES`"),
    _machine("memory_bytes", "memory that replicas may be given; `null`: what this process may use"),
    _machine("resources", "resources of your own, a mapping from names to amounts; the variable has JSON"),
    Option(
        "memory_limits", "memory_limits", _memory_limits,
        "who holds replicas to their `memory`: `kernel`, by cgroups; `watched`, by looking at them; `auto`: the kernel "
        "where it may be asked to",
    ),
    Option(
        "log_level", "log_level", LoggingConfig._checks["log_level"], "of the daemon's own log",
        foreign=(("SERVE_DEBUG_LOG", _if_one("DEBUG")),),
    ),
    _logging(
        "encoding", "`TEXT` or `JSON`; this section is for replicas of applications that have none of their own",
        foreign=(
            ("RAY_SERVE_LOG_ENCODING", str), ("RAY_SERVE_ENABLE_JSON_LOGGING", _if_one("JSON")),
        ),
    ),
    _logging("log_level", "of replicas", foreign=(("SERVE_DEBUG_LOG", _if_one("DEBUG")),)),
    _logging("logs_dir", "folder for log files of replicas besides their usual ones", is_path=True),
    _logging("enable_access_log", "a line for each request"),
    _logging("additional_log_standard_attrs", "LogRecord attributes to add to JSON lines"),
)  # fmt: skip

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}

#: Options whose variables hold several values, with commas; a whole number; true or false.
LISTS = frozenset(
    {
        "grpc_options.grpc_servicer_functions",
        "http_options.forwarded_allow_ips",
        "logging_config.additional_log_standard_attrs",
    }
)
WHOLE = frozenset(
    {
        "http_options.port", "grpc_options.port", "admin_port", "proxy_processes", "backlog",
        "http_options.max_connections",
        "http_options.max_headers", "http_options.max_header_bytes", "http_options.max_body_bytes", "num_gpus",
        "grpc_options.max_receive_message_bytes", "grpc_options.max_send_message_bytes", "grpc_options.max_connections",
    }
)  # fmt: skip
FLAGS = frozenset(
    {
        "grpc_options.enable_reflection",
        "http_options.http3",
        "http_options.require_api_key",
        "logging_config.enable_access_log",
    }
)

_LOGGING_DEFAULTS = LoggingConfig()
