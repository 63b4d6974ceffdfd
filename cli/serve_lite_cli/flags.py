"""Options that several commands share, as typer wants them."""

from __future__ import annotations

from typing import Annotated

import typer

AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        help="URL of the control plane (like http://localhost:52365), or state directory of an instance. "
        "Default: SERVE_LITE_ADDRESS, RAY_AGENT_ADDRESS, RAY_DASHBOARD_ADDRESS or RAY_ADDRESS, "
        "else your own instance.",
    ),
]

AdminPortOption = Annotated[
    int | None,
    typer.Option(
        "--admin-port",
        min=0,
        max=65535,
        help="Port of the REST API, on 127.0.0.1; 0 takes any free one. "
        "[default: SERVE_LITE_ADMIN_PORT, else 52365]",
    ),
]

SettingsOption = Annotated[
    str,
    typer.Option(
        "--settings",
        metavar="FILE",
        help="Settings of an instance that is started. "
        "[default: SERVE_LITE_SETTINGS, else settings.yaml in the state directory, if there is one]",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
