"""`serve controller-health`: how the controller of an instance fares."""

from __future__ import annotations

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.rest import HEALTH
from serve_lite_cli.yaml_text import to_yaml


def command(address: AddressOption = "", as_json: JsonOption = False) -> None:
    """Print how the controller fares: how often and how long its loop runs, its memory and tasks.

    Times are seconds since 1970, durations are seconds. The controller sleeps until something happens, so few loops
    mean that little happens.

    With --json: the same as a JSON object.
    """
    health = control_plane(address).get(HEALTH)
    if as_json:
        print_json(health)
    else:
        print(to_yaml(dict(health)), end="")
