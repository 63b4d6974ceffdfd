"""What can be chosen about one instance, as it travels from whoever starts it to the keeper and the daemon."""

from __future__ import annotations

import os

import msgspec

from serve_lite.daemon.home import Paths, home_from_environment, paths
from serve_lite.daemon.machine_options import machine_from_environment
from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.resources import MachineOptions

__all__ = ["InstanceOptions", "Paths", "home_from_environment", "options_from", "paths"]

#: JSON of `InstanceOptions`, for the keeper and the daemon. Not an argument: those are for all eyes, and a key's
#: password may be in it.
ENVIRONMENT_NAME = "SERVE_LITE_INSTANCE"

DEFAULT_HTTP_HOST = "127.0.0.1"
DEFAULT_HTTP_PORT = 8000
DEFAULT_ADMIN_PORT = 52365


def _port_from_environment(name: str, default: int) -> int:
    named = os.environ.get(name, "")
    if named and not (named.isascii() and named.isdigit() and int(named) <= 65535):
        raise InvalidConfigError(f"{name} must be a port from 0 to 65535, not {named!r}")
    return int(named) if named else default


def _default_http_host() -> str:
    return os.environ.get("RAY_SERVE_DEFAULT_HTTP_HOST") or DEFAULT_HTTP_HOST


def _default_http_port() -> int:
    return _port_from_environment("SERVE_LITE_HTTP_PORT", DEFAULT_HTTP_PORT)


def _default_admin_port() -> int:
    return _port_from_environment("SERVE_LITE_ADMIN_PORT", DEFAULT_ADMIN_PORT)


class InstanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One instance: where it lives, what it listens on, and how its doors behave."""

    home: str = ""  #: state directory; "": the environment's or the user's default
    #: `$RAY_SERVE_DEFAULT_HTTP_HOST`, or 127.0.0.1; None: no HTTP for applications
    http_host: str | None = msgspec.field(default_factory=_default_http_host)
    #: `$SERVE_LITE_HTTP_PORT`, or 8000; 0: the kernel chooses, `info` tells
    http_port: int = msgspec.field(default_factory=_default_http_port)
    admin_host: str = "127.0.0.1"
    #: `$SERVE_LITE_ADMIN_PORT`, or 52365; 0: the kernel chooses
    admin_port: int = msgspec.field(default_factory=_default_admin_port)
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 9000  #: 0: the kernel chooses, `info` tells
    #: import paths of generated `add_..._to_server` functions; without any there is no gRPC
    grpc_servicer_functions: tuple[str, ...] = ()
    grpc_sys_path: tuple[str, ...] = ()  #: where they are looked for first
    grpc_request_timeout_s: float | None = None  #: None: no limit but the clients' own
    grpc_enable_reflection: bool = True
    request_timeout_s: float | None = None  #: None: no limit
    keep_alive_timeout_s: float = 90.0
    root_path: str = ""
    orphan_grace_s: float = 60.0  #: how long a replica lives on without any daemon
    backlog: int = 4096  #: connections that wait in the kernel while a daemon restarts
    server: str = "native"  #: "native": our HTTP/1.1 front; "hypercorn": hypercorn for everything
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    log_level: str = "INFO"
    #: `$SERVE_LITE_NUM_CPUS`, `$SERVE_LITE_NUM_GPUS`, `$SERVE_LITE_MEMORY_BYTES`, `$SERVE_LITE_RESOURCES`, and the GPUs
    #: of `$CUDA_VISIBLE_DEVICES`
    machine: MachineOptions = msgspec.field(default_factory=machine_from_environment)
    is_embedded: bool = False  #: belongs to one process and ends with it, applications included

    def with_home(self) -> InstanceOptions:
        """Return the same options with `home` filled in and absolute."""
        home = os.path.abspath(os.path.expanduser(self.home)) if self.home else home_from_environment()
        return msgspec.structs.replace(self, home=home)


def options_from(document: str) -> InstanceOptions:
    """Return the options that JSON holds, as the starter of a process left them in its environment.

    Raises:
        InvalidConfigError: it is not the JSON of `InstanceOptions`.
    """
    try:
        return msgspec.json.decode(document, type=InstanceOptions).with_home()
    except msgspec.DecodeError as error:
        raise InvalidConfigError(
            f"{ENVIRONMENT_NAME} does not hold the options of an instance: {error}"
        ) from error
