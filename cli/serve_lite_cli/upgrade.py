"""`serve upgrade`: the code that is installed now, in a running instance."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from serve_lite.engines.local import connect_instance, upgrade_instance
from serve_lite.exceptions import InstanceError
from serve_lite.wire.connection import Connection
from serve_lite.wire.messages import Empty, InstanceInfo
from serve_lite_cli.address import local_home
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json


def command(
    address: AddressOption = "",
    grace_period: Annotated[
        float,
        typer.Option(
            "--grace-period",
            min=0.0,
            metavar="SECONDS",
            help="For requests and connections that are open; then streams are cut and WebSockets closed (1012).",
        ),
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Have a running instance use the serve-lite that is installed now, without losing a request.

    To be called after `pip install -U serve-lite`, on the instance's machine. A new daemon takes over the listening
    sockets and the replicas, which keep their processes; the old one finishes what it has. If the new one does not
    come up, the old one goes on, and this exits with 1.

    With --json: {"before": {"version": VERSION, "pid": PID}, "after": {"version": VERSION, "pid": PID}}.
    """
    home = local_home(address)
    before, after = anyio.run(_upgrade, home, grace_period)
    if as_json:
        print_json(
            {name: {"version": i.version, "pid": i.pid} for name, i in (("before", before), ("after", after))}
        )
        return
    print(f"Upgraded from {before.version} (process {before.pid}) to {after.version} (process {after.pid}).")


async def _upgrade(home: str, grace_s: float) -> tuple[InstanceInfo, InstanceInfo]:
    """Return where the instance was and is.

    Raises:
        InstanceError: there is none, or it was not upgraded.
    """
    connection = await _connect(home)
    try:
        before = await _info_of(connection)
        await upgrade_instance(connection, grace_s)
    finally:
        connection.close()
        await connection.wait_closed()
    connection = await _connect(home)
    try:
        return before, await _info_of(connection)
    finally:
        connection.close()
        await connection.wait_closed()


async def _connect(home: str) -> Connection:
    connection = await connect_instance(home)
    if connection is None:
        raise InstanceError(
            f"No instance is running in {home}. Start one with `serve start`, or name another with --address."
        )
    return connection


async def _info_of(connection: Connection) -> InstanceInfo:
    return await connection.control("info", Empty(), InstanceInfo, timeout_s=None)
