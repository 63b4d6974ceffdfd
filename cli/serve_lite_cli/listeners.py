"""Where an instance that a command starts is to listen, from flags and documents."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from serve_lite.daemon.options import InstanceOptions
from serve_lite.exceptions import InstanceError, InvalidConfigError, PortInUseError

#: Keys of a document's `http_options`, with the fields of `InstanceOptions` they set.
FIELDS = {
    "host": "http_host",
    "port": "http_port",
    "root_path": "root_path",
    "request_timeout_s": "request_timeout_s",
    "keep_alive_timeout_s": "keep_alive_timeout_s",
    "ssl_keyfile": "ssl_keyfile",
    "ssl_certfile": "ssl_certfile",
    "ssl_keyfile_password": "ssl_keyfile_password",
    "ssl_ca_certs": "ssl_ca_certs",
}


#: The same for `grpc_options`.
GRPC_FIELDS = {
    "port": "grpc_port",
    "grpc_servicer_functions": "grpc_servicer_functions",
    "request_timeout_s": "grpc_request_timeout_s",
    "enable_reflection": "grpc_enable_reflection",
}


def instance_options(
    home: str,
    http_options: Mapping[str, Any],
    admin_port: int | None,
    grpc_options: Mapping[str, Any] | None = None,
    *,
    folder: str = "",
) -> InstanceOptions:
    """Return the options of an instance in `home`; what is not given keeps its default.

    gRPC is served on the host that HTTP has, and not at all where HTTP is off. Its servicer functions are looked for
    in `folder` and the current directory first.

    The port of the REST API may also come from the environment, as SERVE_LITE_ADMIN_PORT.

    Raises:
        InvalidConfigError: a value has the wrong type.
    """
    given = {FIELDS[key]: value for key, value in http_options.items() if key in FIELDS}
    if http_options.get("host", "") is not None and (grpc_options or {}).get("grpc_servicer_functions"):
        given |= {
            GRPC_FIELDS[key]: value for key, value in (grpc_options or {}).items() if key in GRPC_FIELDS
        }
        given["grpc_sys_path"] = tuple(dict.fromkeys(os.path.abspath(each) for each in (folder, os.getcwd())))
        if http_options.get("host"):
            given["grpc_host"] = http_options["host"]
    named = os.environ.get("SERVE_LITE_ADMIN_PORT", "")
    if admin_port is not None or named:
        given["admin_port"] = _port(named) if admin_port is None else admin_port
    try:
        return msgspec.convert({"home": home, **given}, InstanceOptions)
    except msgspec.ValidationError as error:
        raise InvalidConfigError(f"The HTTP or gRPC options are wrong: {error}.") from error


@contextlib.contextmanager
def explain_port_in_use(options: InstanceOptions) -> Iterator[None]:
    """Add to a `PortInUseError` from inside which option chooses that port.

    Raises:
        InstanceError: instead of the `PortInUseError`.
    """
    try:
        yield
    except PortInUseError as error:
        flag = "--admin-port" if error.port == options.admin_port else "the option for the HTTP port"
        if options.grpc_servicer_functions and error.port == options.grpc_port:
            flag = "--grpc-port, or grpc_options.port of a config"
        if error.port == options.http_port:
            flag = "--port (`serve start`: --http-port)"
        raise InstanceError(f"{error} The port is chosen by {flag}; 0 takes any free one.") from error


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise InvalidConfigError(f"SERVE_LITE_ADMIN_PORT is {text!r}; it must be a port, 0 to 65535.")
