"""`serve start`: an instance that stays after the command."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer

from serve_lite.engines.launch import AlreadyUpError, start_instance
from serve_lite.engines.local import find_instance
from serve_lite.exceptions import InstanceError
from serve_lite.wire.messages import InstanceInfo
from serve_lite_cli.address import local_home, url
from serve_lite_cli.flags import AddressOption, AdminPortOption, JsonOption
from serve_lite_cli.listeners import explain_port_in_use, instance_options
from serve_lite_cli.output import print_json


class Location(enum.StrEnum):
    """Where proxies run. On one machine all but Disabled are the same."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class OldLocation(enum.StrEnum):
    """2.7's older names for `Location`."""

    NoServer = "NoServer"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
    FixedNumber = "FixedNumber"


def command(
    address: AddressOption = "",
    http_host: Annotated[
        str | None, typer.Option("--http-host", help="Host for HTTP. [default: 127.0.0.1]")
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http-port",
            min=0,
            max=65535,
            help="Port for HTTP; 0 takes any free one. [default: SERVE_LITE_HTTP_PORT, else 8000]",
        ),
    ] = None,
    admin_port: AdminPortOption = None,
    http_location: Annotated[
        OldLocation, typer.Option("--http-location", help="DEPRECATED: use --proxy-location.")
    ] = OldLocation.HeadOnly,
    proxy_location: Annotated[
        Location, typer.Option("--proxy-location", help="Disabled: no HTTP, only handles.")
    ] = Location.EveryNode,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", min=0, max=65535, help="Port for gRPC; 0 takes any free one.")
    ] = 9000,
    grpc_servicer_functions: Annotated[
        list[str] | None,
        typer.Option(
            "--grpc-servicer-functions", help="Import path of a gRPC servicer function. Repeatable."
        ),
    ] = None,
    grpc_enable_reflection: Annotated[
        bool, typer.Option("--grpc-enable-reflection/--grpc-disable-reflection", help="gRPC reflection.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Start an instance in the background. It stays until `serve shutdown`.

    Does nothing but say so if the instance is already running.

    With --json: {"started": BOOL, "home", "http": URL or null, "grpc": ADDRESS or null, "rest": URL}.
    """
    if http_location is not OldLocation.HeadOnly:
        warn("--http-location is deprecated, use --proxy-location.")
        proxy_location = location_of(http_location)
    http_options: dict[str, object] = {"host": http_host, "port": http_port}
    http_options = {key: value for key, value in http_options.items() if value is not None}
    if proxy_location is Location.Disabled:
        http_options["host"] = None
    grpc_options = {
        "port": grpc_port,
        "grpc_servicer_functions": grpc_servicer_functions or [],
        "enable_reflection": grpc_enable_reflection,
    }
    options = instance_options(local_home(address), http_options, admin_port, grpc_options)
    try:
        with explain_port_in_use(options):
            info = start_instance(options)
    except AlreadyUpError:
        running = find_instance(options.home)
        if running is None:
            raise InstanceError(f"The instance in {options.home} is just ending; try again.") from None
        warn_of_differences(http_options, running)
        tell(running, started=False, as_json=as_json)
        return
    wait_until_up(info)
    tell(info, started=True, as_json=as_json)


def tell(info: InstanceInfo, *, started: bool, as_json: bool) -> None:
    """Print where the instance is, and whether it is this command's."""
    if as_json:
        print_json({"started": started, **places(info)})
        return
    print(
        "Started an instance."
        if started
        else "An instance is already running; new HTTP options are not applied."
    )
    print(where(info))


def places(info: InstanceInfo) -> dict[str, str | None]:
    """Return where an instance is, for programs."""
    return {
        "home": info.home,
        "http": None if info.http_host is None else url(info.http_host, info.http_port),
        "grpc": None if info.grpc_host is None else f"{info.grpc_host}:{info.grpc_port}",
        "rest": url(info.admin_host, info.admin_port),
    }


def location_of(old: OldLocation) -> Location:
    """Return today's word for an old one."""
    match old:
        case OldLocation.NoServer:
            return Location.Disabled
        case OldLocation.HeadOnly:
            return Location.HeadOnly
        case OldLocation.EveryNode | OldLocation.FixedNumber:
            return Location.EveryNode


def wait_until_up(info: InstanceInfo) -> None:
    """Return when the daemon answers, so that the next command finds an instance that works.

    Raises:
        InstanceError: it ended instead.
    """
    if find_instance(info.home) is None:
        raise InstanceError(f"The instance in {info.home} ended as soon as it was up.")


def warn_of_differences(asked: dict[str, object], running: InstanceInfo) -> None:
    """Tell what the running instance has otherwise than it was asked for; port 0 asks for nothing."""
    actual = {"host": running.http_host, "port": running.http_port}
    for key, wanted in asked.items():
        if wanted not in (actual[key], 0):
            warn(f"http {key} is {actual[key]}, and {wanted} was asked for.")


def where(info: InstanceInfo) -> str:
    """Return where an instance is, for people."""
    http = "off" if info.http_host is None else url(info.http_host, info.http_port)
    grpc = "" if info.grpc_host is None else f"  gRPC   {info.grpc_host}:{info.grpc_port}\n"
    return (
        f"  HTTP   {http}\n{grpc}  REST   {url(info.admin_host, info.admin_port)}\n  State  {info.home}\n"
        "Stop it with `serve shutdown`."
    )


def warn(text: str) -> None:
    """Print a warning beside the command's output."""
    print(f"Warning: {text}", file=sys.stderr, flush=True)
