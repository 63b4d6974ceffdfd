"""The options of an instance that a command starts, and what becomes of them if one is up already."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.settings import BY_NAME
from serve_lite.daemon.sources import DEFAULT, Layer, join, layer_of, resolve
from serve_lite.exceptions import InstanceError, PortInUseError


def instance_options(
    home: str,
    flags: Layer,
    document: Mapping[str, Any] | None = None,
    *,
    home_origin: str = "",
    document_name: str = "",
    settings: str = "",
    folder: str = "",
) -> InstanceOptions:
    """Return the options of an instance in `home`: from flags, the environment, a document, and a settings file.

    Args:
        document: a config file that was checked; its `http_options`, `grpc_options` and `proxy_location` count.
        settings: the settings file that a flag names.
        folder: where gRPC's servicer functions are looked for, besides the current directory.

    Raises:
        InvalidConfigError: a variable or the settings file is wrong.
    """
    return resolve(
        home,
        home_origin=home_origin or "flag --address",
        given=flags,
        document=layer_of_document(document or {}, document_name),
        settings=settings,
        folders=(folder,) if folder else (),
    )


def layer_of_flags(given: Mapping[str, tuple[str, Any]]) -> Layer:
    """Return what flags say: by the option's name, the flag and its value. One that is None was not given."""
    values = {BY_NAME[name]: said for name, said in given.items() if said[1] is not None}
    return Layer(
        {option.id: value for option, (_, value) in values.items()},
        {option.id: f"flag {flag}" for option, (flag, _) in values.items()},
    )


def layer_of_document(document: Mapping[str, Any], name: str) -> Layer:
    """Return what a config file says about the instance; one with a single application has `host` and `port`."""
    origin = f"file {name}, {{}}"
    if "applications" not in document:
        return layer_of("http_options", {k: document[k] for k in ("host", "port") if k in document}, origin)
    place = {k: document[k] for k in ("proxy_location",) if k in document}
    return join(
        layer_of("http_options", document.get("http_options") or {}, origin),
        layer_of("grpc_options", document.get("grpc_options") or {}, origin),
        layer_of("", place, origin),
    )


def warn_of_differences(asked: InstanceOptions) -> None:
    """Tell which options the instance that is up has otherwise than it was asked for, by anybody.

    Raises:
        InstanceError: it has just ended.
    """
    from serve_lite.daemon.effective import differences
    from serve_lite.engines.local import settings_of  # brings an event loop, which a launch has no use for

    running = settings_of(asked.home)
    if running is None:
        raise InstanceError(f"The instance in {asked.home} is just ending; try again.")
    for sentence in differences(asked, running.settings):
        print(f"Warning: {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def explain_port_in_use(options: InstanceOptions) -> Iterator[None]:
    """Add to a `PortInUseError` from inside which option chooses that port.

    Raises:
        InstanceError: instead of the `PortInUseError`.
    """
    try:
        yield
    except PortInUseError as error:
        option = BY_NAME["admin_port"]
        flags = "--admin-port"
        if options.grpc_servicer_functions and error.port == options.grpc_port:
            option, flags = BY_NAME["grpc_options.port"], "--grpc-port"
        if error.port == options.http_port:
            option, flags = BY_NAME["http_options.port"], "--port (`serve start`: --http-port)"
        origin = options.origins.get(option.id, DEFAULT)
        raise InstanceError(
            f"{error} It is {option.name} ({origin}); another one is chosen by {flags}, and 0 takes any free one."
        ) from error
