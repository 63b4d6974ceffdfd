"""`serve systemd`: unit files that have systemd run an instance."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.address import home_origin, local_home
from serve_lite_cli.flags import AddressOption, JsonOption, SettingsOption
from serve_lite_cli.listeners import instance_options, layer_of_flags
from serve_lite_cli.output import print_json
from serve_lite_cli.units import UnitFacts, units


def command(
    address: AddressOption = "",
    system: Annotated[
        bool, typer.Option("--system", help="For the machine's systemd; the default is the user's own.")
    ] = False,
    user: Annotated[
        str, typer.Option("--run-as", metavar="USER", help="With --system: who the instance belongs to.")
    ] = "",
    sockets: Annotated[
        bool,
        typer.Option(
            "--sockets",
            help="Let systemd hold the sockets and start the instance with the first connection. There is no `serve "
            "upgrade` then.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Write the files there instead of printing them."
        ),
    ] = None,
    settings: SettingsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print the unit files with which systemd runs this installation's instance.

    For ~/.config/systemd/user, or with --system for /etc/systemd/system. docs/systemd.md has the commands that follow.

    With --json: {FILE: TEXT, ...}; with --output, FILE is a path.
    """
    if user and not system:
        raise InvalidConfigError("--run-as is for a unit of the whole machine: give --system too.")
    if system and not user:
        raise InvalidConfigError(
            "Give --run-as USER: an instance belongs to a user, and should not be root's."
        )
    flags = layer_of_flags({})
    options = instance_options(
        local_home(address), flags, home_origin=home_origin(address), settings=settings
    )
    facts = UnitFacts(
        python=sys.executable,
        home=options.home,
        user=user,
        settings=os.path.abspath(settings) if settings else "",
        http=_listens_at(options.http_host, options.http_port) if options.http_host is not None else "",
        admin=_listens_at(options.admin_host, options.admin_port),
        grpc=_listens_at(options.grpc_host, options.grpc_port) if options.grpc_servicer_functions else "",
        backlog=options.backlog,
    )
    if sockets and options.proxy_processes:
        raise InvalidConfigError(
            "`proxy_processes` are started by the instance's keeper, and there is none when systemd holds the sockets. "
            "Leave --sockets out, or set proxy_processes to 0."
        )
    if sockets and 0 in (options.http_port, options.admin_port):
        raise InvalidConfigError(
            "A socket unit needs a port of its own, and the kernel would choose this one (0)."
        )
    files = units(facts, with_sockets=sockets)
    if output is not None:
        files = {str(output / name): text for name, text in files.items()}
        output.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            Path(path).write_text(text)
    if as_json:
        print_json(files)
    else:
        print(
            "\n".join(files if output is not None else (f"# {name}\n{text}" for name, text in files.items()))
        )


def _listens_at(host: str, port: int) -> str:
    host = {"localhost": "127.0.0.1", "": "0.0.0.0"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
