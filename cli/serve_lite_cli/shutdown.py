"""`serve shutdown`: remove all applications, and end the instance if it runs on this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio
import typer

from serve_lite.engines.local import connect_instance, shutdown_instance
from serve_lite_cli.address import checked_url, given_address, state_directory
from serve_lite_cli.flags import AddressOption
from serve_lite_cli.rest import APPLICATIONS, RestClient

SENT = "Sent shutdown request; applications will be deleted asynchronously."


def command(
    address: AddressOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Bypass the confirmation prompt.")] = False,
) -> None:
    """Shut Serve down and delete all applications.

    An instance of this machine is ended, and the command returns when its processes are gone. Through a URL, only
    the applications are removed.
    """
    named = given_address(address)
    if "://" in named:
        remote = RestClient(checked_url(named))
        confirm(remote.url, yes)
        remote.delete(APPLICATIONS)
        print(SENT)
        return
    home = state_directory(named)
    confirm(home, yes)
    if anyio.run(end_instance, home):
        print("The instance has ended.")
    else:
        print(f"No Serve instance found running at {home}.", file=sys.stderr)


def confirm(address: str, yes: bool) -> None:
    """Ask whether to go on; leave the command if not."""
    if not yes:
        typer.confirm(
            f'This will shut down Serve on the cluster at address "{address}" and delete all applications there. '
            "Do you want to continue?",
            abort=True,
        )


async def end_instance(home: str) -> bool:
    """End the instance in `home` and return True once it is gone; False if there was none."""
    connection = await connect_instance(home)
    if connection is None:
        return False
    print(SENT, flush=True)
    await shutdown_instance(connection)
    return True
