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
from serve_lite_cli.address import home_origin, local_home, url
from serve_lite_cli.flags import AddressOption, AdminPortOption, JsonOption, SettingsOption
from serve_lite_cli.listeners import (
    explain_port_in_use,
    instance_options,
    layer_of_flags,
    warn_of_differences,
)
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
    settings: SettingsOption = "",
    http_location: Annotated[
        OldLocation | None,
        typer.Option("--http-location", help="DEPRECATED: use --proxy-location.", show_default=False),
    ] = None,
    proxy_location: Annotated[
        Location | None,
        typer.Option("--proxy-location", help="Disabled: no HTTP, only handles. [default: EveryNode]"),
    ] = None,
    proxy_processes: Annotated[
        int | None,
        typer.Option(
            "--proxy-processes",
            min=0,
            max=256,
            help="Processes that accept requests, for more cores; 0: the daemon does. [default: 0]",
        ),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            "--grpc-port", min=0, max=65535, help="Port for gRPC; 0 takes any free one. [default: 9000]"
        ),
    ] = None,
    grpc_servicer_functions: Annotated[
        list[str] | None,
        typer.Option(
            "--grpc-servicer-functions", help="Import path of a gRPC servicer function. Repeatable."
        ),
    ] = None,
    grpc_enable_reflection: Annotated[
        bool | None,
        typer.Option(
            "--grpc-enable-reflection/--grpc-disable-reflection", help="gRPC reflection. [default: on]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start an instance in the background. It stays until `serve shutdown`.

    Does nothing but say so if the instance is already running. Other options than those of these flags come from the
    environment or a settings file; `serve config --effective` shows all of them.

    With --json: {"started": BOOL, "home", "http": URL or null, "grpc": ADDRESS or null, "rest": URL}.
    """
    if http_location not in (None, OldLocation.HeadOnly):
        warn("--http-location is deprecated, use --proxy-location.")
        proxy_location = location_of(http_location)
    flags = layer_of_flags(
        {
            "http_options.host": ("--http-host", http_host),
            "http_options.port": ("--http-port", http_port),
            "admin_port": ("--admin-port", admin_port),
            "proxy_location": ("--proxy-location", proxy_location and proxy_location.value),
            "proxy_processes": ("--proxy-processes", proxy_processes),
            "grpc_options.port": ("--grpc-port", grpc_port),
            "grpc_options.grpc_servicer_functions": (
                "--grpc-servicer-functions",
                grpc_servicer_functions or None,
            ),
            "grpc_options.enable_reflection": (
                "--grpc-enable-reflection" if grpc_enable_reflection else "--grpc-disable-reflection",
                grpc_enable_reflection,
            ),
        }
    )
    options = instance_options(
        local_home(address), flags, home_origin=home_origin(address), settings=settings
    )
    try:
        with explain_port_in_use(options):
            info = start_instance(options)
    except AlreadyUpError:
        running = find_instance(options.home)
        if running is None:
            raise InstanceError(f"The instance in {options.home} is just ending; try again.") from None
        warn_of_differences(options)
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
        else "An instance is already running, with the options that it was started with."
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
