"""`serve token`: what others need to use the control plane of an instance."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from serve_lite.daemon.home import paths
from serve_lite.daemon.token import new_token, read_token, write_token
from serve_lite.exceptions import InstanceError
from serve_lite_cli.address import local_home
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json


class What(enum.StrEnum):
    """What to do with the token."""

    show = "show"
    rotate = "rotate"


def command(
    what: Annotated[
        What, typer.Argument(help="show prints it; rotate makes a new one and prints that.")
    ] = What.show,
    address: AddressOption = "",
    grace_s: Annotated[
        float,
        typer.Option(
            "--grace", min=0, metavar="SECONDS", help="rotate: the old token is good for this much longer."
        ),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show or change the token that opens the control plane to other users and machines.

    It is a file of the state directory that only its user can read. The instance's own user and root need none on this
    machine. A new one counts at once; the instance need not run.

    With --json: {"token", "file": PATH}.
    """
    if what is What.show and grace_s:
        raise typer.BadParameter("--grace is for `serve token rotate`.")
    where = paths(local_home(address))
    if what is What.rotate:
        where.prepare()
        write_token(where, new_token(), grace_s=grace_s)
    try:
        token = read_token(where.token)
    except FileNotFoundError:
        raise InstanceError(
            f"There is no token in {where.home}. An instance makes one when it starts, `serve token rotate` at once."
        ) from None
    if as_json:
        print_json({"token": token, "file": where.token})
    else:
        print(token)
