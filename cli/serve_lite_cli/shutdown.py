"""`serve shutdown`: remove all applications, and end the instance if it runs on this machine."""

from __future__ import annotations

import sys
from typing import Annotated, TextIO

import anyio
import typer

from serve_lite.engines.local import connect_instance, shutdown_instance
from serve_lite_cli.address import checked_url, given_address, state_directory, token_from_environment
from serve_lite_cli.consent import ask
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.rest import APPLICATIONS, RestClient

SENT = "Sent shutdown request; applications will be deleted asynchronously."


def command(
    address: AddressOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Bypass the confirmation prompt.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Shut Serve down and delete all applications.

    An instance of this machine is ended, and the command returns when its processes are gone. Through a URL, only
    the applications are removed.

    With --json: {"address": ADDRESS, "was_running": BOOL, "instance_ended": BOOL}; needs --yes.
    """
    out = sys.stderr if as_json else sys.stdout
    named = given_address(address)
    if "://" in named:
        remote = RestClient(checked_url(named), token_from_environment())
        ask(question(remote.url), yes=yes, as_json=as_json)
        remote.delete(APPLICATIONS)
        print(SENT, file=out)
        if as_json:
            print_json({"address": remote.url, "was_running": True, "instance_ended": False})
        return
    home = state_directory(named)
    ask(question(home), yes=yes, as_json=as_json)
    was_running = anyio.run(end_instance, home, out)
    if was_running:
        print("The instance has ended.", file=out)
    else:
        print(f"No Serve instance found running at {home}.", file=sys.stderr)
    if as_json:
        print_json({"address": home, "was_running": was_running, "instance_ended": was_running})


def question(address: str) -> str:
    """Return what the user is asked."""
    return (
        f'This will shut down Serve on the cluster at address "{address}" and delete all applications there.'
    )


async def end_instance(home: str, out: TextIO) -> bool:
    """End the instance in `home` and return True once it is gone; False if there was none."""
    connection = await connect_instance(home)
    if connection is None:
        return False
    print(SENT, file=out, flush=True)
    await shutdown_instance(connection)
    return True
