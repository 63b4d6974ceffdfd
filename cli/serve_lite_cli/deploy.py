"""`serve deploy`: hand a configuration file to a running instance."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.progress import follow_deploy
from serve_lite_cli.rest import APPLICATIONS, DEPLOYMENTS
from serve_lite_cli.steps import seconds_of
from serve_lite_cli.submission import read_submission

#: Header of an answer: what the document asks of the instance itself, and it has otherwise.
NOT_APPLIED = "serve-lite-not-applied"

SENT = """
Sent deploy request successfully.
 * Use `serve status` to check applications' statuses.
 * Use `serve config` to see the current application config(s)."""


def command(
    config_file_name: Annotated[
        str, typer.Argument(help="YAML file with `applications:`, or with one `import_path:`.")
    ],
    address: AddressOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes, until it is done; end with 1 if it fails.")
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", min=0, help="With --wait: seconds after which to give up.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Leave applications alone that the file does not name.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the applications that a config file describes.

    The call is asynchronous: success means that the file is valid and stored. Applications deployed by an
    earlier file and missing in this one are removed. Deployments without changes are left alone.
    """
    out = sys.stderr if as_json else sys.stdout
    print(f"Deploying from config file: '{config_file_name}'.", file=out, flush=True)
    given = read_submission(config_file_name)
    given.tell_notice()
    if merge and given.is_single:
        raise InvalidConfigError(
            "--merge needs a file with `applications:`; this one is a single application."
        )
    path = DEPLOYMENTS if given.is_single else APPLICATIONS + ("?merge=true" if merge else "")
    client = control_plane(address)
    try:
        headers = client.put(path, given.document, given.headers)
    except InvalidConfigError as error:
        raise given.config.explain(error) from error
    for sentence in json.loads(headers.get(NOT_APPLIED, "[]")):
        print(f"Warning: {sentence}", file=sys.stderr, flush=True)
    states = dict.fromkeys(given.names, "DEPLOYING")
    seconds: dict[str, Any] = {}
    if wait:
        apps = follow_deploy(
            client,
            given.names,
            lambda line: print(line, file=out, flush=True),
            timeout_s=timeout_s,
            screen=out,
        )
        states = {name: app["status"] for name, app in apps.items()}
        seconds = seconds_of(apps)
    elif not as_json:
        print(SENT)
    if as_json:
        print(json.dumps({"applications": states, **seconds}, indent=2))
