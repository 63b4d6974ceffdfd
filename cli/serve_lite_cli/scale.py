"""`serve scale`: another number of replicas, now."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json


def command(
    app: Annotated[str, typer.Argument(metavar="APP", help="Name of the application.")],
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Name of the deployment.")],
    replicas: Annotated[int, typer.Argument(metavar="N", min=0, help="Replicas it should have.")],
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """Set how many replicas a deployment has. The next deploy of its application sets it anew.

    With --json: {"application": NAME, "deployment": NAME, "target_num_replicas": N}.
    """
    path = f"/api/v1/applications/{quote(app, safe='')}/deployments/{quote(deployment, safe='')}/scale"
    control_plane(address).post(f"{path}?manual=true", {"target_num_replicas": replicas})
    if as_json:
        print_json({"application": app, "deployment": deployment, "target_num_replicas": replicas})
        return
    print(f"Scaling {app}/{deployment} to {replicas} replica{'' if replicas == 1 else 's'}.")
