"""`serve run`, as typer shows it. What it does is in `runner.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_lite_cli.flags import AddressOption, AdminPortOption, SettingsOption
from serve_lite_cli.quick import RunOptions

#: Ray gives this command `-h` for --host.
CONTEXT = {"help_option_names": ["--help"]}


def command(
    config_or_import_path: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_IMPORT_PATH", help="Import path like `my_script:app`, or a YAML config file."
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VAL", help="`key=val` for the function that builds the application."),
    ] = None,
    runtime_env: Annotated[
        str, typer.Option("--runtime-env", help="YAML file with the runtime_env to run in.")
    ] = "",
    runtime_env_json: Annotated[
        str, typer.Option("--runtime-env-json", help="The runtime_env to run in, as JSON.")
    ] = "",
    working_dir: Annotated[
        str,
        typer.Option("--working-dir", help="Directory the applications run in; overrides the runtime_env's."),
    ] = "",
    app_dir: Annotated[
        str, typer.Option("--app-dir", "-d", help="Directory to look for the import path in.")
    ] = ".",
    address: AddressOption = "",
    host: Annotated[
        str | None,
        typer.Option("--host", "-h", "--http-host", help="Host to listen on. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            "--http-port",
            min=0,
            max=65535,
            help="Port to listen on. [default: SERVE_LITE_HTTP_PORT, else 8000]",
        ),
    ] = None,
    admin_port: AdminPortOption = None,
    settings: SettingsOption = "",
    blocking: Annotated[
        bool,
        typer.Option(
            "--blocking/--non-blocking",
            help="Stay in the foreground until Ctrl-C, then remove the applications; or leave them running.",
        ),
    ] = True,
    gradio: Annotated[bool, typer.Option("--gradio", help="Not available.")] = False,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", "-r", help="Redeploy when files change; what has not changed goes on running."
        ),
    ] = False,
    route_prefix: Annotated[
        str, typer.Option("--route-prefix", help="Path under which the application is reached.")
    ] = "/",
    name: Annotated[str, typer.Option("--name", help="Name of the application.")] = "default",
) -> None:
    """Run an application from an import path, or applications from a config file.

    The import path names an application (made by `.bind()`) or a function that returns one. Arguments for such a
    function follow it: `serve run my_script:app model=small workers=5`.

    By default this blocks, shows what the applications print, and removes them on Ctrl-C. If no instance is
    running, one is started for as long as the command runs.
    """
    if gradio:
        raise typer.BadParameter(
            "--gradio shows deployment graphs of Ray's DAGDriver, which do not exist here."
        )
    if reload and not blocking:
        raise typer.BadParameter(
            "--reload watches files for as long as it runs, so --non-blocking cannot be."
        )
    from serve_lite_cli.runner import run  # not needed for --help

    raise typer.Exit(
        run(
            RunOptions(
                config_or_import_path=config_or_import_path,
                arguments=arguments or [],
                runtime_env=runtime_env,
                runtime_env_json=runtime_env_json,
                working_dir=working_dir,
                app_dir=app_dir,
                address=address,
                host=host,
                port=port,
                admin_port=admin_port,
                settings=settings,
                blocking=blocking,
                reload=reload,
                route_prefix=route_prefix,
                name=name,
            )
        )
    )
