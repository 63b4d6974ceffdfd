"""`serve config`: the configuration that was deployed, as it was submitted; or that of the instance itself."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.effective import show_effective
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.rest import APPLICATIONS
from serve_lite_cli.yaml_text import to_yaml


def command(
    address: AddressOption = "",
    name: Annotated[
        str, typer.Option("--name", "-n", help="Print only the configuration of this application.")
    ] = "",
    effective: Annotated[
        bool,
        typer.Option(
            "--effective", help="Print the instance's own options instead, and where each comes from."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the current configuration of the applications as YAML.

    With --json: {NAME: CONFIG}; the configuration of an application that was not deployed by one is null.
    """
    if effective:
        if name:
            raise typer.BadParameter("--effective is about the instance, and --name about one application.")
        show_effective(control_plane(address), as_json=as_json)
        return
    apps = control_plane(address).get(APPLICATIONS)["applications"]
    configs = {app: details.get("deployed_app_config") for app, details in apps.items()}
    if as_json:
        print_json({app: config for app, config in configs.items() if name in ("", app)})
    elif not name:
        found = [to_yaml(config) for config in configs.values() if config]
        print("\n---\n\n".join(found) or "No configuration was found.\n", end="")
    elif configs.get(name):
        print(to_yaml(configs[name]), end="")
    else:
        print(f'No config has been deployed for application "{name}".')
