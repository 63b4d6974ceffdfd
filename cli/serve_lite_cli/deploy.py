"""`serve deploy`: hand a configuration file to a running instance."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request, is_single_app, single_app_request
from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.address import control_plane
from serve_lite_cli.files import absolute_paths, read_config
from serve_lite_cli.flags import AddressOption
from serve_lite_cli.rest import APPLICATIONS, DEPLOYMENTS

SENT = """
Sent deploy request successfully.
 * Use `serve status` to check applications' statuses.
 * Use `serve config` to see the current application config(s)."""


def command(
    config_file_name: Annotated[
        str, typer.Argument(help="YAML file with `applications:`, or with one `import_path:`.")
    ],
    address: AddressOption = "",
) -> None:
    """Deploy the applications that a config file describes.

    The call is asynchronous: success means that the file is valid and stored. Applications deployed by an
    earlier file and missing in this one are removed. Deployments without changes are left alone.
    """
    print(f"Deploying from config file: '{config_file_name}'.")
    config = read_config(config_file_name)
    document = absolute_paths(config.document, config.folder)
    is_single = is_single_app(document)
    path = DEPLOYMENTS if is_single else APPLICATIONS
    try:
        # The instance checks it too; done here first, a mistake is told even if none is running.
        (single_app_request if is_single else deploy_request)(document, base_dir=config.folder)
        control_plane(address).put(path, document, {BASE_DIR_HEADER: config.folder})
    except InvalidConfigError as error:
        raise config.explain(error) from error
    print(SENT)
