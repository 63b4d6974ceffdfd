"""What can be chosen about one instance, as it travels from whoever starts it to the keeper and the daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from serve_lite.daemon.home import SECRET_VARIABLES, Paths, home_from_environment, paths
from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.resources import MachineOptions

__all__ = ["SECRET_VARIABLES", "InstanceOptions", "Paths", "home_from_environment", "options_from", "paths"]

#: JSON of `InstanceOptions`, for the keeper and the daemon. Not an argument: those are for all eyes, and a key's
#: password may be in it.
ENVIRONMENT_NAME = "SERVE_LITE_INSTANCE"

DEFAULT_HTTP_HOST = "127.0.0.1"
DEFAULT_HTTP_PORT = 8000
DEFAULT_ADMIN_PORT = 52365


class InstanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One instance: where it lives, what it listens on, and how its doors behave.

    `settings.py` has the names that its users have for these, `sources.py` finds out what they chose.
    """

    home: str = ""  #: state directory; "": the environment's or the user's default
    settings_file: str = ""  #: that was read; "": there was none
    proxy_location: str = "EveryNode"  #: "Disabled": `http_host` is None
    http_host: str | None = DEFAULT_HTTP_HOST  #: None: no HTTP for applications
    http_port: int = DEFAULT_HTTP_PORT  #: 0: the kernel chooses, `info` tells
    admin_host: str = "127.0.0.1"
    admin_port: int = DEFAULT_ADMIN_PORT  #: 0: the kernel chooses
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 9000  #: 0: the kernel chooses, `info` tells
    #: import paths of generated `add_..._to_server` functions; without any there is no gRPC
    grpc_servicer_functions: tuple[str, ...] = ()
    grpc_sys_path: tuple[str, ...] = ()  #: where they are looked for first
    grpc_request_timeout_s: float | None = None  #: None: no limit but the clients' own
    grpc_enable_reflection: bool = True
    grpc_max_receive_message_bytes: int = 2**31 - 1
    grpc_max_send_message_bytes: int = 2**31 - 1
    grpc_max_connections: int | None = None  #: None: what open descriptors allow
    request_timeout_s: float | None = None  #: None: no limit
    keep_alive_timeout_s: float = 90.0
    root_path: str = ""
    orphan_grace_s: float = 60.0  #: how long a replica lives on without any daemon
    proxy_processes: int = 0  #: that accept requests instead of the daemon
    backlog: int = 4096  #: connections that wait in the kernel while a daemon restarts
    server: str = "native"  #: "native": our HTTP/1.1 front; "hypercorn": hypercorn for everything
    first_byte_timeout_s: float | None = None
    idle_timeout_s: float | None = None
    read_timeout_s: float = 60.0
    write_timeout_s: float = 60.0
    max_connections: int | None = None  #: None: what open descriptors allow
    max_headers: int = 200
    max_header_bytes: int = 64 * 1024
    max_body_bytes: int | None = None
    forwarded_allow_ips: tuple[str, ...] = ()
    require_api_key: bool = False  #: of applications that do not say
    api_keys_file: str | None = None  #: None: `api-keys` in the state directory
    access_log: str | None = None  #: of the doors: a file; "stdout": the daemon's output; None: there is none
    http3: bool = False  #: HTTP/3 on `http_port` of UDP too; needs certificates
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    log_level: str = "INFO"  #: of the daemon's own log
    #: `LoggingConfig` of applications and deployments that have none; None: the class's defaults
    logging_config: dict[str, Any] | None = None
    machine: MachineOptions = MachineOptions()  #: what replicas may be given of it
    memory_limits: Literal["auto", "kernel", "watched"] = "auto"  #: who holds replicas to their `memory`
    is_embedded: bool = False  #: belongs to one process and ends with it, applications included
    origins: dict[str, str] = {}  #: who chose a field; those that are missing have their default

    def with_home(self) -> InstanceOptions:
        """Return the same options with `home` filled in and absolute."""
        home = os.path.abspath(os.path.expanduser(self.home)) if self.home else home_from_environment()
        return msgspec.structs.replace(self, home=home)


def options_from(document: str, environment: Mapping[str, str] = os.environ) -> InstanceOptions:
    """Return the options that JSON holds, as the starter of a process left them in its environment.

    A launcher leaves all of them, with their origins. Whoever starts a process by hand may leave some or none; then
    the environment and a settings file have a say too.

    Raises:
        InvalidConfigError: it is not the JSON of `InstanceOptions`, or a setting is wrong.
    """
    try:
        given = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        options = msgspec.json.decode(document, type=InstanceOptions)
    except msgspec.DecodeError as error:
        raise InvalidConfigError(
            f"{ENVIRONMENT_NAME} does not hold the options of an instance: {error}"
        ) from error
    if "origins" in given:
        return options.with_home()
    from serve_lite.daemon.sources import Layer, resolve  # not needed by those who were given everything

    origin = f"environment {ENVIRONMENT_NAME}"
    fields = given.keys() - {"home", "settings_file"}
    layer = Layer({name: getattr(options, name) for name in fields}, dict.fromkeys(fields, origin))
    return resolve(
        options.home, home_origin=origin, given=layer, settings=options.settings_file, environment=environment
    )
