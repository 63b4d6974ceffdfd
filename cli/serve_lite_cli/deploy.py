"""`serve deploy`: hand a configuration file, or an application by its import path, to a running instance."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.named import NamedApplication, name_application
from serve_lite_cli.output import print_json
from serve_lite_cli.plan import is_config_file, read_runtime_env
from serve_lite_cli.progress import follow_deploy
from serve_lite_cli.rest import APPLICATIONS, DEPLOYMENTS
from serve_lite_cli.steps import seconds_of
from serve_lite_cli.submission import Submission, read_submission

#: Header of an answer: what the document asks of the instance itself, and it has otherwise.
NOT_APPLIED = "serve-lite-not-applied"

SENT = """
Sent deploy request successfully.
 * Use `serve status` to check applications' statuses.
 * Use `serve config` to see the current application config(s)."""


def command(
    config_or_import_path: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_IMPORT_PATH",
            help="YAML file with `applications:` or with one `import_path:`; or an import path like `my_script:app`.",
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VAL", help="`key=val` for the function that builds the application."),
    ] = None,
    runtime_env: Annotated[
        str, typer.Option("--runtime-env", help="With an import path: YAML file with the runtime_env.")
    ] = "",
    runtime_env_json: Annotated[
        str, typer.Option("--runtime-env-json", help="With an import path: the runtime_env, as JSON.")
    ] = "",
    working_dir: Annotated[
        str,
        typer.Option(
            "--working-dir",
            help="With an import path: directory the application is looked for and runs in; overrides the "
            "runtime_env's.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option("--name", help="With an import path: name of the application. [default: default]")
    ] = "",
    route_prefix: Annotated[
        str,
        typer.Option(
            "--route-prefix", help="With an import path: path under which it is reached. [default: /]"
        ),
    ] = "",
    app_dir: Annotated[
        str | None,
        typer.Option(
            "--app-dir",
            "-d",
            help="With an import path: directory to look for it in, unless there is a working_dir. [default: .]",
        ),
    ] = None,
    address: AddressOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes, until it is done; end with 1 if it fails.")
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", min=0, help="With --wait: seconds after which to give up.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Leave applications alone that are not named.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the applications that a config file describes, or one application by its import path.

    The call is asynchronous: success means that the request is valid and stored. Applications deployed by an
    earlier file or import path and missing in this one are removed, unless --merge is given. Deployments without
    changes are left alone.

    With --json: {"applications": {NAME: STATUS}}.
    """
    out = sys.stderr if as_json else sys.stdout

    def show(line: str) -> None:
        print(line, file=out, flush=True)

    if is_config_file(config_or_import_path):
        beside = {
            "--runtime-env": runtime_env,
            "--runtime-env-json": runtime_env_json,
            "--working-dir": working_dir,
            "--name": name,
            "--route-prefix": route_prefix,
            "--app-dir": app_dir,
        }
        submission = from_file(config_or_import_path, arguments or (), beside, show)
        given: Submission | NamedApplication = submission
        explain: Callable[[InvalidConfigError], InvalidConfigError] = submission.config.explain
    else:
        show(f"Deploying from import path: '{config_or_import_path}'.")
        named = name_application(
            config_or_import_path,
            arguments or (),
            name=name,
            route_prefix=route_prefix,
            app_dir=app_dir,
            runtime_env=read_runtime_env(runtime_env, runtime_env_json, working_dir),
        )
        given, explain = named, named.explain
    if merge and given.is_single:
        raise InvalidConfigError(
            "--merge needs a file with `applications:`; this one is a single application."
        )
    path = DEPLOYMENTS if given.is_single else APPLICATIONS + ("?merge=true" if merge else "")
    client = control_plane(address)
    try:
        headers = client.put(path, given.document, given.headers)
    except InvalidConfigError as error:
        raise explain(error) from error
    for sentence in json.loads(headers.get(NOT_APPLIED, "[]")):
        print(f"Warning: {sentence}", file=sys.stderr, flush=True)
    states = dict.fromkeys(given.names, "DEPLOYING")
    seconds: dict[str, Any] = {}
    if wait:
        apps = follow_deploy(client, given.names, show, timeout_s=timeout_s, screen=out)
        states = {name: app["status"] for name, app in apps.items()}
        seconds = seconds_of(apps)
    elif not as_json:
        print(SENT)
    if as_json:
        print_json({"applications": states, **seconds})


def from_file(
    name: str, arguments: Sequence[str], beside: dict[str, Any], show: Callable[[str], None]
) -> Submission:
    """Return what the config file `name` asks for.

    Args:
        beside: options that mean nothing with a file, as they were given; they are passed over with a warning.

    Raises:
        InvalidConfigError: the file is wrong, or there are arguments.
    """
    if arguments:
        raise InvalidConfigError("Application arguments cannot be specified for a config file.")
    show(f"Deploying from config file: '{name}'.")
    for option, value in beside.items():
        if value:
            print(f"Warning: {option} is ignored with a config file.", file=sys.stderr, flush=True)
    given = read_submission(name)
    given.tell_notice()
    return given
